"""A table whose process group is killed at random moments and started again publishes what one left alone does."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command import finish, kill, run, start, wait_for
from declared import plugin

from effdl.records.process import PROCESS_PEAK
from effdl.reproduce import ledger

KILLS = 3
SLOWER = {  # a run takes two seconds, in a dozen epochs or more
    "set": {
        "arch": "cnn4",
        "dataset.train_limit": 1000,
        "dataset.val_size": 100,
        "method.epochs": 12,
        "hardware.threads": 1,
    },
    "axes/data/many/set": {"dataset.train_limit": 1200},
    "series": ["val/acc"],
}
RUNS = 8


def published(results: Path, plugins: str) -> list[str]:
    """The ledger's lines as they stand in the file, without times and the checksum over them."""
    done = run("publish", "toy", "--results", str(results), cwd=results.parent, script="effdl", EFFDL_PLUGINS=plugins)
    assert done.returncode == 0, done.stderr
    return [json.dumps(untimed(line), sort_keys=True) for line in ledger.read(results, "toy")]


def untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "runs": [{**run, "times": sorted({*run["times"]} - {PROCESS_PEAK})} for run in line["runs"]]}


def written(results: Path) -> int:
    return sum(path.stat().st_size for path in results.glob("runs/*/metrics.jsonl"))


@pytest.mark.slow
def test_table_killed_three_times_at_random_gives_the_ledger_of_one_left_alone(tmp_path: Path) -> None:
    plugins = str(plugin(tmp_path / "plugins", SLOWER))
    alone, results = tmp_path / "alone", tmp_path / "killed"
    arguments = ("run", "toy", "--workers", "2", "--results")
    done = run(*arguments, str(alone), cwd=tmp_path, script="effdl", EFFDL_PLUGINS=plugins)
    assert done.returncode == 0, done.stderr

    moments = random.Random(6)
    for _ in range(KILLS):
        process = start(*arguments, str(results), cwd=tmp_path, script="effdl", EFFDL_PLUGINS=plugins)
        before = written(results)
        wait_for(lambda before=before: written(results) > before, process)
        time.sleep(moments.uniform(0, 1.5))
        kill(process)
        assert finish(process).returncode == -signal.SIGKILL
    assert len(list(results.glob("runs/*"))) > 0 and len(list(results.glob("runs/*/summary.json"))) < RUNS

    done = run(*arguments, str(results), cwd=tmp_path, script="effdl", EFFDL_PLUGINS=plugins)
    assert done.returncode == 0, done.stderr
    expected = published(alone, plugins)
    assert sum(len(json.loads(line)["runs"]) for line in expected) == RUNS
    assert published(results, plugins) == expected
