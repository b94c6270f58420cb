"""The pages of experiments: every declaration has its place on one, and shows its numbers as soon as there are some."""

import re
from pathlib import Path

import pytest

from effdl.reproduce import artefact, ledger, link_table
from effdl.reproduce.readme import BLOCK, OVERVIEW

ROOT = Path(__file__).parents[1]
WAITING = re.compile(r"^<!-- no results yet: (?P<name>\S+) (?P<scale>\S+) -->$", re.MULTILINE)
ILLUSTRATIONS = {"dfa-fig-1.1", "dfa-fig-B.1"}
of_each_page = pytest.mark.parametrize("folder", ["feedback", "chapter_3", "chapter_4", "chapter_5", "chapter_6", "chapter_8"])


def page(folder: str) -> str:
    return (ROOT / "experiments" / folder / "README.md").read_text()


@of_each_page
def test_every_declaration_has_one_place_and_asks_a_question(folder: str) -> None:
    text = page(folder)
    declared = {name for name, path in artefact.declared().items() if path.parent == ROOT / "experiments" / folder}
    first = {match["name"] for match in BLOCK.finditer((ROOT / "README.md").read_text())}  # tables that stand on the first page
    places = [(match["name"], match["scale"]) for pattern in (WAITING, BLOCK) for match in pattern.finditer(text)]
    assert declared and {name for name, _ in places} == declared - first and len(places) == len(set(places))
    assert all(scale in artefact.load(name).artefact.scales for name, scale in places)
    assert {name for name in declared if f"`{name}`" in text} >= declared - ILLUSTRATIONS
    assert len(OVERVIEW.findall(text)) == 1


@of_each_page
def test_no_place_waits_for_numbers_that_are_published(folder: str) -> None:
    """Then `<!-- no results yet: NAME SCALE -->` becomes `<!-- results: NAME SCALE --><!-- /results -->`, which `make readme`
    fills."""
    waiting = [(match["name"], match["scale"]) for match in WAITING.finditer(page(folder))]
    there = [
        (name, scale) for name, scale in waiting if any(line["scale"] == scale for line in ledger.read(ROOT / "results", name))
    ]
    assert there == []


@of_each_page
def test_what_is_told_without_the_ledger_has_no_number_of_a_run(folder: str) -> None:
    told = page(folder)
    for made in (OVERVIEW, BLOCK, WAITING, link_table.BLOCK):
        told = made.sub("", told)
    assert re.findall(r"\d+\.\d+(?!\s*`)", re.sub(r"`[^`]*`|(?:[Ff]igure|[Tt]able)s? \d\.\d", "", told)) == []
    assert "%" not in told
