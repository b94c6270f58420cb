"""Cells are what axes, rules, assumptions and grids make them; their seeds follow from what is declared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from declared import QUICK, declare

from effdl.errors import ConfigError
from effdl.reproduce import artefact
from effdl.reproduce.artefact import Cell
from effdl.reproduce.judge import combinations


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
    declaration = declare(tmp_path, {**changes, "scales/small": {**part, "without": [{"method": "base"}]}})
    assert [cell.name for cell in declaration.cells("small")] == ["data=many,method=ours", "data=many,method=ours,w=b"]
    with pytest.raises(ConfigError, match=r"^toy.yaml: scales.small.without.0.dta: no such axis"):
        declare(tmp_path, {**changes, "scales/small": {**part, "without": [{"dta": "many"}]}})


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
    assert (first.seed, second.seed) == (0, 1)  # of evidence that is not fresh
    assert first.settings() == second.settings() and first.dataset.train_limit == 256 and first.arch.hidden == (8, 8)


def test_cell_that_cannot_be_composed_is_named_with_its_key(tmp_path: Path) -> None:
    cells = declare(tmp_path, {"axes/method/ours/set": {"method": "dll", "method.lr": 1}}).cells("smoke")
    with pytest.raises(ConfigError, match=r"^data=few,method=ours: method\.lr: unknown key; there are "):
        artefact.specs(of(cells, "data=few,method=ours"))


FRESH = {"scales/smoke/evidence": "fresh"}
SAME_SEEDS: dict[str, Mapping[str, Any]] = {
    "words": {"claims/level/says": "otherwise said", "claims/level/note": "n", "title": "Another"},
    "whose claim it is": {"claims/level/ours": True},
    "a cell more": {"axes/data/again": {}},
    "more runs": {"scales/smoke/seeds": 7},
    "another scale": {"scales/small": {"about": "x", "floors": [{"baseline": {"method": "base"}, "reaches": "longer"}]}},
}
OTHER_SEEDS: dict[str, Mapping[str, Any]] = {
    "a tolerance": {"claims/level/tolerance": 0.6},
    "a claim more": {"claims/second": {"says": "s", "left": {"method": "ours"}, "each": ["data"], "relation": ">="}},
    "no claim": {"claims": {}},
    "the metric": {"metric": "val/acc"},
    "a place that was searched": {"claims/level/fitted": [{"data": "few"}]},
    "a floor": {"scales/smoke/floors": [{"baseline": {"method": "base"}, "reaches": "longer"}]},
}


def seeds(folder: Path, changes: Mapping[str, Any]) -> set[tuple[int, ...]]:
    """Of the cells of the toy with fresh evidence."""
    cells = declare(folder, {**FRESH, **changes}).cells("smoke")
    return {tuple(spec.seed for spec in artefact.specs(cell))[:2] for cell in cells}


def test_fresh_seeds_follow_from_claims_and_floors_and_from_nothing_else(tmp_path: Path) -> None:
    (own,) = seeds(tmp_path, {})
    assert own[1] == own[0] + 1 and own[0] >= 1_000_000
    for what, changes in SAME_SEEDS.items():
        assert seeds(tmp_path, changes) == {own}, what
    others = [seeds(tmp_path, changes) for changes in OTHER_SEEDS.values()]
    assert all(len(found) == 1 for found in others)
    assert len({own, *(pair for found in others for pair in found)}) == 1 + len(OTHER_SEEDS)


def test_seeds_of_cells_that_draw_nothing_count_from_nought(tmp_path: Path) -> None:
    closed = {"method": "ridge_regression", "arch": "linear", "dataset.val_size": 0}
    own = {key: value for key, value in QUICK.items() if key.startswith("hardware")}
    found = seeds(tmp_path, {"set": own, "axes/data/many": {}, "axes/method/ours/set": closed})
    assert len(found) == 2 and (0, 1) in found
