"""What goes wrong in an exchange, in the whole command: one line, no hang, and the same command ends as one left alone."""

import subprocess
from pathlib import Path

import pytest
from command import ROOT, IdxSet, answer, finish, numbers
from test_ddp import ours, start

BREAKING = """
import os
import signal
from pathlib import Path

import torch
from torch import distributed

from effdl.objectives.losses import SoftmaxCe
from effdl.setting import setting
from effdl.training.ranks import Ranks

swap, calls = Ranks.swap, []

def breaking(self, packet, *more):
    calls.append(1)
    what = os.environ["BREAKS"] if len(calls) == 9 and not Path("broken").exists() else ""
    if self.rank == 1 and what in ("kill", "hang"):
        Path("broken").touch()
        if what == "kill":
            distributed.isend(torch.tensor([len(packet)]), 0, tag=0).wait()
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
    found = swap(self, packet, *more)
    if self.rank == 0 and what == "damage":
        Path("broken").touch()
        found[1] = found[1][:99] + bytes([found[1][99] ^ 16]) + found[1][100:]
    return found

Ranks.swap = breaking

@setting
class Breaking(SoftmaxCe):
    'The ninth exchange breaks, once.'
"""
SMALL = (*IdxSet.OVERRIDES, "arch.hidden=[12,8]", "method=backprop", "method.epochs=4", "hardware=ddp", "objective=breaking")
SYNC = ("sync=averaging", "sync.every=5", "sync.outer=nesterov", "sync.form=huffman", "sync.timeout_s=4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    IdxSet(tmp_path)
    choices = tmp_path / "plugins" / "configs" / "objective"
    choices.mkdir(parents=True)
    (tmp_path / "plugins" / "breaking.py").write_text(BREAKING)
    (choices / "breaking.yaml").write_text("# The ninth exchange breaks.\n_target_: breaking.Breaking\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "kill",
            "effdl: rank 0: stopped because rank 1 (process {pid}) ended; the same command goes on where this one stopped",
        ),
        (
            "hang",
            "rank 1 (process {pid}) has not answered within sync.timeout_s=4 seconds of an exchange; the same command",
        ),
        ("damage", "what rank 1 (process {pid}) sent came damaged (packet: damaged, its checksum is of other bytes; have it"),
    ],
)
def test_an_exchange_that_breaks_ends_in_a_line_and_the_same_command_in_the_same_numbers(
    what: str, said: str, folder: Path
) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return finish(start(str(ROOT / "run.py"), *SMALL, *SYNC, *more, cwd=folder, EFFDL_PLUGINS="plugins", BREAKS=what), 150)

    broken = run()
    before, _, after = said.partition("{pid}")
    assert broken.returncode != 0 and broken.stdout == "" and (folder / "broken").exists()
    first, *others = ours(broken)
    assert before in first and after in first and first.startswith("effdl: rank 0: ")
    assert all("stopped because rank 0 " in line for line in others) and len(others) <= 1
    (path,) = (folder / "results" / "runs").iterdir()
    assert not (path / "summary.json").exists()
    ended, left_alone = answer(run()), answer(run("results=alone"))
    assert ended["run_id"] == left_alone["run_id"] == path.name
    assert numbers(path) == numbers(folder / left_alone["path"])
    assert ended["summary"]["sync/bytes"] == left_alone["summary"]["sync/bytes"] > 0
