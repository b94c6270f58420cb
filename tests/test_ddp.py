"""Two real processes, as torchrun starts them on this machine: the numbers of one, one record, and no hang when one ends."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import command
import picture
import pytest
import ranks_worker
import torch
from command import ROOT, IdxSet, answer, files, finish, numbers, wait_for

from effdl.training.ranks import Ranks


def start(*program: str, cwd: Path, size: int = 2, **more: str) -> command.Process:
    """Under torchrun, on a free port of the loopback."""
    torchrun = ("--standalone", f"--nproc_per_node={size}", *program)
    return command.start(*torchrun, cwd=cwd, script="torch.distributed.run", GLOO_SOCKET_IFNAME="lo", **more)


def launched(worker: str, folder: Path, size: int) -> list[dict[str, Any]]:
    """What each of so many processes of a script beside this one has put down."""
    done = finish(start(str(ROOT / "tests" / f"{worker}.py"), str(folder), cwd=folder, size=size), 240)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(size)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes ended in, for all cases."""
    return launched("ranks_worker", tmp_path_factory.mktemp("ranks"), 2)


def close(ours: Any, expected: Any) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ranks_worker.CASES)
def test_limit_two_processes_end_where_one_does_at_the_same_batches(name: str, ended: list[dict[str, Any]]) -> None:
    alone = ranks_worker.CASES[name](Ranks())
    assert len(alone["weights"]) >= 6 and all(w.dtype == torch.float64 for w in alone["weights"].values())
    for rank in range(2):
        found = ended[rank][name]
        assert found["weights"].keys() == alone["weights"].keys() and found["chosen"] == alone["chosen"]
        close(found["weights"], alone["weights"])
        assert len(found["lines"]) == len(alone["lines"])
        for ours, expected in zip(found["lines"], alone["lines"], strict=True):
            untimed = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in (ours, expected)]
            close(*untimed)


def test_limit_with_batch_normalisation_it_is_torchs_own_data_parallel_training(ended: list[dict[str, Any]]) -> None:
    for rank in range(2):
        ours, theirs = (ended[rank][name]["weights"] for name in ("norm, ours", "norm, torch's"))
        assert any("running_mean" in key for key in ours)
        trained = {k: v for k, v in theirs.items() if rank == 0 or "running" not in k}  # torch leaves rank 1 its own statistics
        close({k: ours[k] for k in trained}, trained)
        close(ours, ended[0]["norm, ours"]["weights"])


def test_each_process_draws_its_own_dropout_and_the_first_what_one_would(ended: list[dict[str, Any]]) -> None:
    alone = ranks_worker.step_seeds(Ranks())
    assert ended[0]["drawn"] == alone and ended[1]["drawn"] != alone
    assert ended[0]["agreed"] and ended[1]["agreed"]


# --- the whole command

SMALL = (*IdxSet.OVERRIDES, "arch.hidden=[12,8]", "method.epochs=2", "hardware=ddp")
LONG = (*SMALL, "method.epochs=400", "arch.hidden=[1500,1200]", "dataset.batch_size=50")
FAULTY = """
import os
from effdl.errors import FitFailed
from effdl.objectives.losses import SoftmaxCe
from effdl.setting import setting

calls = []

@setting
class Faulty(SoftmaxCe):
    'Something happens to one rank in its fifth step.'
    rank: int = 1
    what: str = "ValueError"

    def loss(self, outputs, y):
        losses = super().loss(outputs, y)
        if not losses.requires_grad:
            return losses
        calls.append(1)
        if os.environ["RANK"] != str(self.rank) or len(calls) != 5 + 1000 * (self.rank == 0):
            return losses
        if self.what == "not_finite":
            return losses * float("nan")
        raise {"ValueError": ValueError, "FitFailed": FitFailed, "MemoryError": MemoryError}[self.what]("out of luck")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a data set, and the objective `faulty`."""
    IdxSet(tmp_path)
    choices = tmp_path / "plugins" / "configs" / "objective"
    choices.mkdir(parents=True)
    (tmp_path / "plugins" / "faulty.py").write_text(FAULTY)
    (choices / "faulty.yaml").write_text("# One rank fails.\n_target_: faulty.Faulty\nrank: 1\nwhat: ValueError\n")
    return tmp_path


