"""Declarations: a wrong one says in one line which key; cells are what axes, rules, assumptions and grids make them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from declared import QUICK, REMOVED, changed, declare

from effdl.errors import ConfigError
from effdl.reproduce import artefact, published
from effdl.reproduce.artefact import Cell
from effdl.reproduce.frame import beside
from effdl.reproduce.judge import combinations

WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "a key of none": ({"unites": "percent"}, "unites: unknown key; there are id, title"),
    "a key of no level": ({"axes/data/few": {"sets": {}}}, "axes.data.few.sets: unknown key; there are label, row, set"),
    "a key of no claim": ({"claims/level/lefft": {}}, "claims.level.lefft: unknown key; there are says, left"),
    "a key of no scale": ({"scales/smoke/seed": 3}, "scales.smoke.seed: unknown key; there are about, seeds"),
    "a key of no rule": (
        {"scales/smoke/rules": [{"wher": {}}]},
        "scales.smoke.rules.0.wher: unknown key; there are where, set",
    ),
    "a key of no floor": ({"scales/smoke/floors": [{"at_least": 1, "or": 2}]}, "scales.smoke.floors.0.or: unknown key"),
    "a key of no detail": (
        {"details": [{"name": "n", "metric": "m", "unti": "s"}]},
        "details.0.unti: unknown key; there are name",
    ),
    "a key of no choice": (
        {"assumptions": {"w": {"why": "?", "choices": {"a": {"label": "a", "sets": {}}}}}},
        "assumptions.w.choices.a.sets: unknown key; there are label, set",
    ),
    "a key of no published file": (
        {"published": {"csv": "table_6_1.csv", "colum": "v"}},
        "published.colum: unknown key; there are csv",
    ),
    "a key of no variant": ({"scales/smoke/grid": [{"chose": {}, "choose": {}}]}, "scales.smoke.grid.0.chose: unknown key"),
    "no metric": ({"metric": REMOVED}, "metric: is missing"),
    "no scale's word": ({"scales/smoke/about": REMOVED}, "scales.smoke.about: is missing"),
    "no seeds": ({"scales/smoke/seeds": 0}, "scales.smoke.seeds: "),
    "seeds that are a switch": ({"scales/smoke/seeds": True}, "scales.smoke.seeds: "),
    "a unit of none": ({"unit": "kg"}, "unit: "),
    "a negative tolerance": ({"claims/level/tolerance": -1}, "claims.level.tolerance: "),
    "an infinite value": ({"claims/level/value": float("inf")}, "claims.level.value: "),
    "a word for a value": ({"claims/level/value": "x"}, "claims.level.value: "),
    "a strict relation": ({"claims/level/relation": "<"}, "claims.level.relation: "),
    "no relation": ({"claims/level/relation": REMOVED}, "claims.level.relation: needs one of >=, <=, ~"),
    "a number for a level": ({"claims/level/left": {"method": 5}}, "claims.level.left.method"),
    "a claim on no axis": (
        {"claims/level/left": {"methd": "ours"}},
        "claims.level.left.methd: no such axis; there are data, method",
    ),
    "a claim on no level": (
        {"claims/level/right": {"method": "theirs"}},
        "claims.level.right.method: no 'theirs' there; there are base",
    ),
    "a claim on one of no levels": (
        {"claims/level/where": {"data": ["few", "fewer"]}},
        "claims.level.where.data: no 'fewer' there",
    ),
    "a claim for each of no axis": (
        {"claims/level/each": ["size"]},
        "claims.level.each: no axis 'size'; there are data, method",
    ),
    "a claim along no axis": (
        {"claims/level/along": "size", "claims/level/right": REMOVED},
        "claims.level.along: needs an axis that is not in each, and no right side; there are data, method",
    ),
    "a claim along an axis with a right side": ({"claims/level/along": "method"}, "claims.level.along: needs an axis"),
    "a module that is not there": ({"module": "other.py"}, "module: "),
    "a side against itself": ({"claims/level/right": {"method": "ours"}}, "claims.level.right: is the same as left"),
    "sides of other axes": (
        {"claims/level/left": {"method": "ours", "data": "few"}},
        "claims.level.right: needs the axes of left, each side one level",
    ),
    "sides of several levels": (
        {"claims/level/left": {"method": ["ours", "base"]}},
        "claims.level.right: needs the axes of left, each side one level",
    ),
    "a saving of one side": (
        {"claims/level/right": REMOVED, "claims/level/compare": "saving"},
        "claims.level.compare: saving needs a right side",
    ),
    "a rule for no level": (
        {"rules": [{"where": {"data": "none"}}]},
        "rules.0.where.data: no 'none' there; there are few, many",
    ),
    "a scale's rule for no axis": (
        {"scales/smoke/rules": [{"where": {"size": "9"}}]},
        "scales.smoke.rules.0.where.size: no such axis",
    ),
    "a floor for no level": (
        {"scales/smoke/floors": [{"where": {"method": "none"}, "at_least": 9}]},
        "scales.smoke.floors.0.where.method: no 'none' there",
    ),
    "a grid of no assumption": (
        {"scales/smoke/grid": [{"choose": {"width": ["a"]}}]},
        "scales.smoke.grid.0.choose.width: no such axis",
    ),
    "a grid of no choice": (
        {
            "assumptions": {"w": {"why": "?", "choices": {"a": {"label": "a"}}}},
            "scales/smoke/grid": [{"choose": {"w": ["b"]}}],
        },
        "scales.smoke.grid.0.choose.w: no 'b' there; there are a",
    ),
    "an assumption that is an axis": (
        {"assumptions": {"data": {"why": "?", "choices": {"a": {"label": "a"}}}}},
        "assumptions.data: is an axis already",
    ),
    "a grid of an axis": ({"scales/smoke/grid": [{"choose": {"data": ["few"]}}]}, "scales.smoke.grid.0.choose.data: "),
    "an assumption without choices": ({"assumptions": {"w": {"why": "?", "choices": {}}}}, "assumptions.w.choices: "),
    "an axis without levels": ({"axes/data": {}, "claims": {}}, "axes.data: "),
    "no scales": ({"scales": {}}, "scales: "),
    "a scale of no level": (
        {"scales/smoke/where": {"data": "none"}},
        "scales.smoke.where.data: no 'none' there; there are few",
    ),
    "a scale of no axis": ({"scales/smoke/where": {"size": "9"}}, "scales.smoke.where.size: no such axis; there are data"),
    "a scale without cells": ({"scales/smoke/where": {"data": []}}, "scales.smoke.where: leaves no cell"),
    "a share of no cell": (
        {"details": [{"name": "n", "metric": "m", "share_of": {"method": "none"}}]},
        "details.0.share_of.method: no 'none' there",
    ),
    "an axis named twice": ({"rows": ["data", "data"]}, "rows, columns: must name each of the axes data, method once"),
    "an axis named nowhere": ({"rows": []}, "rows, columns: must name each of the axes data, method once"),
    "columns of no axis": ({"columns": "size"}, "rows, columns: must name each of the axes data, method once"),
    "another id": ({"id": "tay"}, "id: a file of this name declares toy, not tay"),
    "no title": ({"title": REMOVED}, "id: toy stands in no thesis, so it needs a title"),
    "an answer to no claim": ({"claims/level/answers": "ch6.nothing"}, "claims.level.answers: ch6.nothing: no such claim"),
    "two answers that are no range": (
        {"claims/level/answers": ["ch7.spirals_bp_time", "ch7.spirals_pp_n1_time"]},
        "claims.level.answers: two claims must be the lower (>=) and the upper end (<=) of a range",
    ),
    "no such file": (
        {"published": {"csv": "table_6_9.csv"}},
        "table_6_9.csv: no such file of published numbers; there are artefacts.csv",
    ),
}


def refusal(path: Path) -> str:
    """The one line with which a declaration is refused, after the file's name."""
    with pytest.raises(ConfigError) as refused:
        artefact.read(path)
    line = str(refused.value)
    assert "\n" not in line and line.startswith(f"{path.name}: ")
    return line.removeprefix(f"{path.name}: ")


