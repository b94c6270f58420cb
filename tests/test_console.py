"""What people see while runs run."""

import re
import time

import pytest

from effdl.errors import ConfigError
from effdl.records import report, tracking
from effdl.records.report import Console, headline
from effdl.reproduce.console import shared


def shown(runs: int, failed: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines off a terminal, of runs that end at once."""
    with Console(runs) as console:
        console.begin()
        for i in range(runs):
            ended = {"status": "error", "reason": "no"} if i == failed else {"status": "finished", "summary": {"test/acc": 0.5}}
            console.done({"name": f"run {i}", **ended})
    return capsys.readouterr().err.splitlines()


def test_off_a_terminal_each_of_some_runs_has_a_line_with_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    few = shown(3, 1, capsys)
    assert [line.rpartition("] ")[2] for line in few] == ["run 0: test/acc 0.5", "run 1: error: no", "run 2: test/acc 0.5"]
    assert [line.split("]")[0].split(",")[0] for line in few] == ["[1/3", "[2/3", "[3/3"]
    assert " left" in few[1] and " left" not in few[2]


def test_of_thousands_of_quick_runs_only_some_have_lines_but_each_failure_has(capsys: pytest.CaptureFixture[str]) -> None:
    many = shown(5000, 3000, capsys)
    assert len(many) < 10 and any("run 3000: error: no" in line for line in many) and many[-1].startswith("[5000/5000] ")


def test_time_left_does_not_count_what_records_answered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(report.time, "monotonic", lambda: now)
    ended = {"name": "run", "status": "finished", "summary": {}}
    with Console(100) as console:
        for _ in range(90):
            console.done(ended)
        console.begin()
        for _ in range(2):
            now += 60
            console.done(ended)
    assert [line.split("]")[0] for line in capsys.readouterr().err.splitlines()[-2:]] == [
        "[91/100, 9 min left",
        "[92/100, 8 min left",
    ]


def test_what_takes_long_says_how_far_it_is_though_one_item_takes_all_the_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "QUIET_S", 0.2)
    with tracking.tracking() as track:
        for i in track(range(4), "counting", 4):
            time.sleep((0.5, 0.01, 0.5, 0.01)[i])
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"effdl: counting 0/4, 0\.\d s so far", lines[0])
    assert any(re.fullmatch(r"effdl: counting 2/4, 0\.\d s left", line) for line in lines) and len(lines) > 2
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_what_fails_or_is_quick_shows_nothing_more(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with tracking.tracking() as track:
            for i in track(range(2), "counting", 2):
                raise ConfigError(str(i))

    monkeypatch.setattr(tracking, "QUIET_S", 0.05)
    with pytest.raises(ConfigError, match="0"):
        fail()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [([12, 12, 12], 2, 24), ([10, 1, 1, 1], 2, 10), ([4, 4], 8, 4), ([3, 2, 1], 1, 6), ([], 2, 0)],
)
def test_runs_are_not_shared_in_halves(seconds: list[float], workers: int, expected: float) -> None:
    assert shared(seconds, workers) == expected


def test_a_run_tells_its_three_memory_peaks_side_by_side_and_those_alone_that_it_has() -> None:
    summary = {"test/acc": 0.5, "memory/accounted_peak_bytes": 2**20, "memory/resident_peak_bytes": 3 * 2**20}
    told = headline({"status": "finished", "summary": {**summary, "memory/process_peak_bytes": 40 * 2**20}})
    assert told == "test/acc 0.5, memory step 1 MiB / resident 3 MiB / process 40 MiB"
    assert headline({"status": "finished", "summary": summary}).endswith("memory step 1 MiB / resident 3 MiB")


def test_a_filtered_run_tells_share_scope_and_time_beside_its_accuracy() -> None:
    kept = {"filter/kept_share": 0.30165, "filter/scope": "inputs, whole set", "time/filter_s": 13.4}
    told = headline({"status": "finished", "summary": {"test/acc": 0.5, "time/train_s": 20.0, **kept}})
    assert told == "test/acc 0.5, time/train_s 20, filter kept 30.2% (inputs, whole set) in 13 s"
