"""Two real processes, as torchrun starts them on this machine: the numbers of one, one record, and no hang when one ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks_worker
import torch
from command import ROOT, IdxSet, answer, environment, files, finish, numbers, wait_for

from effdl.training.ranks import Ranks


def start(*program: str, cwd: Path, size: int = 2, **more: str) -> subprocess.Popen[str]:
    """Under torchrun, on a free port of the loopback."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [*torchrun, *program],
        cwd=cwd,
        env={**environment(**more), "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes ended in, for all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    done = finish(start(str(ROOT / "tests" / "ranks_worker.py"), str(folder), cwd=folder), 120)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


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
