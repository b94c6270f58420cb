"""The wandb logger for real, offline: what its files hold against metrics.jsonl, and what it leaves behind."""

import json
import os
import pty
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import ROOT, Heard, answer, environment, files, finish, numbers, run, start, wait_for

from effdl import config
from effdl.records import carry
from effdl.records.wandb import Wandb

QUICK = ("arch=mlp", "arch.hidden=[8]", "method.epochs=2", "dataset.train_limit=300")
OFFLINE = (*QUICK, "logger=wandb", "logger.mode=offline")


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; nobody is logged in."""
    for name in [n for n in os.environ if n.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def spec(*overrides: str) -> config.Spec:
    return config.build(config.compose([*overrides]))


def records(session: Path) -> Iterator[Any]:
    """The records of a session by wandb's own schema; the file is a LevelDB log: blocks of 32 KiB, crc, length, kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = session.glob("run-*.wandb")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def history(session: Path) -> list[dict[str, Any]]:
    """The lines that were logged, in the order of the file, without what wandb adds; each at its own step."""
    found = [r.history for r in records(session) if r.WhichOneof("record_type") == "history"]
    assert [h.step.num for h in found] == list(range(len(found)))
    return [{k: v for k, v in values(h.item).items() if not k.startswith("_")} for h in found]


