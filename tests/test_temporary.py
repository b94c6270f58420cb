"""Folders of runs without a record: they go with their run, and with the next one where that was killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from effdl.records.run import Run
from effdl.records.temporary import Temporary

HELD = """
import time, sys
from effdl.records.temporary import Temporary
made = Temporary()
(made.path / "recorded").mkdir()
(made.path / "recorded" / "0-0.epoch").write_bytes(bytes(9))
print(made.path, flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_left_goes_when_the_next_begins_and_a_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    where = {**os.environ, "TMPDIR": str(tmp_path)}
    held = [subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE, text=True, env=where) for _ in range(2)]
    try:
        killed, living = (Path(process.stdout.readline().strip()) for process in held)  # type: ignore[union-attr]
        assert killed.parent == living.parent == tmp_path
        held[0].send_signal(signal.SIGKILL)
        held[0].wait()
        assert (killed / "recorded" / "0-0.epoch").exists()
        (unlocked := tmp_path / "effdl-young").mkdir()
        (other := tmp_path / "effdl-not-ours.txt").write_text("")
        ours = Temporary()
        assert not killed.exists() and living.exists() and unlocked.exists() and other.exists()
        assert {*tmp_path.iterdir()} == {ours.path, living, unlocked, other}
    finally:
        for process in held:
            process.kill()
            process.wait()


def test_it_goes_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = Run.in_memory()
    folder = run.folder("recorded")
    assert folder == run.folder("recorded") and folder.is_dir() and folder.parent.parent == tmp_path
    del run
    assert list(tmp_path.iterdir()) == []