def written(folder: Path, text: str, name: str = "toy.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(("changes", "says"), WRONG.values(), ids=WRONG)
def test_wrong_declaration_is_refused_in_one_line_that_names_the_key(
    changes: Mapping[str, Any], says: str, tmp_path: Path
) -> None:
    assert refusal(written(tmp_path, yaml.safe_dump(changed(changes), sort_keys=False))).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "id: is missing"),
        ("id: toy\nid: toy\n", "found duplicate key id"),
        ("id: toy\naxes:\n  data: {few: {}, few: {}}\n", "found duplicate key few"),
        ("- id\n- toy\n", "must be keys with values"),
        ("5\n", "must be keys with values"),
        ("id: [toy\n", "line 2"),
        ("id: toy\nmetric: ${none}\n", "'none' not found"),
    ],
)
def test_what_is_no_declaration_at_all_is_said_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(written(tmp_path, text))


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_artefact_of_a_thesis_has_a_smoke_and_a_paper_scale(scale: str, tmp_path: Path) -> None:
    table = artefact.declared()["table-6.1"]
    content = changed({f"scales/{scale}": REMOVED}, yaml.safe_load(table.read_text()))
    said = refusal(written(tmp_path, yaml.safe_dump(content, sort_keys=False), table.name))
    assert said.startswith(f"scales: {scale} is missing")


