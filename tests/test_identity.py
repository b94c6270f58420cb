"""What a run's name depends on, and what it does not."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command import made_old
from omegaconf import DictConfig

from effdl.config import (
    Spec,
    build,
    compose,
    run_id,
    run_ids,
)
from effdl.datasets.digits import Digits
from effdl.datasets.idx import Idx
from effdl.datasets.toy import Sine
from effdl.errors import RecordError
from effdl.methods.backprop import Backprop
from effdl.methods.platonic import Platonic
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import LinearMse
from effdl.records import carry
from effdl.records.carry import carry_out
from effdl.training.decision import Pool
from effdl.training.optim import Sgd


@cache
def composed(*overrides: str) -> DictConfig:
    return compose(overrides)


def spec(*overrides: str) -> Spec:
    return build(composed(*overrides))


def name_of(*overrides: str, data: str = "data") -> str:
    return run_id(spec(*overrides), data)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.05",
        "arch.widths=[32,64,128]",
        "method.epochs=5",
        "method.decision.size=1",
        "method/decision=pool",
        "dataset.val_size=242",
        "test_every=epoch",
        "hardware=hardware",
        "hardware=cpu",
        "hardware=auto",
        "results=/elsewhere",
        "workers=7",
        "augment=none",
        "filter=none",
        "probe=none",
        "logger=none",
    ],
)
def test_a_runs_name_does_not_depend_on_spelled_out_defaults_places_or_workers(override: str) -> None:
    assert name_of(override) == name_of()


def test_names_of_many_seeds_are_those_of_each_by_itself() -> None:
    for overrides in ((), ("method=platonic", "arch=mlp"), ("dataset=two_spirals", "arch=mlp", "objective=linear_mse")):
        one = spec(*overrides)
        assert run_ids(one, "data", [0, 7, 1_234_567]) == [
            run_id(replace(one, seed=seed), "data") for seed in (0, 7, 1_234_567)
        ]


def test_a_preset_that_says_only_defaults_has_the_name_of_its_class() -> None:
    assert name_of("arch=vgg13") == name_of("arch=vgg") == name_of("arch=vgg19", "arch.depth=13")


def test_a_runs_name_does_not_depend_on_where_the_data_lie_or_come_from() -> None:
    made = replace(spec(), dataset=Idx())
    for dataset in (Idx(root="/elsewhere"), Idx(download=True)):
        assert run_id(replace(made, dataset=dataset), "data") == run_id(made, "data")


CHANGES = [
    "seed=1",
    "test_every=run",
    "test_every=segment",
    "dataset.val_size=100",
    "dataset.train_limit=1000",
    "dataset.batch_size=32",
    "arch=mlp",
    "arch.widths=[32,64]",
    "arch.size=16",
    "arch=vgg13",
    "arch=vgg13_bn",
    "arch=vgg19",
    "arch=vgg19_bn",
    "objective=linear_mse",
    "optimizer=adamw",
    "optimizer.lr=0.1",
    "optimizer.weight_decay=8e-5",
    "optimizer.nesterov=true",
    "optimizer/schedule=multi_step",
    "method=backprop",
    "method.epochs=11",
    "method.epochs=[10,11]",
    "method.segment_size=2",
    "method/decision=vgg",
    "method.decision.size=2",
    "method.choose=last",
    "method.patience=3",
    "method.keep_features_mib=0",
    "augment=standard",
    "augment={_target_:effdl.augment.standard.Standard,crop:2}",
    "filter=random_subset",
    "filter={_target_:effdl.filters.random_subset.RandomSubset,share:0.25}",
    "probe=stable_rank",
    "+probe.stable_rank={_target_:effdl.probes.stable_rank.StableRank,every:2}",
    "hardware.threads=1",
    "hardware=gpu",
    "hardware.precision=bf16",
    "hardware.layout=channels_last",
    "hardware.compile=true",
]


def test_a_runs_name_changes_with_everything_that_its_numbers_hang_on() -> None:
    names = [name_of(), name_of(data="other data"), *(name_of(change) for change in CHANGES)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in names)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("method.epochs=10",), "9304667963df23fa"),
        (
            ("method=backprop", "arch=mlp", "optimizer=adamw", "test_every=segment", "seed=3"),
            "8a171fa6c05661f0",
        ),  # of Backprop 2
        (
            ("method=dll_regularized", "arch.size=16", "hardware=hardware", "hardware.device=cuda", "test_every=run"),
            "9f3fce7be76ffa80",
        ),
        (
            (
                *("dataset=sine", "arch=mlp", "objective=linear_mse", "hardware.threads=2"),
                *("method/decision=vgg", "method.epochs=10", "seed=5"),
            ),
            "56adfe000df116ce",
        ),
    ],
)
def test_names_given_before_there_were_filters_and_probes_are_what_they_were(
    overrides: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cls in (Segmentwise, Sine):
        monkeypatch.setattr(cls, "numerics_version", 1)  # their own then
    assert name_of(*overrides) == expected  # worked out by commit 67ba481


@pytest.mark.parametrize("cls", [Segmentwise, Digits, Sgd, Pool])
def test_a_new_numerics_version_is_a_new_name_even_of_a_nested_default(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    before, other = (
        name_of(),
        name_of("method=backprop", "optimizer=adamw", "dataset=sine", "arch=mlp", "objective=linear_mse"),
    )
    monkeypatch.setattr(cls, "numerics_version", cls.numerics_version + 1)  # type: ignore[attr-defined]
    assert name_of() != before
    after = name_of("method=backprop", "optimizer=adamw", "dataset=sine", "arch=mlp", "objective=linear_mse")
    assert after == other  # runs without that class keep their names


@pytest.mark.parametrize(
    ("overrides", "another"),
    [
        (("method.beta=1e8",), True),
        (("method.beta=1e4",), True),
        (("method.projection=weighted_platonic_pca",), True),
        (("method.beta=1e8", "method.precision=float64"), False),
        (("method.beta=1e8", "method.pca=covariance"), True),
        (("method.pca=covariance", "method.precision=float64"), True),
        (("method.pca=covariance", "method.projection=deterministic"), True),
        (("method.pca=covariance", "method.projection=random"), False),
        (("method.beta=1e8", "method.projection=deterministic"), False),
    ],
)
def test_a_version_that_reaches_some_values_alone_renames_those_alone(
    overrides: tuple[str, ...], another: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = ("method=platonic", "method.projection=platonic_pca", "dataset=digits", "arch=mlp", "arch.hidden=[40]", *overrides)
    now = name_of(*of)
    monkeypatch.setattr(Platonic, "version", lambda self: 1)
    assert (name_of(*of) != now) == another


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Backprop().epochs = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        spec().seed = 3  # type: ignore[misc]
    assert LinearMse() == LinearMse() and LinearMse(targets=(0.0, 2.0)) != LinearMse()


@pytest.mark.parametrize(
    ("stored", "asked", "said"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b=1, asked for is 2"]),
        ({"a": None}, {"a": {"_target_": "m.C", "b": 1}}, ["a=None, asked for is m.C"]),
        ({"a": {"_target_": "m.C", "b": 1}}, {"a": None}, ["a=m.C, asked for is None"]),
        ({"a": {"b": 1}}, {"a": {"b": 1, "new": 2}, "later": 3}, []),
        ({"a": [1, 2], "b": 0.5}, {"a": [1, 3], "b": 0.5}, ["a=[1, 2], asked for is [1, 3]"]),
    ],
)
def test_difference_of_two_configs_names_what_both_have_and_not_alike(
    stored: dict[str, Any], asked: dict[str, Any], said: list[str]
) -> None:
    assert list(carry.difference(asked, stored)) == said


def test_a_default_that_changed_without_a_new_version_is_found_on_the_record(tmp_path: Path) -> None:
    made = replace(
        spec("method=backprop", "method.epochs=1", "arch=mlp", "arch.hidden=[4]", "hardware.threads=1"), test_every="run"
    )
    done = carry_out(made, tmp_path)
    assert done["status"] == "finished" and carry_out(made, tmp_path) == done
    record = tmp_path / "runs" / done["run_id"] / "spec.json"
    made_old(record.parent)
    stored = json.loads(record.read_text())
    stored["config"]["optimizer"]["momentum"] = 0.8  # what the default was when this record was made
    record.write_text(json.dumps(stored))
    with pytest.raises(RecordError, match=r"its record says optimizer\.momentum=0\.8, asked for is 0\.9") as error:
        carry_out(made, tmp_path)
    assert "numerics_version" in str(error.value) and "\n" not in str(error.value)
    stored["config"]["optimizer"]["momentum"] = 0.9
    stored["config"]["dataset"].pop("train_limit")  # a field that is newer than the record
    record.write_text(json.dumps(stored))
    assert carry_out(made, tmp_path) == done
