"""What chapter 6's comparisons measure, against answers known by hand; their rows differ in what they say and in no more."""

from typing import Any

import pandas as pd
import pytest

from effdl import config
from effdl.reproduce import artefact, searched
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


def test_the_deep_residual_network_is_trained_whole_and_in_two() -> None:
    cells = [cell for cell in artefact.load("rivals").cells("medium") if cell.at["network"] == "resnet110"]
    assert {cell.at["method"] for cell in cells} == {"baseline", "dpl_2", "infopro_2"} and len(cells) == 6
    for cell in cells:
        assert composed("rivals", "medium", cell.name)["arch"]["depth"] == 110


def test_drift_and_flips_are_read_by_block_and_segment() -> None:
    sketch = [[3, -1, 3.0], [3, -1, 4.0], [3, 4, 6.0], [3, 4, 8.0]]  # of length 5, which moves by 5
    other = [[4, -1, 1.0], [4, -1, 0.0], [4, 4, 1.0], [4, 4, 2.0]]  # the same block in the next segment: 2
    series = {
        "input_sketch/stem": [[0, -1, 1.0], [0, 4, 9.0]],  # the images, left out of the mean
        "input_sketch/group1_1": sketch + other,
        "input_sketch/group1_2": [[5, -1, 1.0], [5, 4, 4.0]],
        "sign_flips/stem": [[0, -1, 0.5], [0, 4, 0.3]],
        "sign_flips/group1_1": [[1, -1, 0.2]],
        "sign_flips/group1_2": [[2, -1, 0.1]],
        "train/loss": [[0, 0, 9.0], [1, 0, 2.0], [1, 1, 1.0], [2, 0, 5.0]],
    }
    run = {"series": series, "test/loss": 1.75, "test/acc": 0.5, "segment/chosen": 1.0}
    nothing = {"cell": "rule=none", "test/acc": 0.4, "test/loss": 1.0, "series": None, "segment/chosen": 0.0}
    runs = table("regularisers", [{"cell": "rule=both", **run}, nothing])
    first = runs.iloc[0]
    assert (first["drift"], first["flips"]) == pytest.approx(((1.5 + 3) / 2, (0.4 + 0.2 + 0.1) / 3))
    assert (first["flips_by_depth"], first["drift_by_depth"]) == pytest.approx((-1, 1))
    assert (first["ahead"], first["overfit"], first["chosen_layer"]) == pytest.approx((0.1, 0.75, 2))
    assert runs.iloc[1][["drift", "flips", "overfit"]].isna().all()


def test_blocks_whose_probes_are_read_are_those_of_the_network() -> None:
    declaration = artefact.load("regularisers")
    spec = config.build(config.compose(["arch=resnet32_cifar", "dataset=digits"]))
    names = [name for name, _ in spec.arch.build(spec.dataset.facts()).blocks.named_children()]
    assert names == module("regularisers").BLOCKS
    assert set(declaration.artefact.series) == {
        f"{probe}/{name}" for probe in ("input_sketch", "sign_flips") for name in names
    } | {"train/loss"}


@pytest.mark.parametrize("name", ["rivals", "regularisers", "pays"])
def test_dropout_falls_in_trials_and_runs_as_it_does_in_print(name: str) -> None:
    for scale in artefact.load(name).artefact.scales:
        for cell in artefact.load(name).cells(scale) if scale != "smoke" else []:
            asked = [] if cell.search is None else [dict(text.split("=", 1) for text in cell.search.fixed)]
            for told in [{key: str(value) for key, value in cell.set.items()}, *asked]:
                if "method.input_dropout_decay" in told and cell.at.get("method") != "dll_brief":
                    decay, epochs = float(told["method.input_dropout_decay"]), int(told["method.epochs"])
                    assert decay**epochs == pytest.approx(0.95**300, rel=0.02), (scale, cell.name)