def test_scale_that_is_not_declared_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^toy: no scale 'small'; there are smoke$"):
        declare(tmp_path).cells("small")


def test_artefact_that_is_not_declared_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^table-6\.9: not declared; there are .*table-6\.1"):
        artefact.load("table-6.9")


@pytest.mark.parametrize("text", ["def measures(runs:", "raise RuntimeError('no\\nway')"])
def test_broken_functions_beside_a_declaration_are_said_in_one_line_with_their_file(text: str, tmp_path: Path) -> None:
    declaration = declare(tmp_path)
    path = written(tmp_path, text, "toy.py")
    with pytest.raises(ConfigError) as refused:
        beside(declaration)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


# Published numbers.

PRINTED = {"csv": "numbers.csv"}
ROW = {
    "published": PRINTED,
    "axes/data/few": {"row": {"data": "Few"}},
    "axes/data/many": {"row": None},
    "axes/method/base": {"row": {"method": "baseline"}},
    "axes/method/ours": {"row": None},
}


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ("data,method,value\nFew,baseline,\n", "has '' as value of data=Few, method=baseline, which is no number"),
        ("data,method,value\nFew,baseline\n", "has None as value of data=Few, method=baseline, which is no number"),
        ("data,method,value\n", "has no rows with data=Few"),
        ("data,method,value\nFew,baseline,nan\n", "has 'nan' as value"),
        ("data,method,value\nFew,baseline,9.x\n", "has '9.x' as value"),
        ("data,method,value\nFew,DLL,1\n", "has no rows with data=Few, method=baseline"),
        ("data,method,value\nFew,baseline,1\nFew,baseline,2\n", "has 2 rows with data=Few, method=baseline"),
        ("data,method,acc\nFew,baseline,1\n", "has no column value; there are data, method, acc"),
        ("data,value\nFew,1\n", "has no column method; there are data, value"),
    ],
)
def test_cell_that_the_published_file_does_not_hold_is_named(
    numbers: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, numbers, "numbers.csv")
    monkeypatch.setattr(published, "PUBLISHED", tmp_path)
    monkeypatch.setattr(published, "rows", cache(published.rows.__wrapped__))
    monkeypatch.setattr(published, "artefacts", dict)
    with pytest.raises(ConfigError) as refused:
        declare(tmp_path, ROW)
    assert str(refused.value).startswith(f"toy.yaml: numbers.csv {says}")


def test_what_is_printed_in_place_of_a_number_leaves_a_cell_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "data,method,value,note\nFew,baseline,,printed as Failed\n", "numbers.csv")
    monkeypatch.setattr(published, "PUBLISHED", tmp_path)
    monkeypatch.setattr(published, "rows", cache(published.rows.__wrapped__))
    monkeypatch.setattr(published, "artefacts", dict)
    assert all(cell.published is None for cell in declare(tmp_path, ROW).cells("smoke"))


# Cells.


def test_what_cannot_be_is_no_cell(tmp_path: Path) -> None:
    cells = declare(tmp_path, {"without": [{"data": "many", "method": "base"}]}).cells("smoke")
    assert [cell.name for cell in cells] == ["data=few,method=base", "data=few,method=ours", "data=many,method=ours"]
    with pytest.raises(ConfigError, match=r"^toy.yaml: without.0.dta: no such axis"):
        declare(tmp_path, {"without": [{"dta": "many"}]})


def of(cells: list[Cell], name: str) -> Cell:
    (cell,) = [cell for cell in cells if cell.name == name]
    return cell


def test_scale_has_the_cells_that_it_names_and_the_others_have_all(tmp_path: Path) -> None:
    part = {"about": "x", "where": {"data": "many"}, "grid": [{"choose": {"w": ["b"]}}]}
    choices = {"a": {"label": "a"}, "b": {"label": "b"}}
    changes = {"scales/small": part, "assumptions": {"w": {"why": "?", "choices": choices, "where": {"method": "ours"}}}}
    declaration = declare(tmp_path, changes)
    assert [cell.name for cell in declaration.cells("small")] == [
        "data=many,method=base",
        "data=many,method=ours",
        "data=many,method=ours,w=b",
    ]
    assert len(declaration.cells("smoke")) == 4


def test_cells_are_the_product_of_the_axes_in_their_order(tmp_path: Path) -> None:
    assert [cell.name for cell in declare(tmp_path).cells("smoke")] == [
        "data=few,method=base",
        "data=few,method=ours",
        "data=many,method=base",
        "data=many,method=ours",
    ]


LAYERS: list[tuple[str, Any]] = [
    ("set", {"seed": 1}),
    ("axes/data/few/set", {"seed": 2}),
    ("axes/method/ours/set", {"seed": 3}),
    ("assumptions", {"s": {"why": "?", "choices": {"a": {"label": "a", "set": {"seed": 4}}}}}),
    ("rules", [{"set": {"seed": 5}}]),
    ("scales/smoke/rules", [{"set": {"seed": 6}}]),
    ("scales/smoke/rules", [{"set": {"seed": 6}}, {"where": {"data": "few"}, "set": {"seed": 7}}]),
]


