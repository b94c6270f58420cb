"""Cells of the ledgers, run again from their stored commands: the same numbers, in the time that was planned.

Each commit draws other cells. Where one takes too long for that, as in table 6.2, whoever changes what its numbers depend on
runs it by hand.
"""

import json
import math
import os
import shlex
import statistics
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import command
import pytest
import sampled

from effdl import config
from effdl.reproduce import ledger
from effdl.reproduce.lines import SEARCH

LEDGERS = sorted(path.stem for path in (command.ROOT / "results" / "ledger").glob("*.jsonl"))
MOST_S = 600.0
CHEAP_S = 400.0  # what all runs of a cell took in all, on one thread each
EXACT = ("memory/accounted_peak_bytes", "data/train_samples", "data/train_passes")
FEW_DECISIONS = 0.003  # of test accuracy: what rounding on another processor may do to a closed form, whose runs hardly differ
FEW_RUNS = 3  # whose own spread says next to nothing
TOLD_S = 20.0  # beside what starting up takes: of less a plan tells little, since most of it is starting up again
CLOSED_FORMS, BY_EPOCHS = 10, 3  # cells that a commit draws, each of another ledger


def cells(name: str) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """By its command, each cheap cell of a ledger of which all runs finished: those runs, and its config. Runs of older code,
    which would have other numbers now, are left out.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    specs: dict[str, dict[str, Any]] = {}
    for line in ledger.read(command.ROOT / "results", name):
        if line["runs"] and "outdated" not in line:
            runs.setdefault(line["command"], []).extend(line["runs"])
            specs[line["command"]] = line["spec"]
    return {
        cell: (of_cell, specs[cell])
        for cell, of_cell in runs.items()
        if all(run["status"] == "finished" for run in of_cell) and seconds(of_cell) < CHEAP_S
    }


def in_closed_form(spec: dict[str, Any]) -> bool:
    """Whether a config's method has no epochs, of whose time a plan could tell."""
    return bool(config.build({**spec, "logger": None}, checked=False).method.fits_least_squares)


def seconds(runs: list[dict[str, Any]]) -> float:
    return math.fsum(run["times"]["time/wall_s"] for run in runs)


def rounding(stored: str, metric: str) -> float:
    """The spread within cells that differ from this one in nothing but the solver of their least squares, pooled.

    Two runs that agree by chance tell nothing of how far another processor's rounding may take a third: in single precision the
    two of large-beta's `solver=solve` are 0.0004 apart, those of the same network by the other solvers 0.003.
    """
    here = cells(shlex.split(stored)[2])
    this = unsolved(here[stored][1])
    alike = [[run["numbers"][metric] for run in runs] for runs, spec in here.values() if unsolved(spec) == this]
    variances = [statistics.variance(values) for values in alike if len(values) > 1]
    return math.sqrt(statistics.mean(variances)) if variances else 0.0


def unsolved(spec: dict[str, Any]) -> dict[str, Any]:
    """A config without what solves the least squares."""
    return {**spec, "method": {name: value for name, value in spec["method"].items() if name != "solver"}}


@cache
def drawn(count: int, closed: bool) -> list[tuple[str, list[dict[str, Any]]]]:
    """The commands and runs of so many cells of this kind, or of fewer where fewer ledgers have one."""

    def found() -> Iterator[tuple[str, list[dict[str, Any]]]]:
        names = sampled.drawing("ledgers").sample(LEDGERS, len(LEDGERS))
        for name in names:
            here = cells(name)
            of_kind = sorted(cell for cell, (_, spec) in here.items() if in_closed_form(spec) == closed)
            if of_kind:
                cell = sampled.drawing(name).choice(of_kind)
                yield cell, here[cell][0]

    return [one for one, _ in zip(found(), range(count), strict=False)]


@pytest.mark.slow
@pytest.mark.parametrize("place", range(CLOSED_FORMS))
def test_a_drawn_cell_of_a_closed_form_runs_again_to_the_same_numbers(place: int, tmp_path: Path) -> None:
    again(drawn(CLOSED_FORMS, True), place, tmp_path, closed=True)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("place", range(BY_EPOCHS))
def test_a_drawn_cell_by_epochs_runs_again_to_the_same_numbers_in_the_planned_time(place: int, tmp_path: Path) -> None:
    again(drawn(BY_EPOCHS, False), place, tmp_path, closed=False)


def take_searches(name: str, results: Path) -> None:
    """Put what a ledger's searches found into an empty results folder: its cells run with that, and search nothing anew."""
    text = ledger.ledger_path(command.ROOT / "results", name).read_text()
    found = [line for line in text.splitlines() if SEARCH in json.loads(line)]
    if found:
        path = ledger.ledger_path(results, name)
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(found) + "\n")


def again(chosen: list[tuple[str, list[dict[str, Any]]]], place: int, tmp_path: Path, closed: bool) -> None:
    assert len(chosen) >= 2, "too few ledgers have a cell that is cheap enough"
    if place >= len(chosen):
        pytest.skip(f"only {len(chosen)} ledgers have such a cell")
    stored, runs = chosen[place]
    print(f"drawn by commit {sampled.head()}: {stored}")
    data = os.environ.get("EFFDL_DATA", "data")
    program, *arguments = shlex.split(stored)
    assert program == "effdl" and arguments[0] == "run"
    if arguments[1] != "demo" and not Path(data, "MNIST").is_dir():
        pytest.skip("needs MNIST under EFFDL_DATA; dataset.download=true fetches it")
    take_searches(arguments[1], tmp_path / "results")
    before = time.monotonic()
    planned = command.run("plan", *arguments[1:], "--json", cwd=tmp_path, script="effdl", EFFDL_DATA=data)
    between = time.monotonic()
    done = command.run(*arguments, cwd=tmp_path, script="effdl", timeout=MOST_S, EFFDL_DATA=data)
    planning, measured = between - before, time.monotonic() - between
    assert done.returncode == 0, done.stderr

    records = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/summary.json")}
    assert set(records) == {run["run_id"] for run in runs}
    now = {run_id: record["summary"] for run_id, record in records.items()}
    assert all(now[run["run_id"]][key] == run["numbers"][key] for run in runs for key in EXACT if key in run["numbers"])
    # The same bits on the same processor; another one sums in another order, and its runs are as other seeds of this cell.
    metric = next(name for name in ("test/acc", "test/mse", "train/mse") if name in runs[0]["numbers"])
    there = [run["numbers"][metric] for run in runs]
    apart = [now[run["run_id"]][metric] - run["numbers"][metric] for run in runs]
    spread = statistics.stdev(there) if len(there) > 1 else 0.0
    if closed and 1 < len(there) <= FEW_RUNS:
        spread = max(spread, rounding(stored, metric))
    allowed = FEW_DECISIONS if closed else 0.0
    assert max(map(abs, apart)) <= max(6 * spread, allowed)
    assert abs(math.fsum(apart) / len(apart)) <= max(3 * spread * math.sqrt(2 / len(apart)), allowed)

    estimate = json.loads(planned.stdout)["time/estimate_s"]
    if closed:
        assert estimate is None
        return
    startup = 2 * planning  # the run too plans first, and then starts its workers, which import as much
    probes = math.fsum(record["summary"].get("time/probe_s", 0.0) for record in records.values())  # no plan knows of them
    assert estimate / 2 <= measured and measured - startup - probes <= max(2 * estimate, TOLD_S)