def test_every_rule_but_its_own_is_layer_wise_learning_with_nothing() -> None:
    def method(rule: str) -> dict[str, Any]:
        made = composed("regularisers", "small", f"rule={rule}")
        return {f"{key}": value for key, value in made["method"].items()} | {"optimizer": made["optimizer"]}

    nothing = method("none")
    drops = {key: nothing[key] for key in ("input_dropout", "gradient_dropout", "gradient_noise", "lr_factor", "loss")}
    assert drops == {"input_dropout": 0, "gradient_dropout": 0, "gradient_noise": 0, "lr_factor": 1, "loss": None}
    differ = {
        "forward": {"input_dropout", "input_dropout_decay"},
        "backward": {"gradient_dropout"},
        "both": {"input_dropout", "input_dropout_decay", "gradient_dropout"},
        "noise": {"gradient_noise"},
        "robin": {"permute", "epochs", "rounds"},
        "overlap": {"segment_size", "overlap", "epochs"},
        "together": {"together"},
        "transport": {"loss"},
        "falling": {"lr_factor", "weight_decay_factor"},
        "lean": {"decision"},
        "layer": {"decision"},
    }
    for rule, keys in differ.items():
        own = method(rule)
        assert {key for key in own if own[key] != nothing[key]} == keys, rule
        assert own["epochs"] * own["rounds"] * (own["overlap"] + 1) == nothing["epochs"] == method("backprop")["epochs"]


def test_spread_over_rates_is_of_one_seed_and_a_run_that_diverged_counts_as_a_guess() -> None:
    def run(rate: int, seed: int, accuracy: float | None) -> dict[str, Any]:
        status = "finished" if accuracy is not None else "diverged"
        cell = f"start=scratch,rate=r{rate},method=dll"
        return {"cell": cell, "seed": seed, "test/acc": accuracy, "status": status, "segment/chosen": 0.0}

    reached = [0.5, 0.48, 0.44, 0.3, 0.3, None]
    rows = [run(rate, 0, accuracy) for rate, accuracy in enumerate(reached, 1)] + [run(1, 1, 0.5)]
    runs = table("brittleness", rows)
    expected = pd.Series([0.5, 0.48, 0.44, 0.3, 0.3, 0.1]).std()
    assert runs["spread"].tolist()[:6] == pytest.approx([expected] * 6) and runs["near_best"].tolist()[:6] == [2] * 6
    assert pd.isna(runs["spread"].iloc[6]) and pd.isna(runs["near_best"].iloc[6])


def trained(*looks: tuple[int, int, float, float, float]) -> dict[str, list[list[float]]]:
    """A run's series from (segment, epoch, validation accuracy, samples, seconds so far) of each of its epochs."""
    columns = {"val/acc": 2, "data/samples": 3, "time/train_s": 4}
    return {name: [[look[0], look[1], look[at]] for look in looks] for name, at in columns.items()}


BACKPROP = trained((0, 0, 0.3, 100, 10.0), (0, 1, 0.5, 100, 20.0), (0, 2, 0.4, 100, 30.0))
PARTS = trained((0, 0, 0.2, 150, 4.0), (0, 1, 0.4, 150, 8.0), (1, 0, 0.6, 150, 20.0), (1, 1, 0.7, 150, 25.0))


def test_what_a_run_had_reached_is_read_from_its_record() -> None:
    pays = module("pays")
    looks = pays.looks_of(PARTS, 6.0)
    assert [(one.samples, one.seconds, one.best) for one in looks] == [
        (150, 4, 0.2),
        (300, 8, 0.4),
        (450, 26, 0.6),
        (600, 31, 0.7),
    ]
    assert pays.until(looks, samples=449) == 0.4 and pays.until(looks, seconds=26) == 0.6
    assert pd.isna(pays.until(looks, samples=149)) and pd.isna(pays.until(looks, samples=float("nan")))
    assert pays.first(looks, 0.41) == 26 and pd.isna(pays.first(looks, 0.71)) and pays.looks_of(None, None) == []


def test_a_run_of_which_only_some_epochs_are_left_has_seen_all_of_its_samples() -> None:
    every = [(segment, epoch, 0.1, 100, 10.0 * (4 * segment + epoch)) for segment in (0, 1) for epoch in range(4)]
    thinned = [look for look in every if look[1] % 2]
    of_all, of_some = (module("pays").looks_of(trained(*looks), 6.0) for looks in (every, thinned))
    assert [(one.samples, one.seconds) for one in of_some] == [(one.samples, one.seconds) for one in of_all[1::2]]
    assert of_some[-1].samples == 800


def test_a_run_that_never_is_as_good_counts_as_longer_where_it_took_longer() -> None:
    ratio, nan = module("pays").ratio_of, float("nan")
    assert ratio(30.0, 90.0, 20.0) == 1.5 and ratio(nan, 90.0, 20.0) == 4.5
    assert pd.isna(ratio(nan, 10.0, 20.0)) and pd.isna(ratio(nan, nan, 20.0)) and pd.isna(ratio(nan, 90.0, nan))


def test_times_that_are_compared_are_measured_in_turns() -> None:
    assert artefact.load("pays").artefact.in_turns and not artefact.load("rivals").artefact.in_turns


