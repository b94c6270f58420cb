"""run.py as a user calls it: in a process of its own, with everything that it prints and leaves on disk."""

import gzip
import json
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest

from effdl.records import kept
from effdl.records.process import of_the_machine
from effdl.records.report import Silent

Process = subprocess.Popen[str] | forked.Forked
ROOT = Path(__file__).parents[1]
CLASSES, SIDE = 10, 4
HOW_FAR = re.compile(r"^effdl: [\w ]+ \d+/\d+, .* (left|so far)\n", re.MULTILINE)  # of which a loaded machine says more


def environment(**more: str) -> dict[str, str]:
    """No GPU, one thread, and no data folder unless one is named."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EFFDL", "HYDRA", "PYTEST"))}
    return {**kept, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "EFFDL_DATA": "data", **more}


USUAL, AHEAD = environment(), True  # AHEAD: whether libraries may be imported ahead of a command


def start(*arguments: str, cwd: Path, script: str = "run.py", fresh: bool = False, **more: str) -> Process:
    """In a session of its own, so that all its descendants can be found. script: a file, or a module to run.

    fresh: by a Python of its own from the first import on, where that is what a test is about.
    """
    program = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
    own = environment(**more)
    if AHEAD and not fresh and forked.possible(own, USUAL):
        return forked.Forked([*program, *arguments], cwd, own, USUAL)
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(process: Process) -> None:
    """All of its session that still runs; nothing where it has ended before."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def finish(process: Process, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, HOW_FAR.sub("", err))


def run_here(*arguments: str) -> int:
    """run.py in this process, which saves three seconds of imports; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", *arguments])
        try:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def run(
    *arguments: str, cwd: Path, script: str = "run.py", timeout: float = 240, fresh: bool = False, **more: str
) -> subprocess.CompletedProcess[str]:
    return finish(start(*arguments, cwd=cwd, script=script, fresh=fresh, **more), timeout)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of standard output."""
    answered: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answered


def files(folder: Path) -> set[str]:
    """Everything below, folders too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def wait_for(condition: Callable[[], Any], process: Process, every: float = 0.005) -> Any:
    """What the condition says once it is true; fails if the process ends before."""
    until = time.monotonic() + 240
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "waited too long"
        time.sleep(every)
    return found


def numbers(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """metrics.jsonl and the summary of a finished run, without what the machine says."""
    lines = [untimed(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, untimed(json.loads((folder / "summary.json").read_text())["summary"])


def noted(folder: Path, **metrics: Any) -> None:
    """The record of a finished run becomes that of one which ended with these metrics, and with the files that are there."""
    summary = kept.without_note(json.loads((folder / "summary.json").read_text()))
    summary["summary"] |= metrics
    (folder / "summary.json").write_text(json.dumps(kept.noted(folder, summary)))


def untimed(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not of_the_machine(name)}


class IdxSet:
    """A small MNIST-like set under ``data``, 400 training and 40 test images of 4×4 pixels, for tests to damage."""

    OVERRIDES = (  # what it takes to train on it, in a tenth of a second
        "dataset=mnist",
        "arch=mlp",
        "arch.hidden=[8]",
        "dataset.batch_size=20",
        "dataset.val_size=100",
        "method.epochs=1",
        "hardware.threads=1",
    )

    def __init__(self, root: Path) -> None:
        self.folder = root / "data" / "MNIST" / "raw"
        self.folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        for name, count in (("train", 400), ("t10k", 40)):
            labels = (np.arange(count) % CLASSES).astype(np.uint8)
            images = generator.integers(0, 50, (count, SIDE, SIDE)).astype(np.uint8)
            images.reshape(count, -1)[np.arange(count), labels] = 255
            self.write(f"{name}-images-idx3-ubyte", images)
            self.write(f"{name}-labels-idx1-ubyte", labels)

    def write(self, name: str, array: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
        (self.folder / name).write_bytes(header + array.tobytes())

    def labels(self, name: str) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        return np.frombuffer((self.folder / name).read_bytes()[8:], np.uint8).copy()

    def relabel(self, name: str, old: int, new: int) -> None:
        """Every label ``old`` of a file becomes ``new``."""
        labels = self.labels(name)
        self.write(name, np.where(labels == old, np.uint8(new), labels))

    def rewrite(self, name: str, change: Callable[[bytes], bytes]) -> None:
        path = self.folder / name
        path.write_bytes(change(path.read_bytes()))

    def compress(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Replace a file by its gzipped form, changed."""
        path = self.folder / name
        (self.folder / f"{name}.gz").write_bytes(change(gzip.compress(path.read_bytes())))
        path.unlink()


class Heard(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def made_old(record: Path) -> None:
    """A finished record as it was before records knew what they held."""
    path = record / "summary.json"
    summary = json.loads(path.read_text())
    del summary["files"], summary["checksum"]
    path.write_text(json.dumps(summary))
