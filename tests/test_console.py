"""What people see while runs run."""

import pytest

from effdl.records.report import Console


def shown(runs: int, failed: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines off a terminal, of runs that end at once."""
    with Console(runs) as console:
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