def test_backprop_beside_layers_has_all_that_spares_memory_at_once() -> None:
    for scale, away in (("small", "disk"), ("medium", "host")):
        found = [cell for cell in artefact.load("pays").cells(scale) if cell.at["network"] == "mobilenet"]
        cells = {cell.at["method"]: cell.set for cell in found}
        told = {key: cells["bp_all"][key] for key in ("method.checkpoint", "method.offload", "method.accumulate")}
        assert told == {"method.checkpoint": "block", "method.offload": away, "method.accumulate": 4}
        assert cells["bp_all"]["hardware.precision"] == "bf16" and cells["bp_offload"]["method.offload"] == away
        kept, laid = cells["bp_checkpoint"], cells["bp_offload"]
        assert {key for key in laid if laid[key] != kept[key]} == {"method.offload"}


def test_rows_stand_beside_backprop_at_equal_data_time_and_memory() -> None:
    def run(method: str, series: Any, test: float, step: float, resident: float, seed: int = 0) -> dict[str, Any]:
        memory = {"memory/accounted_peak_bytes": step, "memory/resident_peak_bytes": resident, "time/feed_s": 6.0}
        return {"cell": f"network=resnet32,method={method}", "seed": seed, "series": series, "test/acc": test, **memory}

    worse = trained((0, 0, 0.45, 100, 40.0))
    rows = [
        run("baseline", BACKPROP, 0.8, 100, 110),
        run("bp_checkpoint", worse, 0.75, 40, 50),
        run("bp_small", trained((0, 0, 0.2, 300, 9.0)), 0.9, 30, 40),  # whose validation accuracy is lower
        run("dpl_2", PARTS, 0.7, 60, 120),
        run("dll_brief", trained((0, 0, 0.1, 900, 99.0)), 0.1, 10, 10),
    ]
    runs = table("pays", rows).assign(method=[row["cell"].rsplit("=")[-1] for row in rows]).set_index("method")
    dpl, brief = runs.loc["dpl_2"], runs.loc["dll_brief"]
    assert (dpl["backprop_val"], dpl["equal_data"], dpl["equal_time"], dpl["ended"]) == (0.5, 0.4, 0.6, 0.7)
    assert (dpl["within_step"], dpl["within_resident"]) == (0.75, 0.8) and pd.isna(brief["within_step"])
    assert (dpl["seconds_to"], dpl["time_ratio"], dpl["reaches"]) == (26, 1.3, 1)  # 0.48, backprop's own after 20 s
    assert pd.isna(brief["equal_data"]) and pd.isna(brief["seconds_to"]) and brief["reaches"] == 0
    assert runs.loc["bp_checkpoint", "gain"] == 2.5 and pd.isna(dpl["gain"]) and dpl["step_share"] == 0.6


def test_rows_that_differ_in_memory_alone_share_a_search_and_larger_batches_have_their_own() -> None:
    cells = {cell.name: cell for cell in artefact.load("pays").cells("small") if cell.at["network"] == "resnet32"}
    assert len(cells) == 18
    shared = [{cell.at["method"] for cell in of_search} for _, of_search in searched._distinct(list(cells.values()))]
    backprop = {"baseline", *(f"bp_{way}" for way in ("checkpoint", "offload", "accumulate", "bf16", "parts", "all"))}
    layers = {"dll", "dll_brief", "dll_recompute", "dll_bf16"}
    alone = [{name} for name in ("bp_small", "dpl_4", "dll_big", "dpl_2_big", "dpl_4_big")]
    assert sorted(map(sorted, shared)) == sorted(map(sorted, [backprop, layers, {"dpl_2", "dpl_2_brief"}, *alone]))
    large = {name.rsplit("=")[-1]: cell.set["dataset.batch_size"] for name, cell in cells.items()}
    assert all(large[f"{name}_big"] > large[name] == 32 for name in ("dll", "dpl_2", "dpl_4"))
    heavy = [cell for cell in artefact.load("rivals").cells("small") if cell.at["network"] == "resnet32"]
    assert len(list(searched._distinct(heavy))) == 10 < len(heavy)  # one a method, without augmentation
    for name, cell in cells.items():
        made = composed("pays", "small", name)
        epochs = made["method"]["epochs"]
        layers = {"dll_brief": 16, "dpl_2_brief": 2}.get(cell.at["method"], 1)
        assert epochs * layers == 16, name  # those at equal data see as many samples as backprop
