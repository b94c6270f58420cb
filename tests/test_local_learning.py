"""What chapter 6's comparisons measure, against answers known by hand; their rows differ in what they say and in no more."""

from typing import Any

import pandas as pd
import pytest

from effdl import config
from effdl.reproduce import artefact
from effdl.reproduce.counterpart import at, of_cell, of_seed
from effdl.reproduce.frame import beside


def module(name: str) -> Any:
    found = beside(artefact.load(name))
    assert found is not None
    return found


def table(name: str, rows: list[dict[str, Any]], scale: str = "small") -> pd.DataFrame:
    """Finished runs as a declaration's module gets them."""
    runs = pd.DataFrame([{"status": "finished", "seed": 0, **row} for row in rows])
    runs.attrs |= {"artefact": name, "scale": scale}
    return module(name).measures(runs)


def composed(name: str, scale: str, cell: str) -> Any:
    (found,) = (one for one in artefact.load(name).cells(scale) if one.name == cell)
    return config.composed(artefact.on_the_cpu(found.overrides))


def test_a_counterpart_has_the_same_seed_and_all_other_levels() -> None:
    assert at("net=a,rule=x", {"rule": "y", "size": "9"}) == "net=a,rule=y"
    told = [("net=a,rule=x", 0, 1.0), ("net=a,rule=y", 0, 5.0), ("net=a,rule=y", 1, 7.0), ("net=b,rule=x", 0, 2.0)]
    runs = pd.DataFrame([{"cell": cell, "seed": seed, "m": m, "status": "finished"} for cell, seed, m in told])
    assert of_seed(runs, "m", {"rule": "y"})[:3] == [5, 5, 7] and pd.isna(of_seed(runs, "m", {"rule": "y"})[3])
    assert of_cell(runs, "m", {"rule": "y"})[:3] == [6, 6, 6] and pd.isna(of_cell(runs, "none", {})[0])
    runs.loc[2, "status"] = "diverged"
    assert of_cell(runs, "m", {"rule": "y"})[0] == 5


def rival(method: str, seed: int, test: float, val: float, step: float = 1.0) -> dict[str, Any]:
    cell = f"network=resnet32,augment=none,method={method}"
    memory = {f"memory/{name}_peak_bytes": step for name in ("accounted", "resident", "process")}
    return {"cell": cell, "seed": seed, "test/acc": test, "val/acc": val, **memory}


def test_the_best_rival_is_chosen_by_validation_and_stands_beside_runs_of_its_seed() -> None:
    rows = [rival("baseline", seed, 0.9, 0.9) for seed in (0, 1)]
    rows += [rival("dll_dropouts", 0, 0.8, 0.8, 2.0), rival("dll_dropouts", 1, 0.7, 0.8, 4.0)]
    rows += [rival("predsim", 0, 0.6, 0.9, 9.0), rival("predsim", 1, 0.5, 0.5)]  # on average 0.7
    rows += [rival("infopro", 0, 0.3, 0.75), rival("infopro", 1, 0.4, 0.75)]
    runs = table("rivals", rows).set_index(["cell", "seed"])
    own = "network=resnet32,augment=none,method=dll_dropouts"
    assert runs.loc[[(own, 0), (own, 1)], "best_error"].tolist() == pytest.approx([0.7, 0.6])
    assert runs.loc[[(own, 0), (own, 1)], "test_error"].tolist() == pytest.approx([0.2, 0.3])
    assert runs.loc[[(own, 0), (own, 1)], "gap"].tolist() == pytest.approx([0.1, 0.2])
    assert runs.loc[("network=resnet32,augment=none,method=predsim", 0), "step_ratio"] == pytest.approx(3)
    said = list(module("rivals").remarks(artefact.load("rivals"), runs.reset_index()))
    assert said == ["ResNet-32, none: the best rival by validation images is InfoPro (Wang et al.)."]


@pytest.mark.parametrize("scale", ["small", "medium"])
def test_rivals_have_as_many_epochs_a_layer_as_backprop_and_dropout_falls_as_printed(scale: str) -> None:
    for cell in artefact.load("rivals").cells(scale):
        baseline = cell.name.replace(f"method={cell.at['method']}", "method=baseline")
        own = composed("rivals", scale, cell.name)["method"]
        assert own["epochs"] == composed("rivals", scale, baseline)["method"]["epochs"], cell.name
        if cell.at["method"] == "dll_dropouts":  # after all of its epochs the dropout is what it is after 300 by 0.95
            assert own["input_dropout_decay"] ** own["epochs"] == pytest.approx(0.95**300, rel=1e-2)
            assert (own["input_dropout"], own["gradient_dropout"]) == (0.8, 0.6)
        if cell.at["method"] == "dll":
            assert (own["input_dropout"], own["gradient_dropout"]) == (0, 0)


def test_two_partitions_differ_from_infopros_two_modules_in_loss_rates_and_turns_alone() -> None:
    mine, theirs = (
        composed("rivals", "small", f"network=resnet32,augment=none,method={method}")["method"]
        for method in ("dpl_2", "infopro_2")
    )
    differ = {key for key in mine if mine[key] != theirs[key]}
    assert differ == {"loss", "lr_factor", "weight_decay_factor", "together", "own_head"}
