"""The memory of a run's process: the kernel's own count, of this run alone, or no number at all."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, answer, environment, run

from effdl import config
from effdl.records import carry, process
from effdl.records.execute import execute
from effdl.records.process import PROCESS_PEAK, HighWater, Reading, parse

MIB = 2**20
LARGE = ("arch=mlp", "arch.hidden=[3000,3000]", "method=backprop", "method.epochs=1", "dataset.train_limit=200")
SMALL = ("arch=mlp", "arch.hidden=[8,8]", "method.epochs=1", "dataset.train_limit=200")
CLOSED = ("method=elm", "arch=mlp", "arch.hidden=[20]", "dataset.train_limit=200")
LARGE_BYTES = 3 * 4 * 3000 * 3000  # its weights in the middle, their gradients and momentum in single precision
KERNEL = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() or "VmHWM" not in Path("/proc/self/status").read_text(),
    reason="the kernel keeps no high-water mark",
)
RUNS = """
import json, sys
from pathlib import Path
from effdl import config
from effdl.records import carry

def kernel(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024

build, stood = carry.build_network, []
def sampled(*arguments):
    stood.append(kernel("VmRSS"))
    return build(*arguments)
carry.build_network = sampled
for i, overrides in enumerate(json.loads(sys.argv[1])):
    summary = carry.carry_out(config.build(config.compose(overrides)), Path(sys.argv[2]))["summary"]
    print(json.dumps({"summary": summary, "rise": kernel("VmHWM") - stood[i]}), flush=True)
"""


def in_one_process(results: Path, *runs: tuple[str, ...]) -> list[dict[str, Any]]:
    """What each run says of itself, and by how many bytes the kernel's mark then lay above where the process stood."""
    command = [sys.executable, "-c", RUNS, json.dumps(runs), str(results)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@KERNEL
def test_it_is_the_kernels_mark_above_where_the_process_stood_and_of_its_first_run_alone(tmp_path: Path) -> None:
    large, small = in_one_process(tmp_path, LARGE, SMALL)
    told = large["summary"][PROCESS_PEAK]
    assert abs(told - large["rise"]) < 4 * MIB
    assert LARGE_BYTES < told < 3 * LARGE_BYTES
    assert PROCESS_PEAK not in small["summary"]


@KERNEL
def test_a_small_run_after_large_memory_was_used_and_freed_has_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_begun", False)
    spent = torch.ones(LARGE_BYTES // 4)
    del spent
    mark = process.first_run()
    assert mark is not None
    kept = torch.ones(10 * MIB)  # 40 MiB
    assert kept.sum() and abs((mark.above() or 0) - 40 * MIB) < 4 * MIB
    del kept
    assert abs((mark.above() or 0) - 40 * MIB) < 4 * MIB


FREED = """
import torch
from effdl.records import process
from effdl.training.hardware import keep_little
torch.ones(7 * 2**20)  # 28 MiB, by whose end the library learns to keep pieces up to that size
keep_little()
pieces = [torch.ones(2 * 2**20) for _ in range(8)]
before = process.read().resident
del pieces[::2]  # 32 MiB, between such as stay
print(before - process.read().resident)
"""


@KERNEL
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_a_large_piece_goes_back_to_the_system_as_it_is_freed() -> None:
    """In a process of its own: a heap with holes of that size gives them out, and takes them back, before the system does."""
    own = {
        k: v for k, v in os.environ.items() if k not in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    }
    done = subprocess.run([sys.executable, "-c", FREED], env=own, cwd=ROOT, capture_output=True, text=True, check=True)
    assert abs(int(done.stdout) - 32 * MIB) < 4 * MIB


ASKED = """
import contextlib, io, mmap, sys
import torch
from effdl import cli, commands
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    commands.main(["--help"]) if sys.argv.pop() == "effdl" else cli.main(lambda: None)
print(torch.empty(8 * 2**20, dtype=torch.uint8).data_ptr() % mmap.PAGESIZE)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
@pytest.mark.parametrize("command", ["effdl", "run.py"])
def test_both_commands_ask_for_large_pages_unless_the_environment_says_no(command: str) -> None:
    """PyTorch then has tensors begin at a page; by themselves they begin after the head that GNU's C library gives a piece."""

    def offset(**said: str) -> int:
        own = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | said
        argument = ["--help", command] if command == "run.py" else [command]
        done = subprocess.run([sys.executable, "-c", ASKED, *argument], env=own, cwd=ROOT, capture_output=True, check=True)
        return int(done.stdout)

    assert offset() == 0
    assert offset(THP_MEM_ALLOC_ENABLE="0") != 0


@KERNEL
def test_the_three_numbers_stand_side_by_side_in_what_a_run_says(tmp_path: Path) -> None:
    done = run(*SMALL, "dataset=digits", f"results={tmp_path}", cwd=ROOT)
    names = list(answer(done)["summary"])
    first = names.index("memory/accounted_peak_bytes")
    assert names[first : first + 3] == ["memory/accounted_peak_bytes", "memory/resident_peak_bytes", PROCESS_PEAK]


@KERNEL
def test_each_run_by_epochs_has_a_process_of_its_own_and_closed_forms_share_one(tmp_path: Path) -> None:
    specs = [config.build(config.compose(one)) for one in (LARGE, SMALL, CLOSED, [*CLOSED, "seed=1"])]
    large, small, first, second = (one["summary"].get(PROCESS_PEAK) for one in execute(specs, tmp_path, workers=1))
    assert large is not None and LARGE_BYTES < large < 3 * LARGE_BYTES
    assert small is not None and small < LARGE_BYTES / 4, "not what the run before it left"
    assert first is None and second is None, "in the process of the run before"


def test_a_mark_that_an_earlier_peak_hides_is_none() -> None:
    readings = [Reading(high=500 * MIB, resident=200 * MIB)]
    assert HighWater.here(lambda: readings[-1], lambda: None) is None
    assert HighWater.here(lambda: None, lambda: None) is None
    lowered = HighWater.here(lambda: readings[-1], lambda: readings.append(Reading(200 * MIB, 200 * MIB)))
    assert lowered is not None and lowered.above() == 0
    readings.append(Reading(high=300 * MIB, resident=150 * MIB))
    assert lowered.above() == 100 * MIB


def test_a_run_that_cannot_measure_leaves_the_number_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_begun", False)
    monkeypatch.setattr(process, "read", lambda: None)
    assert PROCESS_PEAK not in carry.carry_out(config.build(config.compose(SMALL)), tmp_path)["summary"]


def test_the_kernels_kilobytes_become_bytes() -> None:
    text = "Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  20 kB\nVmRSS:\t  12 kB\nRssAnon:\t 1 kB\n"
    assert parse(text) == Reading(high=20480, resident=12288)
    assert parse("Name:\tpython\n") is None and parse(text.replace("12 kB", "")) is None


def test_on_a_mac_the_mark_is_in_bytes_and_what_is_resident_in_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"ru_maxrss": 5_000_000})
    monkeypatch.setattr(process.resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(process.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, " 4000\n", ""))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process.read() == Reading(high=5_000_000, resident=4_096_000)
