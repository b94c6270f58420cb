"""Declarations: a wrong one says in one line which key; published numbers are looked up."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from declared import REMOVED, changed, declare

from effdl.errors import ConfigError
from effdl.reproduce import artefact, published
from effdl.reproduce.frame import beside

WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "a key of none": ({"unites": "percent"}, "unites: unknown key; there are id, title"),
    "a key of no level": ({"axes/data/few": {"sets": {}}}, "axes.data.few.sets: unknown key; there are label, row, set"),
    "a key of no claim": ({"claims/level/lefft": {}}, "claims.level.lefft: unknown key; there are says, left"),
    "a key of no scale": ({"scales/smoke/seed": 3}, "scales.smoke.seed: unknown key; there are about, seeds"),
    "a key of no rule": (
        {"scales/smoke/rules": [{"wher": {}}]},
        "scales.smoke.rules.0.wher: unknown key; there are where, set",
    ),
    "a key of no floor": (
        {"scales/smoke/floors": [{"baseline": {"method": "base"}, "reaches": "longer", "or": 2}]},
        "scales.smoke.floors.0.or: unknown key; there are baseline, reaches",
    ),
    "a floor of a number": (
        {"scales/smoke/floors": [{"baseline": {"method": "base"}, "reaches": "longer", "at_least": 54}]},
        "scales.smoke.floors.0.at_least: unknown key; there are baseline, reaches",
    ),
    "a floor under nothing": (
        {"scales/smoke/floors": [{"baseline": {"method": "base"}}]},
        "scales.smoke.floors.0.reaches: is missing",
    ),
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
    "a claim at each of a side's own levels": (
        {"claims/level/each": ["method"]},
        "claims.level.each: method is an axis of left or right already; the levels to judge belong in where",
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
        {"scales/smoke/floors": [{"baseline": {"method": "base"}, "where": {"data": "none"}, "reaches": "longer"}]},
        "scales.smoke.floors.0.where.data: no 'none' there",
    ),
    "a floor of no baseline": (
        {"scales/smoke/floors": [{"baseline": {"method": "none"}, "reaches": "longer"}]},
        "scales.smoke.floors.0.baseline.method: no 'none' there; there are base, ours",
    ),
    "no evidence at all": ({"scales/smoke/evidence": "old"}, "scales.smoke.evidence: "),
    "whether it is judged": ({"scales/smoke/judged": False}, "scales.smoke.judged: unknown key; there are about, seeds"),
    "a fitted place of no level": (
        {"claims/level/fitted": [{"data": "none"}]},
        "claims.level.fitted.0.data: no 'none' there; there are few, many",
    ),
    "a much without a least": (
        {"claims/level/says": "ours is much better"},
        "claims.level.least: is missing; a claim that says 'much' needs a least difference",
    ),
    "a far without a least": (
        {"claims/level/says": "it is far above", "claims/level/tolerance": 0},
        "claims.level.least: is missing; a claim that says 'far' needs a least difference",
    ),
    "a least beside a tolerance": (
        {"claims/level/says": "ours is much better", "claims/level/least": 2},
        "claims.level.least: goes with one of >= and <=, and with no tolerance",
    ),
    "a least about a value": (
        {"claims/level/relation": "~", "claims/level/tolerance": 0, "claims/level/least": 2},
        "claims.level.least: goes with one of >= and <=",
    ),
    "places that are pooled unsaid": (
        {"claims/level/each": []},
        "claims.level.pooled: a verdict is for one cell a side: data has several levels; name it in each",
    ),
    "one side of several cells": (
        {"claims/level/right": REMOVED, "claims/level/left": {"method": ["base", "ours"]}},
        "claims.level.pooled: a verdict is for one cell a side: method has several levels",
    ),
    "a pool of no axis": ({"claims/level/pooled": ["size"]}, "claims.level.pooled: 'size' is no axis, or stands in each"),
    "a pool of each": ({"claims/level/pooled": ["data"]}, "claims.level.pooled: 'data' is no axis, or stands in each"),
    "an axis that floors have": (
        {"assumptions": {"floor": {"why": "?", "choices": {"a": {"label": "a"}}}}},
        "'floor': axes, assumptions, levels and choices are named by letters",
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
        (
            "id: toy\naxes:\n  width: {49: {}, 98: {}}\n",
            "axes.width.49: names are text, so one like a number or a switch stands",
        ),
        ("id: toy\naxes:\n  width: {49: {}}\n", 'stands in quotes: "49"'),
        ("id: toy\naxes:\n  bias: {yes: {}}\n", 'stands in quotes: "true"'),
        ("id: toy\nmetric: ${none}\n", "'none' not found"),
    ],
)
def test_what_is_no_declaration_at_all_is_said_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(written(tmp_path, text))


def test_a_declaration_is_what_omegaconf_reads_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text() for path in artefact.declared().values()]
    quick = [json.dumps(artefact._read(text)) for text in texts]
    assert all(isinstance(artefact._loaded(text), dict) for text in texts) and len(texts) > 30
    monkeypatch.setattr(artefact, "_loaded", lambda text: text)
    assert [json.dumps(artefact._read(text)) for text in texts] == quick


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
