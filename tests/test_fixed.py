"""Claims and floors count if they were committed before their runs."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from declared import PROVENANCE, REMOVED, declare, ran

from effdl.errors import RecordError
from effdl.records import carry
from effdl.reproduce import ledger
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.report import report

ROOT = Path(__file__).parents[1]
Line = dict[str, Any]

FRESH = {"scales/smoke/evidence": "fresh"}
FLOOR = {"baseline": {"method": "base"}, "reaches": "longer"}

# Declarations and the commits that they were fixed in.


class Repository:
    """A git repository that holds the toy's declaration, and a results folder; runs say that they were made at its commit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder / "repository", folder / "results"
        if not self.folder.exists():
            self.folder.mkdir()
            self.git("init", "--quiet")

    def run(self, changes: Mapping[str, Any] | None = None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(carry, "provenance", lambda: {**PROVENANCE, "commit": self.head})
            ran(self.declare(changes), self.root)

    def git(self, *args: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *args], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def commit(self, changes: Mapping[str, Any] | None = None) -> str:
        self.declare(changes)
        (self.folder / "other").write_text(str(changes))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "x")
        return self.head

    def lines(self, changes: Mapping[str, Any] | None = None) -> list[Line]:
        """What the runs of a declaration say."""
        return ledger.collect(self.declare(changes), "smoke", self.root)

    def declare(self, changes: Mapping[str, Any] | None = None) -> Declaration:
        """The toy whose seeds follow from its claims."""
        return declare(self.folder, {**FRESH, **(changes or {})})


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository whose runs were made at the commit of its declaration."""
    repository = Repository(tmp_path_factory.mktemp("once"))
    repository.commit()
    repository.run()
    return repository.folder.parent


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_runs_after_the_commit_of_their_declaration_are_fixed_by_it(repository: Repository) -> None:
    own = repository.commit()
    (repository.folder / "other").write_text("a later commit of something else")
    repository.git("commit", "--quiet", "--all", "-m", "y")
    assert repository.head != own
    repository.run()
    lines = repository.lines()
    assert {(line["declaration"]["commit"], line["provenance"]["commit"]) for line in lines} == {(own, repository.head)}
    text = report(repository.declare(), "smoke", lines)
    assert f"stood fixed in commit {own[:10]}, before these runs" in text and "after the runs" not in text


LATER: dict[str, tuple[Mapping[str, Any], str | None]] = {
    "a wider tolerance": ({"claims/level/tolerance": 5}, "claims.level"),
    "another value": ({"claims/level/value": -1}, "claims.level"),
    "another relation": ({"claims/level/relation": "<="}, "claims.level"),
    "other cells": ({"claims/level/where": {"data": "few"}}, "claims.level"),
    "another metric of all": ({"metric": "val/acc"}, "claims.level"),
    "a new claim": (
        {"claims/second": {"says": "s", "left": {"method": "ours"}, "each": ["data"], "relation": ">="}},
        "claims.second",
    ),
    "a place that was searched": ({"claims/level/fitted": [{"data": "few"}]}, "claims.level"),
    "a floor": ({"scales/smoke/floors": [FLOOR]}, "floors"),
    "a cell less": (
        {"axes/method/ours": REMOVED, "claims/level": REMOVED},
        "cell data=few,method=ours, cell data=many,method=ours, claims.level",
    ),
    "other settings of a cell": (
        {"axes/data/many/set": {"dataset.train_limit": 200}},
        "cell data=many,method=base, cell data=many,method=ours",
    ),
    "other settings of all": (
        {"rules": [{"where": {"data": "few", "method": "base"}, "set": {"method.epochs": 2}}]},
        "cell data=few,method=base",
    ),
    "fewer seeds": ({"rules": [{"where": {"data": "few", "method": "base"}, "seeds": 1}]}, "cell data=few,method=base"),
    "a new cell": ({"axes/data/again": {}}, None),
    "other labels": ({"axes/data/few": {"label": "few samples"}}, None),
    "other words": ({"claims/level/says": "better said", "claims/level/note": "n"}, None),
    "another title": ({"title": "Another", "notes": ["n"]}, None),
    "a floor of another scale": ({"scales/paper": {"about": "x", "floors": [FLOOR]}}, None),
}
# The first seed follows from claims and floors, so that runs of before are not those that are judged by them.
UNDECLARED = "**seeds that were not declared**"


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize(("changes", "named"), LATER.values(), ids=LATER)
def test_what_moved_after_the_runs_is_named_in_the_report_and_words_may_move(
    changes: Mapping[str, Any], named: str | None, committed: bool, ran_once: Path, tmp_path: Path
) -> None:
    repository = Repository(Path(shutil.copytree(ran_once, tmp_path / "copy")))
    if committed:
        repository.commit(changes)
    lines = repository.lines()
    text = report(repository.declare(changes), "smoke", lines)
    moved = [line for line in text.splitlines() if "after the runs" in line]
    assert moved == ([f"- **Declared or changed after the runs: {named}.**"] if named else [])
    others = named and any(word in f"{named} {changes}" for word in ("claims", "floors", "seeds"))
    assert (UNDECLARED in text) == bool(others and repository.declare(changes).artefact.claims)


@pytest.mark.parametrize(("evidence", "word"), [("exploratory", "**exploratory**"), ("first_looks", UNDECLARED)])
def test_runs_that_were_fresh_have_no_verdict_under_other_evidence(
    evidence: str, word: str, ran_once: Path, tmp_path: Path
) -> None:
    repository = Repository(Path(shutil.copytree(ran_once, tmp_path / "copy")))
    lines = repository.lines()
    assert word in report(repository.declare({"scales/smoke/evidence": evidence}), "smoke", lines)
    assert word not in report(repository.declare(), "smoke", lines)


def test_first_looks_hold_nothing_fixed_but_the_settings_of_their_cells(repository: Repository) -> None:
    looked = {"scales/smoke/evidence": "first_looks"}
    repository.commit(looked)
    repository.run(looked)
    lines = repository.lines(looked)
    wider = report(repository.declare({**looked, "claims/level/tolerance": 5}), "smoke", lines)
    assert "after the runs:" not in wider and UNDECLARED not in wider
    fewer = {"rules": [{"where": {"data": "few", "method": "base"}, "seeds": 1}]}
    assert "changed after the runs: cell data=few,method=base." in report(
        repository.declare({**looked, **fewer}), "smoke", lines
    )


def test_tolerance_that_was_only_in_the_working_tree_before_the_runs_was_not_fixed(repository: Repository) -> None:
    repository.commit()
    changes = {"claims/level/tolerance": 5}
    repository.run(changes)
    text = report(repository.declare(changes), "smoke", repository.lines(changes))
    assert "changed after the runs: claims.level." in text and UNDECLARED not in text


def test_declaration_in_no_commit_is_said_to_be_fixed_by_none(repository: Repository) -> None:
    repository.git("commit", "--quiet", "--allow-empty", "-m", "x")
    repository.run()
    text = report(repository.declare(), "smoke", repository.lines())
    assert "in no commit" in text and "changed after the runs" not in text and "fixed in commit" not in text


# What `publish` takes as fresh.


def copied(ran_once: Path, tmp_path: Path) -> Repository:
    return Repository(Path(shutil.copytree(ran_once, tmp_path / "copy")))


def published(repository: Repository, changes: Mapping[str, Any] | None = None) -> set[int]:
    """The seeds that stand in the ledger then."""
    ledger.publish(repository.declare(changes), "smoke", repository.root, lambda text: None)
    return {run["seed"] for line in ledger.read(repository.root, "toy") for run in line["runs"]}


def test_runs_after_the_commit_of_their_declaration_are_published_with_the_seeds_that_follow(
    ran_once: Path, tmp_path: Path
) -> None:
    repository = copied(ran_once, tmp_path)
    first = repository.declare().cells("smoke")[0].first
    assert first >= 1_000_000 and published(repository) == {first, first + 1}


def test_runs_are_refused_whose_declaration_stands_in_no_commit(repository: Repository) -> None:
    repository.git("commit", "--quiet", "--allow-empty", "-m", "x")
    repository.run()
    with pytest.raises(RecordError, match=r"stands in no commit: commit toy\.yaml"):
        published(repository)


def test_runs_are_refused_that_are_older_than_what_measures_them(ran_once: Path, tmp_path: Path) -> None:
    repository = copied(ran_once, tmp_path)
    (repository.folder / "toy.py").write_text("def measures(runs):\n    return runs.assign(better=1)\n")
    repository.commit()
    with pytest.raises(RecordError, match=r"its runs are older than measures of toy\.yaml"):
        published(repository)


def test_a_changed_claim_has_other_seeds_so_that_no_known_run_judges_it(ran_once: Path, tmp_path: Path) -> None:
    repository, changes = copied(ran_once, tmp_path), {"claims/level/tolerance": 5}
    repository.commit(changes)
    assert repository.lines(changes) == []
    with pytest.raises(RecordError, match="nothing has been run"):
        published(repository, changes)


def test_a_picked_seed_is_never_published(repository: Repository) -> None:
    """Runs of seeds that somebody chose lie among the records; the ledger takes those alone that follow."""
    repository.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carry, "provenance", lambda: {**PROVENANCE, "commit": repository.head})
        ran(declare(repository.folder, {"scales/smoke/evidence": "first_looks"}), repository.root)  # of seeds 0 and 1
    with pytest.raises(RecordError, match="nothing has been run"):
        published(repository)


def test_runs_that_stand_in_another_ledger_are_no_fresh_evidence(ran_once: Path, tmp_path: Path) -> None:
    repository = copied(ran_once, tmp_path)
    published(repository)
    path = ledger.ledger_path(repository.root, "toy")
    path.rename(path.with_name("known.jsonl"))
    with pytest.raises(RecordError, match=r"stand in known's ledger, and are no fresh evidence"):
        published(repository)


def test_a_figure_that_claims_nothing_may_show_runs_of_another(repository: Repository) -> None:
    nothing = {"claims": {}}
    repository.commit(nothing)
    repository.run(nothing)
    published(repository, nothing)
    path = ledger.ledger_path(repository.root, "toy")
    path.rename(path.with_name("known.jsonl"))
    published(repository, nothing)
    ids = [{run["run_id"] for line in ledger.read(repository.root, name) for run in line["runs"]} for name in ("toy", "known")]
    assert ids[0] == ids[1] != set()
