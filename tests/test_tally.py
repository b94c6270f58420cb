"""Claims that several declarations answer count once, and what a page and a status say of them agrees with the count."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from declared import LEVEL, SEEDS, declare, lines

from effdl.reproduce.artefact import Declaration
from effdl.reproduce.catalogue import answers
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import judged
from effdl.reproduce.overview import Shown, overview
from effdl.reproduce.report import heading
from effdl.reproduce.tally import Told, counts, once, tell
from effdl.reproduce.wording import name_of

CLAIM = "ch7.mnist_random_p_mse_minus_sorted"
ANSWERS = {**SEEDS, "claims/level/answers": CLAIM}


def named(declaration: Declaration, name: str) -> Declaration:
    return replace(declaration, artefact=declaration.artefact.model_copy(update={"id": name}))


def told(folder: Path, name: str = "toy", **of_it: Any) -> Told:
    declaration = named(declare(folder, ANSWERS), name)
    claim = declaration.artefact.claims["level"]
    return replace(Told(declaration, "level", claim, "paper", "reproduced", (1, 1), looked=False, fitted=False), **of_it)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"scale": "paper", "looked": True, "fitted": True}, {"scale": "small"}),
        ({}, {"looked": True}),
        ({"fitted": True}, {"looked": True}),
        ({}, {"fitted": True}),
        ({"scale": "small"}, {"scale": None, "word": "not run"}),
    ],
)
def test_of_a_claim_answered_twice_the_largest_scale_counts_then_fresh_runs_then_what_was_not_fitted(
    better: Mapping[str, Any], worse: Mapping[str, Any], tmp_path: Path
) -> None:
    one, other = told(tmp_path, "one", **{"word": "differs", **better}), told(tmp_path, "other", **worse)
    assert once([one, other]) == once([other, one]) == [one]
    whose = "printed, declared after first looks" if one.looked else "printed"
    assert counts([other, one]) == counts([one, other]) == {whose: {"differs": 1}}


def test_a_claim_of_ours_and_one_of_a_thesis_count_apart(tmp_path: Path) -> None:
    printed, ours = told(tmp_path), told(tmp_path)
    ours = replace(ours, claim=ours.claim.model_copy(update={"ours": True}))
    assert once([printed, ours]) == [printed, ours]


def shown(declaration: Declaration, scale: str, cells: Mapping[str, Any] = LEVEL) -> Shown:
    runs = frame(declaration, scale, lines(cells, scale))
    return Shown(declaration, scale, runs, judged(declaration, scale, runs))


def two_scales(folder: Path) -> list[Shown]:
    """The toy at two scales, and another that answers the same claim by runs that nobody knew."""
    scale = {"about": "Seconds.", "seeds": 6, "evidence": "first_looks"}
    changes = {**ANSWERS, "scales/paper": scale, "scales/small": scale, "claims/ours/says": "ours is level too"}
    changes |= {f"claims/ours/{key}": value for key, value in OURS.items()}
    toy = declare(folder / "toy", changes)
    fresh = named(declare(folder / "fresh", {**ANSWERS, "scales/paper": {**scale, "evidence": "fresh"}}), "fresh-toy")
    (cell, *_) = fresh.cells("paper")
    made = lines(LEVEL, "paper")
    for run in (run for line in made for run in line["runs"]):
        run["seed"] += cell.first
        run["numbers"]["test/acc"] = 0.99 if "ours" in run["run_id"] else 0.9 + 0.001 * (run["seed"] % 2)
    runs = frame(fresh, "paper", made)
    return [shown(toy, "paper"), shown(toy, "small"), Shown(fresh, "paper", runs, judged(fresh, "paper", runs))]


OURS = {"left": {"method": "ours"}, "right": {"method": "base"}, "relation": ">=", "each": ["data"], "ours": True}


def test_the_first_screen_counts_lists_and_asks_about_the_same_claims(tmp_path: Path) -> None:
    page = two_scales(tmp_path)
    text = overview(page)
    assert text.startswith("2 claims were asked about in 2 tables, figures and passages of text.")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if re.match(r"\| (printed|ours)", line)]
    assert sum(int(count) for row in rows for count in row[1:] if count.strip()) == 2
    assert counts([one for s in page for one in tell(s.declaration, {s.scale: s.found})]) == {
        "printed": {"reproduced": 1},
        "ours, declared after first looks": {"fails": 1},
    }
    did_not = text.split("**What did not**")[1].split("**")[0]
    assert did_not.count("ours is level") == did_not.count("ours is level too") == 1
    assert re.search(r"Asked more than once.*\[A toy\]\(#fresh-toy\): reproduced, against differs by \[A toy\]\(#toy\)", text)


def test_the_first_screen_says_over_how_many_and_what_waits(tmp_path: Path) -> None:
    (toy, _, fresh), waiting = two_scales(tmp_path), named(declare(tmp_path / "late", ANSWERS), "late")
    text, claims = overview([replace(fresh, on="../README.md")], [waiting]), len(waiting.artefact.claims)
    assert f" Another {claims} wait for runs that were not made yet." in text.splitlines()[0]
    held = text.split("**What held**")[1].split("**What did not**")[0]
    assert "reproduced: [A toy](../README.md#fresh-toy) 1 (n = 6)" in held
    assert text.endswith(f"- not run: A toy {claims}")
    assert overview([], [waiting]).startswith(f"Nothing was run yet; {claims} claims wait") and "**" not in overview(
        [], [waiting]
    )
    assert ", n = 6" in overview([toy]).split("**What did not**")[1] and "wait for" not in overview([toy])


def test_status_names_the_declaration_whose_verdict_counts_and_the_others_beside_it(tmp_path: Path) -> None:
    page = two_scales(tmp_path)
    by_declaration = [(s.declaration, {s.scale: [[CLAIM, s.declaration.artefact.id]]}) for s in page[1:]]
    candidates = [one for s in page[1:] for one in tell(s.declaration, {s.scale: s.found})]
    for order in (1, -1):
        found = answers(by_declaration[::order], candidates[::order])
        assert found[CLAIM] == {
            "answered_by": "fresh-toy",
            "verdicts": {"paper": ["fresh-toy"]},
            "also": {"toy": {"small": ["toy"]}},
        }
    assert found["ch7.mnist_beta_range_lo"]["answered_by"] is None


def test_what_stands_in_no_thesis_is_called_by_its_title(tmp_path: Path) -> None:
    toy = declare(tmp_path)
    assert (name_of(toy), heading(toy)) == ("A toy", "A toy")
    table = named(toy, "table-6.1")
    assert (name_of(table), heading(table)) == ("Table 6.1", "Table 6.1: A toy")