def run(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return finish(start(str(ROOT / "run.py"), *overrides, cwd=cwd, EFFDL_PLUGINS="plugins"), 120)


def ours(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What effdl says on standard error, not torchrun."""
    return [line for line in done.stderr.splitlines() if line.startswith("effdl: ")]


@pytest.mark.slow
def test_two_processes_make_one_run_with_one_answer_and_ask_again_from_the_record(folder: Path) -> None:
    done = run(*SMALL, cwd=folder)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr
    result = answer(done)
    assert result["status"] == "finished" and result["summary"]["data/train_samples"] == 2 * 2 * 300
    (path,) = (folder / "results" / "runs").iterdir()
    stored = json.loads((path / "spec.json").read_text())
    assert path.name == result["run_id"] and stored["identity"]["hardware"]["processes"] == 2
    assert done.stderr.count("peak training memory") == 1 and ours(done) == []
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 2 * 2 * 2
    before = {name: (folder / name).stat().st_mtime_ns for name in files(folder)}
    again = run(*SMALL, cwd=folder)
    assert answer(again) == result
    assert before == {name: (folder / name).stat().st_mtime_ns for name in files(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_streamed_images_train_two_processes_as_those_in_memory_do_and_nearly_as_they_train_one(
    precision: str, folder: Path
) -> None:
    picture.folders(folder / "data", train=26)
    images = ("dataset=folder", "dataset.size=12", "dataset.val_size=15", "dataset.batch_size=8", "dataset.root=data")
    network = ("arch=cnn4", "arch.widths=[4,5,6]", "method.epochs=2", "optimizer.lr=0.02", f"hardware.precision={precision}")

    def ended(done: subprocess.CompletedProcess[str]) -> tuple[str, Any, dict[str, float]]:
        assert done.returncode == 0, done.stderr
        result = answer(done)
        return result["run_id"], numbers(Path(result["path"])), result["summary"]

    def trained(memory_mib: int, workers: int) -> tuple[str, Any, dict[str, float]]:
        data = (f"dataset.memory_mib={memory_mib}", f"dataset.workers={workers}", f"results={folder}/{memory_mib}")
        done = run(*images, *network, *data, "hardware=ddp", cwd=folder)
        assert done.stderr.count("looking through") <= 1
        return ended(done)

    streamed, whole = trained(0, 1), trained(4096, 0)
    assert streamed[:2] == whole[:2]
    one = ended(command.run(*images, *network, "hardware=cpu", f"results={folder}/one", cwd=folder))[2]
    assert streamed[2]["test/loss"] == pytest.approx(one["test/loss"], rel=1e-4 if precision == "float32" else 0.03)


def killed(process: command.Process) -> None:
    """torchrun and all that it started, at once."""
    for pid in [process.pid, *children(process.pid)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_it_ends_in_the_numbers_of_a_run_left_alone(folder: Path) -> None:
    overrides = (*SMALL, "method.epochs=40", "method.input_dropout=0.3")
    left_alone = answer(run(*overrides, "results=alone", cwd=folder))
    process = start(str(ROOT / "run.py"), *overrides, cwd=folder)
    runs = folder / "results" / "runs"
    wait_for(lambda: [*runs.glob("*/checkpoint")], process)
    killed(process)
    (path,) = runs.iterdir()
    assert not (path / "summary.json").exists()
    assert answer(run(*overrides, cwd=folder))["run_id"] == left_alone["run_id"]
    assert numbers(path) == numbers(folder / left_alone["path"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("ValueError", "effdl: rank 1: dll mlp mnist seed 0 ({}): error: ValueError: out of luck ("),
        ("FitFailed", "effdl: rank 1: dll mlp mnist seed 0 ({}): error: out of luck"),
    ],
)
def test_what_happens_to_one_rank_stops_all_with_its_rank_and_message(what: str, said: str, folder: Path) -> None:
    done = run(*SMALL, "objective=faulty", f"objective.what={what}", cwd=folder)
    assert done.returncode != 0 and done.stdout == ""
    name = said.split("{")[0]
    assert sum(line.startswith(name) and said.split("}")[1] in line for line in ours(done)) == 1
    assert ours(done)[-1].startswith("effdl: rank 0: stopped because rank 1 (process ") and len(ours(done)) == 2
    assert "out of luck" in done.stderr.splitlines()[-2]  # torchrun's own report ends with it
    assert not [*(folder / "results").glob("runs/*/summary.json")]


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_rank_is_every_ones_end_and_recorded(folder: Path) -> None:
    done = run(*SMALL, "objective=faulty", "objective.what=not_finite", cwd=folder)
    result = answer(done)
    assert done.returncode != 0 and result["status"] == "diverged" and "loss is nan at segment 1 of" in result["reason"]
    assert [line.count("diverged") for line in ours(done)] == [1] and ours(done)[0].startswith("effdl: rank 0: ")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_the_other_stops_within_seconds(rank: int, folder: Path) -> None:
    process = start(str(ROOT / "run.py"), *LONG, cwd=folder)
    wait_for(lambda: [*folder.glob("results/runs/*/metrics.jsonl")], process)
    ranks = children(process.pid)
    victim = next(p for p in ranks if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{p}/environ").read_text())
    os.kill(victim, signal.SIGKILL)
    done = finish(process, 15)
    assert done.returncode != 0 and done.stdout == ""
    said = f"effdl: rank {1 - rank}: stopped because rank {rank} (process {victim}) ended; the same command goes on"
    assert len(ours(done)) == 1 and ours(done)[0].startswith(said)
    assert not any(Path(f"/proc/{p}").exists() for p in ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("hardware=cpu",), "effdl: rank 0: hardware.processes=1, but torchrun started 2: "),
        (("hardware.processes=3",), "effdl: rank 0: hardware.processes=3, but torchrun started 2: "),
        (("dataset.batch_size=3",), "effdl: rank 0: dataset.batch_size: 3 samples are too few for 2 processes"),
        (("-m", "seed=0,1"), "effdl: rank 0: -m: torchrun's 2 processes carry out one run, not a sweep"),
        (("dataset.root=elsewhere",), "effdl: rank 0: "),
    ],
)
def test_what_cannot_run_is_said_once_and_leaves_nothing(overrides: tuple[str, ...], said: str, folder: Path) -> None:
    before = files(folder)
    done = run(*SMALL, *overrides, cwd=folder)
    assert done.returncode != 0 and done.stdout == ""
    assert len(ours(done)) == 1 and ours(done)[0].startswith(said)
    assert {name for name in files(folder) if "__pycache__" not in name} == before
