"""`effdl explain`: every key with default, type, range and meaning, of our choices and of others'."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from effdl import commands, config
from effdl.config.explain import explain, text
from effdl.errors import ConfigError


def rows(*asked: str) -> dict[str, dict[str, str]]:
    return {row["key"]: row for told in explain(asked) for row in told["keys"]}


def test_keys_of_a_choice_have_its_own_defaults_and_the_ranges_that_are_checked() -> None:
    found = rows("method=dll")
    node = OmegaConf.to_container(config.compose(["method=dll"]).method)
    assert isinstance(node, dict) and set(found) == {f"method.{key}" for key in node if key != "_target_"}
    assert found["method.epochs"]["default"] == "5" and rows("method=segmentwise")["method.epochs"]["default"] == "10"
    assert found["method.epochs"]["takes"] == "whole number from 1 or list of: whole number from 1, at least 1"
    assert found["method.input_dropout"]["takes"] == "number from 0 below 1"
    assert found["method.patience"]["takes"] == "whole number from 1 or null" and found["method.patience"]["default"] == "null"
    assert found["method.choose"]["takes"] == "validation | last" and found["method.drop_raw_input"]["takes"] == "true or false"
    assert found["method.decision"]["default"] == "pool" and "method/decision=auxiliary|" in found["method.decision"]["takes"]
    assert found["method.epochs"]["says"].startswith("per segment and round, one number or a list whose last entry")
    assert found["method.epochs"]["says"].endswith("300")  # where the next key's begins
    same = [found[f"method.{key}"]["says"] for key in ("lr_factor", "weight_decay_factor")]
    assert same[0] == same[1] and same[0].startswith("segment i, from 0")


def test_one_key_is_told_of_the_choice_beside_it_or_of_the_default() -> None:
    assert list(rows("method.epochs")) == ["method.epochs"] and rows("method.epochs")["method.epochs"]["default"] == "5"
    assert rows("dataset.batch_size")["dataset.batch_size"]["says"] == "samples a step"  # of a class that it extends
    assert list(rows("method.decision.size", "optimizer.schedule.milestones", "optimizer/schedule=multi_step"))[:2] == [
        "method.decision.size",
        "optimizer.schedule.milestones",
    ]
    assert rows("seed")["seed"]["default"] == "0" and "epoch, segment or run" in rows("test_every")["test_every"]["says"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("method=dlll", "method=dlll: unknown choice; there are backprop, boost_resnet, decoupled_greedy, dfa"),
        ("method", "method: say which, as method=backprop; there are"),
        ("method.tries", "method.tries: not of method=dll; method=platonic has it"),
        ("method.nothing", "method.nothing: unknown key; there are checkpoint, choose, cut"),
        ("nothing", "nothing: unknown key; there are"),
        ("metod=dll", "metod=dll: unknown key; there are arch, augment"),
        (
            "optimizer.schedule.milestones",
            "optimizer.schedule.milestones: not of optimizer/schedule=none; optimizer/schedule=multi",
        ),
        ("metod.epochs", "metod.epochs: unknown key"),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(asked: str, words: str) -> None:
    with pytest.raises(ConfigError) as said:
        explain([asked])
    assert str(said.value).startswith(words)


def test_a_plugins_choice_is_told_by_its_docstring_or_its_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "filter").mkdir(parents=True)
    (tmp_path / "configs" / "filter" / "own_few.yaml").write_text(
        "# Few.\n_target_: own_few.OwnFew\nkept: 3 # so many a class\nby: [a]\n"
    )
    (tmp_path / "own_few.py").write_text(
        "from effdl.filters.random_subset import RandomSubset\nfrom effdl.setting import Count, setting\n\n\n"
        '@setting\nclass OwnFew(RandomSubset):\n    """Few.\n\n    by: names.\n    """\n\n'
        "    kept: Count = 1\n    by: tuple[str, ...] = ()\n"
    )
    monkeypatch.setenv("EFFDL_PLUGINS", str(tmp_path))
    found = rows("filter=own_few")
    assert {key: tuple(found[f"filter.{key}"].values())[1:] for key in ("kept", "by")} == {
        "kept": ("3", "whole number from 1", "so many a class"),
        "by": ("[a]", "list of: text", "names"),
    }


@pytest.mark.parametrize("width", [60, 128])
def test_the_table_is_as_wide_as_the_terminal(width: int) -> None:
    shown = text(explain(["method=platonic", "filter=none"]), width).splitlines()
    assert shown[0].startswith("method=platonic: ") and any(line.startswith("filter=none: ") for line in shown)
    assert max(len(line) for line in shown if line.startswith(" " * 6)) <= width


def test_the_command_prints_a_table_or_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    for more, read in ((["--json"], json.loads), ([], str)):
        with pytest.raises(SystemExit) as stopped:
            commands.main(["explain", "method.epochs", *more])
        told: Any = read(capsys.readouterr().out)
        assert not stopped.value.code and ("whole number from 1" in told if more == [] else told[0]["choice"] == "method=dll")


def test_every_choice_can_be_explained() -> None:
    asked = [f"{group}={name}" for group in config.GROUPS for name in config.choices(group)]
    found = explain(asked)
    assert [told["choice"] for told in found] == asked
    assert [row["key"] for told in found for row in told["keys"] if not row["takes"] or row["takes"] == "anything"] == []
