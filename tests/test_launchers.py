"""Hydra's own launchers and Optuna sweeper, and Hydra 1.4, in processes as users start them."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import over
import pytest
import yaml
from command import ROOT, IdxSet, answer, environment, finish, numbers, run, start, wait_for

pytestmark = pytest.mark.slow

WIDE = (*IdxSet.OVERRIDES, "arch.hidden=[1500,1200]", "method.epochs=40", "dataset.batch_size=50")
NEEDS = {"joblib": "hydra-joblib-launcher", "submitit_local": "hydra-submitit-launcher"}


def need(name: str) -> None:
    if find_spec(f"hydra_plugins.hydra_{name.split('_')[0]}_launcher") is None:
        pytest.skip(f"needs {NEEDS[name]}, which `pip install 'effdl[clusters]'` brings")


@pytest.fixture(params=NEEDS)
def launcher(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return f"hydra/launcher={request.param}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    IdxSet(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def hydra_14(tmp_path_factory: pytest.TempPathFactory) -> str:
    return over.python_with(over.HYDRA_1_4, tmp_path_factory)


@pytest.fixture(scope="module")
def optuna_2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return over.python_with(over.OPTUNA_2, tmp_path_factory)


def run_by(python: str, *arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [python, str(ROOT / "run.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=240, check=False)


def owners(lock: Path) -> Iterator[int]:
    """The processes that have a run's lock open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.resolve() == lock.resolve():
                yield int(descriptor.parts[2])
        except OSError:  # gone meanwhile
            continue


# --- launchers


def test_jobs_of_a_launcher_are_runs_that_leave_their_ids_and_are_answered_again(launcher: str, folder: Path) -> None:
    command = ("-m", *IdxSet.OVERRIDES, launcher, "optimizer.lr=0.05,1e30", "seed=0,1")
    done = run(*command, "hydra.sweep.dir=first", cwd=folder)
    runs = answer(done)["runs"]
    assert (done.returncode, done.stdout.count("\n")) == (1, 1), done.stderr
    assert [(one["status"], one["seed"]) for one in runs] == [
        ("finished", 0),
        ("finished", 1),
        ("diverged", 0),
        ("diverged", 1),
    ]
    left = [json.loads((folder / "first" / str(number) / "run.json").read_text()) for number in range(4)]
    assert [one["run_id"] for one in left] == [one["run_id"] for one in runs]
    assert done.stderr.splitlines()[-1].startswith("effdl: 2 of 4 runs diverged or failed") and "Traceback" not in done.stderr
    alone = answer(run(*IdxSet.OVERRIDES, "optimizer.lr=0.05", "seed=1", "results=alone", cwd=folder))
    assert alone["run_id"] == runs[1]["run_id"] and numbers(folder / alone["path"]) == numbers(folder / runs[1]["path"])
    again = run(*command, cwd=folder)
    assert answer(again)["runs"] == runs and len(list((folder / "results" / "runs").iterdir())) == 4