def summary(session: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(session):
        found |= values(record.summary.update)
    return found


def exit_code(session: Path) -> int:
    (code,) = [r.exit.exit_code for r in records(session) if r.WhichOneof("record_type") == "exit"]
    return int(code)


def sessions(results: Path, run_id: str) -> list[Path]:
    return list((results / "wandb").glob(f"*run-*-{run_id}"))


def services(folder: Path) -> list[str]:
    """Processes of wandb that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"wandb" in (process / "cmdline").read_bytes().split(b"\0")[0] and (process / "cwd").resolve() == folder:
                found.append(process.name)
        except OSError:  # gone, or not ours
            continue
    return found


def check(result: dict[str, Any], results: Path) -> None:
    """The one session of a finished run holds each line once, and its summary."""
    (session,) = sessions(results, result["run_id"])
    lines = [json.loads(line) for line in (Path(result["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert history(session) == lines and len(lines) > 3
    shown = summary(session)
    assert {k: shown[k] for k in result["summary"]} == result["summary"]
    assert (shown["status"], shown["seed"], exit_code(session)) == ("finished", result["seed"], 0)
    (begun,) = [r.run for r in records(session) if r.WhichOneof("record_type") == "run"]
    assert (begun.run_id, begun.project, begun.display_name) == (result["run_id"], "effdl", result["name"])
    assert values(begun.config.update)["arch"]["hidden"] == [8]


@pytest.mark.parametrize(
    ("environment", "setting", "begun"),
    [
        ("offline", None, "offline"),
        ("dryrun", None, "offline"),
        ("run", None, "online"),
        (None, None, "online"),
        ("", None, "online"),
        ("online", "offline", "offline"),
        ("offline", "online", "online"),
    ],
)
def test_wandbs_own_variable_says_the_mode_unless_the_config_does(
    environment: str | None, setting: Any, begun: str, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    modes: list[Any] = []
    monkeypatch.setattr("effdl.records.wandb._WandbRun", lambda wandb, options, *_: modes.append(options.mode))
    Wandb(mode=setting).open(stranger / "results" / "runs" / "run", "run", {})
    assert modes == [begun]


def test_disabled_means_no_session_and_another_word_is_said(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, said in (("disabled", []), ("sideways", ["logger: WANDB_MODE is 'sideways'; effdl knows online, offline and"])):
        monkeypatch.setenv("WANDB_MODE", mode)
        heard = Heard()
        done = carry.carry_out(spec(*QUICK, "logger=wandb"), stranger / mode, heard)
        assert done["status"] == "finished" and not (stranger / mode / "wandb").exists()
        assert [line[: len(text)] for line, text in zip(heard.lines, said, strict=True)] == said


def test_offline_files_hold_every_number_of_the_record_and_nothing_else_is_left(stranger: Path) -> None:
    done = run(*OFFLINE, cwd=stranger)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1 and "wandb" not in done.stderr
    check(answer(done), stranger / "results")
    assert {Path(f).parts[0] for f in files(stranger)} == {"results"} and services(stranger) == []
    without = carry.carry_out(spec(*QUICK), stranger / "plain")
    assert numbers(Path(without["path"])) == numbers(stranger / answer(done)["path"])
    assert without["run_id"] == answer(done)["run_id"]


@pytest.mark.slow
def test_run_that_was_killed_goes_on_as_one_run_with_every_step_once(stranger: Path) -> None:
    longer = (*OFFLINE, "method.epochs=300")
    process = start(*longer, cwd=stranger)
    checkpoint = wait_for(lambda: list(stranger.glob("results/runs/*/checkpoint")), process)[0]
    metrics = checkpoint.with_name("metrics.jsonl")
    seen = len(metrics.read_bytes())
    wait_for(lambda: len(metrics.read_bytes()) > seen + 500, process)
    process.send_signal(signal.SIGKILL)
    finish(process)  # waits for the end of what writes to its pipes, wandb's service too
    run_id = checkpoint.parent.name
    (first,) = sessions(stranger / "results", run_id)
    assert len(history(first)) < 600  # a killed service may have written nothing: hence all lines come again
    done = run(*longer, cwd=stranger)
    check(answer(done), stranger / "results")
    assert answer(done)["run_id"] == run_id
    assert not first.exists() and services(stranger) == []


@pytest.mark.slow
def test_sweeps_workers_log_each_run_as_one(stranger: Path) -> None:
    done = run("-m", *OFFLINE, "seed=0,1,2", "workers=2", "logger.group=three", "logger.tags=[a,b]", cwd=stranger)
    runs = answer(done)["runs"]
    assert done.returncode == 0 and len(runs) == 3 and "logger" not in done.stderr
    for result in runs:
        check({**result, "path": stranger / result["path"]}, stranger / "results")
        (session,) = sessions(stranger / "results", result["run_id"])
        (begun,) = [r.run for r in records(session) if r.WhichOneof("record_type") == "run"]
        assert begun.run_group == "three" and list(begun.tags) == ["a", "b"]
    assert services(stranger) == []


def test_without_a_login_there_is_one_line_and_no_question_even_on_a_terminal(stranger: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "run.py"), *QUICK, "logger=wandb"]
    done = subprocess.run(
        command, cwd=stranger, env=environment(), stdin=theirs, capture_output=True, text=True, timeout=120, check=False
    )
    os.close(ours), os.close(theirs)
    assert done.returncode == 0 and answer(done)["status"] == "finished"
    said = [line for line in done.stderr.splitlines() if line.startswith("effdl:")]
    (line,) = [line for line in said if not line.endswith("s so far")]  # on a busy machine it says what it waits for
    assert "`wandb login`" in line and "logger.mode=offline" in line and line.endswith("the run goes on without it")
    assert services(stranger) == []


def test_without_a_network_there_is_one_line_after_the_stated_time(stranger: Path) -> None:
    done = run(
        *QUICK, "logger=wandb", "logger.timeout=1", cwd=stranger, WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9"
    )
    assert done.returncode == 0 and answer(done)["status"] == "finished"
    (line,) = [line for line in done.stderr.splitlines() if "logger" in line]
    assert line.startswith("effdl: logger: ") and line.endswith("the run goes on without it")
    assert services(stranger) == []


def test_without_wandb_the_line_says_how_to_install_it(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    heard = Heard()
    assert carry.carry_out(spec(*OFFLINE), stranger / "results", heard)["status"] == "finished"
    (line,) = heard.lines
    assert "pip install 'effdl[wandb]'" in line and line.endswith("the run goes on without it")


def test_diverged_run_is_seen_as_that_and_the_process_is_as_before(stranger: Path) -> None:
    before = sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    result = carry.carry_out(spec(*OFFLINE, "optimizer.lr=1e30", "logger.dir=elsewhere"), stranger / "results")
    assert result["status"] == "diverged"
    (session,) = sessions(stranger / "elsewhere", result["run_id"])
    shown = summary(session)
    assert (shown["status"], shown["reason"], exit_code(session)) == ("diverged", result["reason"], 1)
    assert (sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert services(stranger) == []


class Server:
    """wandb's module as far as the logger uses it; the server already has five steps of the run."""

    run = None
    Settings = dict

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def setup(self, settings: Any) -> None: ...

    def login(self, **how: Any) -> bool:
        return how == {"prompt": False, "verify": False}

    def init(self, **options: Any) -> Any:
        self.calls.append(("init", options["id"], options["resume"]))
        return SimpleNamespace(
            step=5,
            dir=f"{options['dir']}/wandb/run-x/files",
            summary={},
            log=lambda line, step, commit: self.calls.append((step, line, commit)),
            finish=lambda exit_code: self.calls.append(("finish", exit_code)),
        )

    def teardown(self) -> None:
        self.calls.append("teardown")


def test_steps_that_the_server_has_are_not_sent_again(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", server)  # type: ignore[arg-type]
    session = Wandb().open(stranger / "results" / "runs" / "abc", "name", {})
    for step in range(7):
        session.log(step, {"train/loss": step / 2})
    session.close(None)
    sent = [(5, {"train/loss": 2.5}, True), (6, {"train/loss": 3.0}, True)]
    assert server.calls == [("init", "abc", "allow"), *sent, ("finish", 1), "teardown"]
