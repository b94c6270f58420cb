"""The page of the second thesis: every declaration has its place on it, and shows its numbers as soon as there are some."""

import re
from pathlib import Path

from effdl.reproduce import artefact, ledger
from effdl.reproduce.readme import BLOCK, OVERVIEW

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "experiments" / "feedback" / "README.md").read_text()
WAITING = re.compile(r"^<!-- no results yet: (?P<name>\S+) (?P<scale>\S+) -->$", re.MULTILINE)


def test_every_declaration_has_one_place_and_asks_a_question() -> None:
    declared = {name for name, path in artefact.declared().items() if path.parent == ROOT / "experiments" / "feedback"}
    places = [(match["name"], match["scale"]) for pattern in (WAITING, BLOCK) for match in pattern.finditer(PAGE)]
    assert declared and {name for name, _ in places} == declared and len(places) == len(set(places))
    assert all(scale in artefact.load(name).artefact.scales for name, scale in places)
    illustrations = {"dfa-fig-1.1", "dfa-fig-B.1"}
    assert {name for name in declared if f"`{name}`" in PAGE} >= declared - illustrations
    assert len(OVERVIEW.findall(PAGE)) == 1


def test_no_place_waits_for_numbers_that_are_published() -> None:
    """Then `<!-- no results yet: NAME SCALE -->` becomes `<!-- results: NAME SCALE --><!-- /results -->`, which `make readme`
    fills."""
    waiting = [(match["name"], match["scale"]) for match in WAITING.finditer(PAGE)]
    there = [
        (name, scale) for name, scale in waiting if any(line["scale"] == scale for line in ledger.read(ROOT / "results", name))
    ]
    assert there == []


def test_what_is_told_without_the_ledger_has_no_number_of_a_run() -> None:
    told = OVERVIEW.sub("", BLOCK.sub("", WAITING.sub("", PAGE)))
    assert re.findall(r"\d+\.\d+(?!\s*`)", re.sub(r"`[^`]*`|[Ff]igures? \d\.\d", "", told)) == []
    assert "%" not in told