def signalled(number: signal.Signals, *command: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The command, whose one job got that signal after its first checkpoint; and the folder of its run."""
    process = start(*command, cwd=folder)
    (checkpoint,) = wait_for(lambda: list(folder.glob("results/runs/*/checkpoint")), process)
    for owner in list(owners(checkpoint.with_name("lock"))):
        os.kill(owner, number)
    return finish(process), checkpoint.parent


def test_a_job_that_is_killed_is_said_and_goes_on_where_it_was(launcher: str, folder: Path) -> None:
    command = ("-m", *WIDE, launcher, "seed=1")
    done, record = signalled(signal.SIGKILL, *command, folder=folder)
    (one,) = answer(done)["runs"]
    assert done.returncode == 1 and (one["status"], one["reason"]) == ("missing", "its job was killed, or is still at work")
    assert "; the same command goes on where it stopped" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (record / "summary.json").exists() and (record / "checkpoint").exists()
    done = run(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    compare_with_one_left_alone(answer(done)["runs"], record, folder)


def test_a_job_that_is_preempted_is_queued_again_and_goes_on(folder: Path) -> None:
    need("submitit_local")
    done, record = signalled(signal.SIGUSR2, "-m", *WIDE, "hydra/launcher=submitit_local", "seed=1", folder=folder)
    assert done.returncode == 0, done.stderr
    (log,) = folder.glob("results/sweeps/*/.submitit/*/*_log.out")
    assert "Requeued job" in log.read_text()
    compare_with_one_left_alone(answer(done)["runs"], record, folder)


def compare_with_one_left_alone(runs: list[dict[str, Any]], record: Path, folder: Path) -> None:
    alone = answer(run(*WIDE, "seed=1", "results=alone", cwd=folder))
    assert [one["run_id"] for one in runs] == [record.name] == [alone["run_id"]]
    assert numbers(record) == numbers(folder / alone["path"])


def test_settings_of_launchers_on_the_page_are_theirs(launcher: str) -> None:
    page = (ROOT / "docs" / "clusters.md").read_text()
    named = "submitit" if "submitit" in launcher else "joblib"
    commands = [
        one.replace("\\\n", " ") for one in re.findall(r"^python run\.py (.*?[^\\])$", page, flags=re.MULTILINE | re.DOTALL)
    ]
    of_this = [shlex.split(one, comments=True) for one in commands if f"hydra/launcher={named}" in one]
    assert of_this
    for command in of_this:
        done = run(
            *(one for one in command if re.match("\\+?hydra.*=", one)), "--cfg", "hydra", "-p", "hydra.launcher", cwd=ROOT
        )
        assert done.returncode == 0 and f"hydra_plugins.hydra_{named}_launcher" in done.stdout, done.stderr


# --- the official sweeper


OFFICIAL = (
    "-m",
    *IdxSet.OVERRIDES,
    "hydra/sweeper=optuna",
    "hydra.sweep.dir=sweep",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.sampler.seed=1",
)
ACCURACY = ("hydra.sweeper.direction=maximize", "optimizer.lr=choice(0.05,1e30)")
ERROR = ("dataset=sine", "dataset.samples=300", "objective=linear_mse", "method=backprop", "optimizer.lr=choice(0.01,1e30)")


def searched(python: str, folder: Path) -> None:
    for overrides, metric, worst in ((ACCURACY, "val/acc", 0.0), (ERROR, "val/mse", float("inf"))):
        done = run_by(python, *OFFICIAL, *overrides, cwd=folder)
        runs = answer(done)["runs"]
        assert {one["status"] for one in runs} == {"finished", "diverged"}, done.stderr
        assert done.returncode == 1 and "Traceback" not in done.stderr and len(runs) == 4
        told = yaml.safe_load((folder / "sweep" / "optimization_results.yaml").read_text())
        scores = [one["summary"][metric] for one in runs if one["status"] == "finished"]
        assert told["best_value"] == (max if metric == "val/acc" else min)(scores) != worst
        assert float(told["best_params"]["optimizer.lr"]) < 1


def refused(python: str, folder: Path) -> None:
    (folder / "without").mkdir()
    (folder / "without" / "cmaes.py").write_text("raise ModuleNotFoundError(\"No module named 'cmaes'\", name='cmaes')\n")
    places = os.pathsep.join([str(folder / "without"), str(ROOT)])
    minimize = "optimizer.lr=choice(0.05,1e30)"
    for overrides, path, told in (
        (("hydra/sweeper/sampler=cmaes", *ACCURACY), places, "needs the package cmaes, which is not installed"),
        ((minimize,), str(ROOT), "hydra.sweeper.direction: minimize, but runs have one score, val/acc; say maximize"),
    ):
        done = run_by(python, *OFFICIAL, *overrides, cwd=folder, PYTHONPATH=path)
        assert done.returncode == 2 and done.stdout == "" and told in done.stderr.splitlines()[-1], done.stderr
        assert not (folder / "results").exists() and not (folder / "sweep").exists()


def test_optunas_official_sweeper_searches_by_the_score_that_chooses(optuna_2: str, folder: Path) -> None:
    refused(optuna_2, folder)
    searched(optuna_2, folder)


# --- Hydra 1.4


COMPOSES = ("test_composition.py", "test_config.py", "test_cli.py")


def test_what_composes_does_so_by_hydra_1_4(hydra_14: str) -> None:
    tests = [str(ROOT / "tests" / name) for name in COMPOSES]
    composing = ("-k", "not shuffled_test_labels")  # which trains
    command = [hydra_14, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *composing, *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    shown = [hydra_14, "-c", "import hydra; print(hydra.__version__)"]
    assert subprocess.run(shown, env=environment(), capture_output=True, text=True, check=True).stdout.startswith("1.4")


def test_hydra_1_4_warns_of_nothing(hydra_14: str, folder: Path) -> None:
    sweep = ("-m", *IdxSet.OVERRIDES, "seed=0,1")
    commands: dict[str, Sequence[str]] = {
        "a run": IdxSet.OVERRIDES,
        "joblib": (*sweep, "hydra/launcher=joblib"),
        "a sweep with its loggers": (*sweep, "hydra/job_logging=default", "hydra/hydra_logging=default"),
        "a search": ("-m", *IdxSet.OVERRIDES, "search=optuna", "search.n_trials=2", "optimizer.lr=interval(0.01,0.1)"),
        "the official search": (*OFFICIAL, "hydra.sweeper.direction=maximize", "optimizer.lr=interval(0.01,0.1)"),
    }
    for what, command in commands.items():
        done = run_by(hydra_14, *command, cwd=folder)
        assert done.returncode == 0 and "arning" not in done.stderr, (what, done.stderr)
        assert done.stdout.count("\n") == 1
