"""Filters in whole runs: resumed, with every method, in plans, and what does not go together."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from filtering import CASES, FILTERS, METHODS, fit, moment, noisy
from safetensors.torch import load_file

from effdl.config import build, build_choice, choices, compose
from effdl.datasets.batch import Batch
from effdl.datasets.split import Samples
from effdl.errors import ConfigError, Diverged, FitFailed
from effdl.filters.el2n import El2n
from effdl.filters.filter import Filter
from effdl.filters.info_batch import InfoBatch
from effdl.filters.k_filter import KFilter
from effdl.filters.loss_filter import LossFilter
from effdl.filters.selective_backprop import SelectiveBackprop
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.training.optim import Sgd


@pytest.mark.parametrize(("made", "name"), CASES, ids=str)
def test_test_labels_change_nothing(made: Filter, name: str) -> None:
    results = []
    for y in (torch.arange(30) % 3, torch.zeros(30, dtype=torch.long)):
        test = Samples(tiny.problem(val=30).val_tensors().x, y)
        network, run = fit(made, METHODS[name], noisy(), test=test, objective=SoftmaxCe())
        lines = [{k: v for k, v in e.items() if not k.startswith(("time", "test"))} for e in run.lines]
        results.append([network.state_dict(), lines])
    assert tiny.same(*results)


def chosen(made: Filter) -> list[str]:
    said = [f"filter.{field.name}={getattr(made, field.name)}" for field in fields(made)]  # type: ignore[arg-type]
    return [f"filter={made.snake_name()}", *said]


@pytest.mark.parametrize("made", FILTERS, ids=str)
def test_a_run_is_killed_and_resumed_as_if_it_had_been_left_alone(
    made: Filter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["arch=mlp", "arch.hidden=[8,8]", "method.epochs=3", "dataset.train_limit=200", "test_every=run"]
    spec = build(compose([*quick, *chosen(made)]))
    assert spec.filter == made
    alone = carry_out(spec, tmp_path / "alone")
    killed = tiny.resumed(spec, tmp_path / "killed", monkeypatch, 2, 5)
    for key in ("data/train_samples", "network/sha256", "test/acc", "val/acc", "filter/kept_share", "filter/segment_shares"):
        assert killed["summary"][key] == alone["summary"][key]
    lists = [Path(one["path"]) / "filter.safetensors" for one in (alone, killed)]
    assert [path.is_file() for path in lists] == [bool(made.sees == "index" and not isinstance(made, InfoBatch))] * 2
    if lists[0].is_file():
        assert tiny.same(*map(load_file, lists))
        assert "filter.safetensors" in json.loads((Path(alone["path"]) / "summary.json").read_text())["files"]


BAD: dict[str, tuple[list[str], str]] = {
    "late list": (["filter=k_filter", "filter.start=3"], r"^filter\.start is of filter\.when=during"),
    "chunks twice": (["filter=k_filter", "filter.when=during", "filter.within=chunk"], r"^filter\.within is of"),
    "too many neighbours": (["filter=edited_neighbours", "filter.k=1200"], r"^filter\.k=1200: of 1200 training samples"),
    "no k": (["filter=k_filter", "filter.k=0"], r"^filter\.k: "),
    "all dropped": (["filter=loss_filter", "filter.drop=1"], r"^filter\.drop: "),
    "too much dropped": (["filter=loss_filter", "filter.drop=0.9999"], r"^filter\.drop: 0\.9999 of \d+ training"),
    "no classes": (["filter=k_filter", "dataset=sine", "objective=linear_mse", "arch=mlp"], r"^filter: KFilter compares"),
    "other samples": (["filter=info_batch", "dataset=parity", "arch=mlp"], r"^filter: InfoBatch knows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_data_are_read(case: str) -> None:
    overrides, said = BAD[case]
    with pytest.raises(ConfigError, match=said) as found:
        build(compose(overrides))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("made", "method", "said"),
    [
        (LossFilter(), Backprop(epochs=2), r"^filter\.by=below: this method has one segment"),
        (El2n(epoch=2), Backprop(epochs=2), r"^filter\.epoch=2: a segment learns for 2 epochs"),
        (InfoBatch(), Segmentwise(epochs=2, partitions=2, together=True), r"^filter: InfoBatch is of segments that take turns"),
        (LossFilter(by="own"), Segmentwise(epochs=2, partitions=2, together=True), r"^filter\.by=own is of segments that take"),
    ],
    ids=str,
)
def test_what_does_not_go_with_a_training_is_one_line_before_it_begins(made: Filter, method: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fit(made, method, tiny.problem())


BELOW, SCALES = r"^filter\.by=below: this method has one segment", r"^filter: InfoBatch scales losses, of which the rule"
TURNS, OF_TURNS = r"is of segments that take turns", (El2n, InfoBatch, SelectiveBackprop)
PRESETS = {name for name in choices("method") if build_choice("method", name).snake_name() != name}
TAKING = [name for name in choices("method") if "filter" in build_choice("method", name).takes]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in PRESETS else n for n in TAKING])
def test_each_method_trains_on_what_each_filter_leaves_or_says_why_not(name: str) -> None:
    method = tiny.fitting(replace(build_choice("method", name), epochs=2))
    if getattr(method, "rounds", 1) > 1:
        method = replace(method, rounds=2)
    alone = len(method.training(noisy(), tiny.network_for(method), Run(0, Sgd(lr=0.05))).segments) == 1
    feedback, at_once = type(method).__name__ in ("Dfa", "Fa", "Usf"), getattr(method, "together", False) and not alone
    for made in FILTERS:
        refused = [
            (made == InfoBatch(full=0.2) and feedback, SCALES),
            (made == LossFilter(by="below") and alone, BELOW),
            (at_once and (isinstance(made, OF_TURNS) or getattr(made, "by", None) == "own"), TURNS),
        ]
        if why := next((line for applies, line in refused if applies), None):
            with pytest.raises(ConfigError, match=why):
                fit(made, method, noisy(), tiny.network_for(method))
            continue
        network, run = fit(made, method, noisy(), tiny.network_for(method))
        counts = [line["data/samples"] for line in run.lines if "train/loss" in line]
        assert 0 < sum(counts) < 40 * len(counts) and run.summary(network, [])["data/train_samples"] == sum(counts)
        assert not network.training and all(bool(weight.isfinite().all()) for weight in network.state_dict().values())


@pytest.mark.parametrize("when", ["before", "during"])
def test_features_that_are_no_numbers_end_the_run_in_one_line(when: Any) -> None:
    at = moment(run={}, segment=1, targets=torch.arange(40) % 3, inputs=lambda: torch.full((40, 2), torch.nan), say=print)
    made = KFilter(k=2, when=when)
    chunk = Batch(torch.full((40, 2), torch.nan), at.targets, torch.arange(40))
    with pytest.raises(FitFailed, match=r"^filter: segment 2 gets features that are NaN or infinite: ") as found:
        made.begin(at) if when == "before" else made.choose(chunk, 0, torch.Generator(), at)
    assert "\n" not in str(found.value)


def test_outputs_that_are_no_numbers_are_no_errors_to_go_by() -> None:
    y = torch.arange(40) % 3
    batch = Batch(torch.rand(40, 2), y, torch.arange(40))
    at = moment(targets=y, epoch=1, batches=lambda: iter([batch]), outputs=lambda b: torch.full((40, 3), torch.nan))
    with pytest.raises(Diverged, match=r"^filter: outputs of segment 1 are NaN or infinite; "):
        El2n(epoch=1).begin(at)


def test_a_plan_reckons_with_what_loss_filtering_leaves_each_segment() -> None:
    costs: list[Any] = []
    run = Run(0, Sgd(lr=0.05), filter=LossFilter(drop=0.5))
    run.expect = lambda expected, keep_bytes: costs.extend(expected)  # type: ignore[method-assign]
    Segmentwise(epochs=1).fit(tiny.problem(train=64), tiny.chain(), run)
    assert [cost.steps for cost in costs] == [8, 4, 2]
