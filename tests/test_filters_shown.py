"""What is seen of a filter that takes long: how far its choosing is, and how long it took, apart from training."""

import time
from typing import Any

import pytest
import tiny
import torch
from filtering import fit, noisy

from effdl.datasets import waiting
from effdl.filters.condensed_neighbours import CondensedNeighbours
from effdl.filters.edited_neighbours import EditedNeighbours
from effdl.filters.k_filter import KFilter
from effdl.methods.backprop import Backprop
from effdl.neighbours import redundant
from effdl.neighbours.editing import condensed_nearest_neighbours, edited_nearest_neighbours
from effdl.neighbours.k_filter import k_filter
from effdl.records.run import Run
from effdl.training.optim import Sgd


@pytest.mark.parametrize(
    ("made", "doing"),
    [
        (KFilter(k=2), ["neighbours of 60 samples"]),
        (KFilter(k=2, within="chunk", chunk=25), ["neighbours of 60 samples"]),
        (EditedNeighbours(), ["neighbours of 60 samples"]),
        (CondensedNeighbours(), ["condensing 60 samples, pass 1", "condensing 60 samples, pass 2"]),
    ],
    ids=str,
)
def test_it_is_shown_how_far_the_choosing_is(made: Any, doing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, tuple[int, int]] = {}

    def watch(parts: Any, total: int, doing: str) -> Any:
        parts = list(parts)
        shown[doing] = len(parts), total
        return parts

    monkeypatch.setattr(redundant, "TILE", 8)
    problem = noisy(60)
    found = made.listed(problem.train_tensors().x, problem.train_split.y, torch.Generator(), watch)
    assert set(doing) <= set(shown)
    assert all(parts == total > 0 for parts, total in shown.values())
    run = Run(0, Sgd(lr=0.05), filter=made)
    monkeypatch.setattr(run, "watch", lambda parts, total, doing: watch(parts, total, doing))
    Backprop(epochs=1).fit(problem, tiny.chain(), run)
    assert {f"filter: {one}" for one in doing} <= set(shown)
    assert run.lists["kept"].tolist() == found.tolist()


def test_a_run_trains_in_other_seconds_than_it_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = KFilter.listed

    def slow(*args: Any) -> Any:
        time.sleep(0.5)
        return listing(*args)

    monkeypatch.setattr(KFilter, "listed", slow)
    network, run = fit(KFilter(k=2), Backprop(epochs=1), noisy())
    summary = run.summary(network, [])
    assert summary["time/filter_s"] >= 0.5
    assert summary["time/train_s"] + summary["time/filter_s"] <= summary["time/wall_s"]
    assert summary["time/train_s"] < summary["time/wall_s"] - 0.5


def test_a_library_call_shows_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "QUIET_S", 0.0)
    problem = noisy(60)
    x, y = problem.train_tensors().x, problem.train_split.y
    for found in (k_filter(x, y, 2), edited_nearest_neighbours(x, y), condensed_nearest_neighbours(x, y)):
        assert len(found)
    assert capfd.readouterr() == ("", "")
