"""The cheapest row of each ledger, run again from its stored command: the same numbers, in the time that was planned."""

import json
import math
import os
import shlex
import time
from pathlib import Path
from typing import Any

import command
import pytest

from effdl.reproduce import ledger

LEDGERS = sorted(path.stem for path in (command.ROOT / "results" / "ledger").glob("*.jsonl"))
STARTUP_S = 20.0  # importing torch in two processes, which no plan counts
MOST_S = 600.0


def cheapest(name: str) -> dict[str, Any]:
    """The line whose runs took least time in all."""
    lines = [line for line in ledger.read(command.ROOT / "results", name) if line["runs"]]
    return min(lines, key=lambda line: math.fsum(run["times"]["time/wall_s"] for run in line["runs"]))


def test_there_is_a_ledger() -> None:
    assert LEDGERS


@pytest.mark.parametrize("name", LEDGERS)
def test_the_times_that_its_runs_expected_and_took_agree_over_a_whole_ledger(name: str) -> None:
    times = [run["times"] for line in ledger.read(command.ROOT / "results", name) for run in line["runs"]]
    expected, took = (math.fsum(one[key] for one in times) for key in ("time/estimate_s", "time/wall_s"))
    assert times and expected / 2 <= took <= 2 * expected


@pytest.mark.slow
@pytest.mark.parametrize("name", LEDGERS)
def test_the_cheapest_row_runs_again_to_the_same_numbers_in_the_planned_time(name: str, tmp_path: Path) -> None:
    line = cheapest(name)
    data = os.environ.get("EFFDL_DATA", "data")
    if name != "demo" and not Path(data, "MNIST").is_dir():
        pytest.skip("needs MNIST under EFFDL_DATA; dataset.download=true fetches it")
    program, *arguments = shlex.split(line["command"])
    assert program == "effdl"
    planned = command.run("plan", *arguments[1:], "--json", cwd=tmp_path, script="effdl", EFFDL_DATA=data)
    before = time.monotonic()
    done = command.run(*arguments, cwd=tmp_path, script="effdl", timeout=MOST_S, EFFDL_DATA=data)
    measured = time.monotonic() - before
    assert done.returncode == 0, done.stderr

    records = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/summary.json")}
    assert set(records) == {run["run_id"] for run in line["runs"]}
    for run in line["runs"]:
        again = records[run["run_id"]]["summary"]
        for key in ("memory/accounted_peak_bytes", "data/train_samples", "data/train_passes"):
            assert again[key] == run["numbers"][key]
    apart = [records[run["run_id"]]["summary"]["test/acc"] - run["numbers"]["test/acc"] for run in line["runs"]]
    assert max(map(abs, apart)) <= 0.02  # other processors sum in another order, and a run then ends elsewhere
    assert abs(math.fsum(apart) / len(apart)) <= 0.004

    estimate = json.loads(planned.stdout)["time/estimate_s"]
    assert estimate / 2 - STARTUP_S <= measured <= 2 * estimate + STARTUP_S
