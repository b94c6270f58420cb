"""What drawings take of runs."""

import pandas as pd

from effdl.reproduce import artefact, drawn


def test_the_best_of_equal_ones_is_that_of_the_lowest_seed_and_only_of_the_finished() -> None:
    runs = pd.DataFrame(
        [("a", 2, "finished", 0.9, "two"), ("a", 1, "finished", 0.9, "one"), ("b", 0, "finished", 0.5, "worse"),
         ("a", 3, "diverged", 0.99, "none")],
        columns=["cell", "seed", "status", "train/acc", "series"],
    )  # fmt: skip
    assert drawn.learned_best(runs) == "one" and drawn.learned_best(runs[runs["status"] == "diverged"]) is None
    assert drawn.of_cell(runs, "a")["seed"].tolist() == [2, 1] and not len(drawn.of_cell(runs, "c"))


def test_points_are_those_that_the_runs_learn_from() -> None:
    x, y = drawn.points("fig-5.7", "smoke")
    train, _ = artefact.specs(artefact.load("fig-5.7").cells("smoke")[0])[0].dataset.load()
    assert (x == train.tensors().x.double().numpy()).all() and (y == train.tensors().y.numpy()).all() and len(x) > 1