@pytest.mark.parametrize("upto", range(1, len(LAYERS) + 1))
def test_later_layers_of_a_declaration_win(upto: int, tmp_path: Path) -> None:
    cells = declare(tmp_path, dict(LAYERS[:upto])).cells("smoke")
    assert of(cells, "data=few,method=ours").set["seed"] == upto


def test_seeds_are_the_scales_then_its_rules_then_the_grids(tmp_path: Path) -> None:
    changes = {
        "rules": [{"where": {"data": "many"}, "seeds": 5}],
        "scales/smoke/rules": [{"where": {"data": "many", "method": "ours"}, "seeds": 7}],
        "assumptions": {"w": {"why": "?", "choices": {"a": {"label": "a"}, "b": {"label": "b"}}}},
        "scales/smoke/grid": [{"where": {"data": "many"}, "choose": {"w": ["b"]}, "seeds": 9}],
    }
    assert {cell.name: cell.seeds for cell in declare(tmp_path, changes).cells("smoke")} == {
        "data=few,method=base": 2,
        "data=few,method=ours": 2,
        "data=many,method=base": 5,
        "data=many,method=base,w=b": 9,
        "data=many,method=ours": 7,
        "data=many,method=ours,w=b": 9,
    }


def test_where_matches_our_own_choice_where_nothing_else_was_chosen(tmp_path: Path) -> None:
    changes = {
        "assumptions": {
            "w": {"why": "?", "choices": {"a": {"label": "a"}, "b": {"label": "b"}}, "where": {"data": "many"}},
        },
        "scales/smoke/grid": [{"choose": {"w": ["b"]}}],
        "scales/smoke/rules": [{"where": {"w": "a"}, "seeds": 4}, {"where": {"w": "b"}, "seeds": 6}],
    }
    assert {cell.name: cell.seeds for cell in declare(tmp_path, changes).cells("smoke")} == {
        "data=few,method=base": 2,  # which the assumption does not concern
        "data=few,method=ours": 2,
        "data=many,method=base": 4,
        "data=many,method=base,w=b": 6,
        "data=many,method=ours": 4,
        "data=many,method=ours,w=b": 6,
    }


WIDTHS = {"label": "8"}, {"label": "9", "set": {"arch.hidden": [9, 9]}}, {"label": "10", "set": {"arch.hidden": [10, 10]}}
GRID = {
    "assumptions": {
        "width": {"why": "?", "choices": dict(zip("abc", WIDTHS, strict=True)), "where": {"method": "ours"}},
        "rate": {"why": "?", "choices": {"a": {"label": "low"}, "b": {"label": "high", "set": {"optimizer.lr": 1}}}},
    },
    "scales/smoke/grid": [{"where": {"method": "ours", "data": "few"}, "choose": {"width": ["b", "c"], "rate": ["a", "b"]}}],
}


def test_grid_runs_each_combination_of_choices_where_it_says(tmp_path: Path) -> None:
    declaration = declare(tmp_path, GRID)
    cells = declaration.cells("smoke")
    made = {cell.name: (cell.set["arch.hidden"], cell.set.get("optimizer.lr")) for cell in cells if len(cell.at) > 2}
    assert made == {
        "data=few,method=ours,width=b,rate=a": ([9, 9], None),
        "data=few,method=ours,width=b,rate=b": ([9, 9], 1),
        "data=few,method=ours,width=c,rate=a": ([10, 10], None),
        "data=few,method=ours,width=c,rate=b": ([10, 10], 1),
    }
    assert len(cells) == 8 and of(cells, "data=few,method=ours").set["arch.hidden"] == QUICK["arch.hidden"]
    assert len(combinations(declaration, "smoke")) == 4


def test_specs_of_a_cell_differ_in_the_seed_alone(tmp_path: Path) -> None:
    (first, second) = artefact.specs(of(declare(tmp_path).cells("smoke"), "data=many,method=ours"))
    assert (first.seed, second.seed) == (0, 1)
    assert first.settings() == second.settings() and first.dataset.train_limit == 256 and first.arch.hidden == (8, 8)


def test_cell_that_cannot_be_composed_is_named_with_its_key(tmp_path: Path) -> None:
    cells = declare(tmp_path, {"axes/method/ours/set": {"method": "dll", "method.lr": 1}}).cells("smoke")
    with pytest.raises(ConfigError, match=r"^data=few,method=ours: method\.lr: unknown key; there are "):
        artefact.specs(of(cells, "data=few,method=ours"))
