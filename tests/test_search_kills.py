"""A search that is killed goes on to the same trials, and two that share a study do each of them once."""

import json
import random
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from command import finish, kill, run, start

from effdl.search.storage import opened

RUNS = ("method=backprop", "method.epochs=3", "arch=mlp", "arch.hidden=[8]", "dataset.train_limit=256", "hardware=cpu")
SPACE = ("optimizer.lr=tag(log,interval(1e-3,1))", "optimizer.momentum=range(0.0,0.9,0.3)")
SEARCHES = {
    "random": ("search/sampler=random", "search/pruner=median", "search.pruner.n_startup_trials=2"),
    "tpe": (
        "search/sampler=tpe",
        "search.sampler.n_startup_trials=3",
        "search/pruner=median",
        "search.pruner.n_startup_trials=2",
    ),
    "grid": ("search/sampler=grid", "optimizer.lr=0.3,0.1,0.01,1e30"),
}
KILLS = 10


def command(sampler: str, trials: int = 10, workers: int = 1) -> list[str]:
    of_all = ("-m", "search=optuna", "search.study_name=one", f"search.n_trials={trials}", f"search.n_jobs={workers}")
    return [*of_all, *RUNS, *SPACE, *SEARCHES[sampler]]


def trials(folder: Path) -> list[Any]:
    search = folder / "results" / "searches" / "one"
    study = optuna.load_study(study_name="one", storage=opened(None, search))
    return [(one.number, one.state.name, one.params, one.values, one.intermediate_values) for one in study.trials]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SEARCHES)
def test_a_search_killed_at_ten_moments_has_the_trials_of_one_left_alone(sampler: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    began = time.monotonic()
    assert run(*command(sampler), cwd=whole).returncode == 0
    took, moments = time.monotonic() - began, random.Random(sampler)
    for _ in range(KILLS):
        process = start(*command(sampler), cwd=cut)
        time.sleep(moments.uniform(0.2 * took, took))
        kill(process)
        process.communicate()
    done = run(*command(sampler), cwd=cut)
    assert done.returncode == 0, done.stderr
    assert trials(cut) == trials(whole)
    told = [json.loads((folder / "results/searches/one/search.json").read_text()) for folder in (whole, cut)]
    assert told[0] == told[1]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_two_processes_on_one_study_do_each_trial_once(sampler: str, tmp_path: Path) -> None:
    both = [start(*command(sampler, trials=12), cwd=tmp_path) for _ in range(2)]
    done = [finish(one) for one in both]
    assert all(one.returncode == 0 for one in done), [one.stderr for one in done]
    found = trials(tmp_path)
    assert [number for number, *_ in found] == list(range(12))
    params = [json.dumps(one[2], sort_keys=True) for one in found]
    assert len(set(params)) == len(params)
    assert {one[1] for one in found} <= {"COMPLETE", "PRUNED"}
    lines = [line for one in done for line in one.stderr.splitlines() if ": trial " in line]
    assert len(lines) == 12, "each trial has its line in one of the two"
