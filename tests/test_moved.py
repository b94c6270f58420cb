"""Classes that have moved are still found by old configs, records and ledgers."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from effdl import config
from effdl.config.moved import MOVED, today
from effdl.records.carry import difference

LEDGERS = Path(__file__).parents[1] / "results" / "ledger"


def targets(node: object) -> set[str]:
    if isinstance(node, dict):
        return {v for k, v in node.items() if k == "_target_"} | {t for v in node.values() for t in targets(v)}
    return {t for v in node for t in targets(v)} if isinstance(node, list) else set()


def test_every_class_that_a_ledger_names_is_found_today_and_its_name_is_the_same() -> None:
    named = {t for path in LEDGERS.glob("*.jsonl") for line in path.read_text().splitlines() for t in targets(json.loads(line))}
    assert any(target.rpartition(".")[0] in MOVED for target in named), "the table is for places that stand somewhere"
    for target in sorted(named):
        node = config.spec.locate(target, "here")
        assert f"{node.__module__}.{node.__qualname__}" == today(target) and node.__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize("old", MOVED)
def test_a_config_of_before_builds_what_it_built_and_a_record_of_it_is_the_same(old: str) -> None:
    asked = config.compose(["method=platonic", "arch=mlp", "method/solver=ridge"])
    spec = config.build(asked)
    before = OmegaConf.to_container(asked, resolve=True)
    assert isinstance(before, dict)
    before["method"]["solver"]["_target_"] = f"{old}.Ridge"
    assert config.build(OmegaConf.create(before)) == spec
    now = config.dump(spec)
    stored = json.loads(json.dumps(now).replace(MOVED[old], old))
    assert stored != now and list(difference(now, stored)) == []
    stored["method"]["solver"]["_target_"] = f"{old}.Pinv"
    assert len(list(difference(now, stored))) == 1


@pytest.mark.parametrize(
    ("choice", "old"), [("linear_mse", {"low": -1.0, "high": 2.0}), ("tanh_mse", {"low": -1.0, "high": 1.0})]
)
def test_two_old_fields_of_targets_are_one_list(choice: str, old: dict[str, float]) -> None:
    spec = config.build(config.compose([f"objective={choice}", f"objective.targets=[{old['low']},{old['high']}]"]))
    before = config.dump(spec)
    before["objective"] = {"_target_": before["objective"]["_target_"], **old}
    assert config.build({**before, "logger": None}, checked=False).objective == spec.objective
    assert list(difference(config.dump(spec), before)) == []
