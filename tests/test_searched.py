"""Cells whose values are searched first: the runs are the best trial's, on seeds that chose nothing; without a search, none."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from declared import declare

from effdl.errors import ConfigError, RecordError, SearchMissing
from effdl.records.report import Silent, untracked
from effdl.reproduce import artefact, conduct, declared, ledger, searched
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.console import Plan
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import judged
from effdl.reproduce.report import report
from effdl.reproduce.searched import at_end
from effdl.reproduce.sought import MISSING, SEED
from effdl.reproduce.survey import select, survey

BASES = {"data": ["few", "many"], "method": "base"}
LR = {"optimizer.lr": "tag(log, interval(1e-3, 1))"}
SEARCH = {"where": {"method": "base"}, "params": LR, "trials": 3, "sampler": "random"}
SEARCHES = {"scales/smoke/searches": [SEARCH]}


def toy(folder: Path, **changes: Any) -> Declaration:
    return declare(folder, {"scales/smoke/searches": [{**SEARCH, **changes}]})


def searched_for(declaration: Declaration, root: Path, only: str | None = None) -> None:
    searched.carry_out(declaration, "smoke", select(declaration.all_cells("smoke"), only), root, 1, lambda left: Silenced())


class Silenced(Silent):
    def __enter__(self) -> "Silenced":
        return self

    def __exit__(self, *exc: object) -> None: ...


def run_all(declaration: Declaration, root: Path) -> None:
    from effdl.records.carry import carry_out

    for one in survey(declaration, "smoke", root):
        for spec in one.left:
            carry_out(spec, root)


def by_cell(declaration: Declaration, root: Path) -> dict[str, Any]:
    return {one.cell.name: one for one in survey(declaration, "smoke", root)}


def told(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "searches").glob("*/search.json"))]


def test_a_cell_has_no_runs_before_its_search(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    found = by_cell(declaration, root)
    assert {name: one.reason for name, one in found.items()} == {
        "data=few,method=base": MISSING,
        "data=few,method=ours": None,
        "data=many,method=base": MISSING,
        "data=many,method=ours": None,
    }
    base = found["data=few,method=base"].cell
    with pytest.raises(SearchMissing, match=r"^data=few,method=base: its search is missing; effdl run toy --scale smoke"):
        searched.values(declaration, "smoke", base, root)
    with pytest.raises(SearchMissing):
        artefact.specs(base)
    ran_of_others = [line for line in ledger.collect(declaration, "smoke", root) if line["runs"] or line.get("reason")]
    assert {line["cell"]: line["reason"] for line in ran_of_others} == {
        "data=few,method=base": MISSING,
        "data=many,method=base": MISSING,
    }
    words = {one.verdict.word for one in judged(declaration, "smoke", frame(declaration, "smoke", ran_of_others))}
    assert words == {MISSING} or words == {"not run"}


def test_runs_are_the_best_trials_on_seeds_that_chose_nothing(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    searched_for(declaration, root)
    few, many = told(root)
    assert {few["trials"], many["trials"]} == {3} and {few["epochs"], many["epochs"]} == {3}
    found = by_cell(declaration, root)
    limits = {one["best"]["overrides"].count("dataset.train_limit=256"): one for one in (few, many)}
    trials = {json.loads(path.read_text())["config"]["seed"] for path in (root / "runs").glob("*/spec.json")}
    assert len(trials) == 1
    for name, told_of in (("data=few,method=base", limits[0]), ("data=many,method=base", limits[1])):
        specs = found[name].specs
        assert {spec.optimizer.lr for spec in specs} == {told_of["best"]["params"]["optimizer.lr"]}
        assert not trials & {spec.seed for spec in specs}
    assert {spec.optimizer.lr for spec in found["data=few,method=ours"].specs} != {few["best"]["params"]["optimizer.lr"]}


def test_one_cell_asks_for_its_own_search_alone_and_a_search_is_made_once(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    searched_for(declaration, root, "data=few,method=ours")
    assert not (root / "searches").exists()
    searched_for(declaration, root, "data=few")
    (first,) = told(root)
    searched_for(declaration, root)
    assert len(told(root)) == 2 and first in told(root)
    before = {path: path.stat().st_mtime_ns for path in (root / "searches").glob("*/*")}
    searched_for(declaration, root)
    assert before == {path: path.stat().st_mtime_ns for path in (root / "searches").glob("*/*")}


def test_equal_questions_are_one_search(tmp_path: Path) -> None:
    content = {"axes/data/many/set": {"dataset.train_limit": 128}, "scales/smoke/searches": [SEARCH]}
    declaration, root = declare(tmp_path, content), tmp_path / "results"
    searched_for(declaration, root)
    assert len(told(root)) == 1


def test_ledger_has_the_search_and_cells_compose_from_it_alone(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    searched_for(declaration, root)
    run_all(declaration, root)
    ledger.publish(declaration, "smoke", root, lambda text: None)
    lines = [line for line in ledger.read(root, "toy") if "search" in line]
    assert len(lines) == 2
    few = next(line for line in lines if line["cell"] == "data=few,method=base")["search"]
    assert few["asked"]["params"] == LR and few["asked"]["sampler"] == "random"
    assert few["trials"] == 3 and few["epochs"] == 3
    assert set(few["best"]) == {"number", "value", "params", "run_id"} and few["metric"] == "val/acc"
    before = {name: one.specs for name, one in by_cell(declaration, root).items()}
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root / "ledger", elsewhere / "ledger")
    assert {name: one.specs for name, one in by_cell(declaration, elsewhere).items()} == before
    for line in ledger.read(root, "toy"):
        if line["runs"]:
            assert ledger.run_ids(line) == [run["run_id"] for run in line["runs"]]
    assert len(ledger.read(root, "toy")) == 6
    ledger.publish(declaration, "smoke", elsewhere, lambda text: None)  # nothing is here, and nothing goes
    assert ledger.read(elsewhere, "toy") == ledger.read(root, "toy")
    text = report(declaration, "smoke", ledger.read(root, "toy"))
    asked = text.split("## What was searched first")[1].split("##")[0]
    assert "3 trials, 3 epochs in all" in asked and "optimizer.lr" in asked and "few, base" in asked


@pytest.mark.parametrize(
    ("asked", "value", "told"),
    [
        ("0.003,0.01,0.03,0.1", 0.1, ", the largest asked"),
        ("0.003,0.01,0.03,0.1", 0.003, ", the smallest asked"),
        ("0.003,0.01,0.03,0.1", 0.03, ""),
        ("sgd,adam", "sgd", ""),
        ("tag(log, interval(1e-4, 1))", 0.7, ", the largest asked"),  # of four decades the last fifth of one
        ("tag(log, interval(1e-4, 1))", 0.6, ""),
        ("tag(log, interval(1e-4, 1))", 1.5e-4, ", the smallest asked"),
        ("interval(0, 1)", 0.96, ", the largest asked"),
        ("interval(0, 1)", 0.5, ""),
    ],
)
def test_a_best_value_at_an_end_of_what_was_asked_says_so(asked: str, value: Any, told: str) -> None:
    assert at_end(asked, value) == told


def test_published_search_stands_where_another_was_made_here(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    searched_for(declaration, root)
    run_all(declaration, root)
    ledger.publish(declaration, "smoke", root, lambda text: None)
    before = ledger.read(root, "toy")
    for path in (root / "searches").glob("*/search.json"):
        content = json.loads(path.read_text())
        content["best"]["params"]["optimizer.lr"] = 0.5
        path.write_text(json.dumps(content))
    assert all(spec.optimizer.lr != 0.5 for one in survey(declaration, "smoke", root) for spec in one.specs)
    ledger.publish(declaration, "smoke", root, lambda text: None)
    assert ledger.read(root, "toy") == before


@pytest.mark.parametrize(
    "other",
    [
        {"trials": 4},
        {"params": {"optimizer.lr": "tag(log, interval(1e-4, 1))"}},
        {"set": {"method.epochs": 2}},
        {"sampler": "tpe"},
        {"pruner": "median"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_question_is_another_search(other: Mapping[str, Any], tmp_path: Path) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    searched_for(declaration, root, "data=few")
    run_all(declaration, root)
    ledger.publish(declaration, "smoke", root, lambda text: None)
    changed = toy(tmp_path, **other)
    assert by_cell(changed, root)["data=few,method=base"].reason == MISSING
    assert declared.fixed(declaration, "smoke", None) != declared.fixed(changed, "smoke", None)
    said: list[str] = []
    ledger.publish(changed, "smoke", root, said.append)
    assert not any("search" in line for line in ledger.read(root, "toy"))
    assert any("its search is no longer declared; dropped" in text for text in said)


def test_trials_alone_have_what_is_set_for_them(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path, set={"method.epochs": 2}), tmp_path / "results"
    searched_for(declaration, root, "data=few")
    (found,) = told(root)
    assert found["epochs"] == 6
    assert {spec.method.epochs for spec in by_cell(declaration, root)["data=few,method=base"].specs} == {1}


def test_floor_has_the_values_of_its_baseline(tmp_path: Path) -> None:
    floors = {"scales/smoke/floors": [{"baseline": {"method": "base"}, "reaches": "longer"}]}
    declaration, root = declare(tmp_path, {**SEARCHES, **floors}), tmp_path / "results"
    searched_for(declaration, root, "data=few,method=base")
    found = by_cell(declaration, root)
    base, longer = (found[name].specs for name in ("data=few,method=base", "data=few,method=base,floor=longer"))
    assert {spec.optimizer.lr for spec in base} == {spec.optimizer.lr for spec in longer}
    assert {spec.method.epochs for spec in longer} == {3} and len(told(root)) == 1


def test_seeds_of_fresh_evidence_and_of_its_search_are_apart(tmp_path: Path) -> None:
    for evidence in ("fresh", "first_looks"):
        floors = [{"baseline": {"method": "base"}, "reaches": "longer"}]
        changes = {**SEARCHES, "scales/smoke/floors": floors, "scales/smoke/evidence": evidence}
        cells = [cell for cell in declare(tmp_path, changes).all_cells("smoke") if cell.search]
        seeds = {seed for cell in cells for seed in range(cell.first, cell.first + cell.seeds)}
        assert {cell.search.fixed[-1] for cell in cells if cell.search} == {f"seed={SEED}"}
        assert len(cells) == 4 and SEED not in seeds


def test_a_plan_says_what_the_searches_take(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    planned = Plan(declaration, "smoke", survey(declaration, "smoke", root, "data=few"), 1, untracked)
    text = planned.text()
    assert "data=few,method=base" in text and MISSING in text
    assert "1 search comes first: 3 trials" in text
    assert planned.to_json()["cells"]["data=few,method=base"]["reason"] == MISSING
    waiting = planned.to_json()["after"]
    assert waiting["runs"] == 2 and waiting["time/estimate_s"] > 0 and "2 runs follow, timed with the defaults" in text
    searched_for(declaration, root, "data=few")
    planned = Plan(declaration, "smoke", survey(declaration, "smoke", root, "data=few"), 1, untracked)
    assert planned.left == 4 and planned.to_json()["after"]["runs"] == 0 and "follow" not in planned.text()


def test_a_plan_without_data_says_why_it_cannot_tell_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDL_DATA", str(tmp_path / "nowhere"))
    declaration = declare(tmp_path, {**SEARCHES, "axes/data/few/set": {"dataset": "mnist"}})
    planned = Plan(
        declaration, "smoke", survey(declaration, "smoke", tmp_path / "results", "data=few,method=base"), 1, untracked
    )
    assert "What follows on searches is not known: " in planned.text() and "0 runs left" not in planned.text()


def test_run_makes_search_runs_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declaration, root = toy(tmp_path), tmp_path / "results"
    searched_for(declaration, root)
    code = conduct.conduct(declaration, "smoke", survey(declaration, "smoke", root), root, 1)
    out = capsys.readouterr().out
    assert code == 0 and "What was searched first" in out and "search missing" not in out


def test_a_search_without_any_result_is_no_search(tmp_path: Path) -> None:
    declaration, root = toy(tmp_path, params={"optimizer.lr": "choice(1e30, 2e30)"}, trials=2), tmp_path / "results"
    with pytest.raises(RecordError, match=r"^data=few,method=base: none of 2 trials of its search came to an end"):
        searched_for(declaration, root)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"params": {}}, "scales.smoke.searches.0.params: names nothing"),
        ({"params": {"optimizer.lr": 0.1}}, "scales.smoke.searches.0.params.optimizer.lr: "),
        ({"params": {"optimizer.lr": "0.1"}}, "scales.smoke.searches.0.params: optimizer.lr: is one value"),
        ({"params": {"optimizer.lr": "interval(1,"}}, "scales.smoke.searches.0.params: "),
        ({"sampler": "tp"}, "scales.smoke.searches.0.sampler: "),
        ({"where": {"methode": "base"}}, "scales.smoke.searches.0.where.methode: no such axis"),
        ({"metric": "test/acc"}, "scales.smoke.searches.0.metric: test/acc is of the test split"),
    ],
)
def test_a_wrong_search_is_named(search: Mapping[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        toy(tmp_path, **search)
    assert told in str(error.value)
