"""Weights & Biases as a logger: a mirror of metrics.jsonl on its server, or in files that `wandb sync` brings there."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from effdl.errors import RecordError
from effdl.home import at_home
from effdl.records.logger import Logger, Session
from effdl.setting import Positive, setting


@setting
class Wandb(Logger):
    """Each run of effdl is a run of wandb with the same id, each line of metrics.jsonl a step of it.

    mode: "offline" needs neither account nor network; `wandb sync <dir>/wandb/offline-run-*` uploads later. Null, the default:
    what the environment variable WANDB_MODE says (online, offline, disabled), else "online".
    entity: team or user, by default the account's. group, tags: as wandb shows them.
    dir: folder in which wandb makes its own, ``wandb``; by default the results folder.
    timeout: seconds to wait for the server at the start, and again at the end of a run. A run never waits for a login: without
    one (`wandb login` or WANDB_API_KEY) it goes on without this logger.
    """

    project: str = "effdl"
    mode: Literal["online", "offline"] | None = None
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    dir: str | None = None
    timeout: Positive = 30.0

    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Session:
        if (mode := self.mode or _mode_of_environment()) is None:
            return _Disabled()
        try:
            import wandb
        except ImportError as error:
            raise RecordError(f"logger=wandb needs wandb ({error}): pip install 'effdl[wandb]'") from None
        where = at_home(self.dir, "logger.dir") if self.dir is not None else folder.parents[1]
        where.mkdir(parents=True, exist_ok=True)
        shown = {"name": name, "config": dict(config)}
        return _WandbRun(wandb, replace(self, mode=mode), where.resolve(), folder.name, shown)


MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": None,
}  # as wandb reads them


def _mode_of_environment() -> Any:
    said = os.environ.get("WANDB_MODE") or "online"
    if said not in MODES:
        raise RecordError(f"WANDB_MODE is {said!r}; effdl knows online, offline and disabled")
    return MODES[said]


class _Disabled:
    """WANDB_MODE=disabled: the user wants nothing logged."""

    def log(self, step: int, line: Mapping[str, Any]) -> None: ...

    def close(self, summary: Mapping[str, Any] | None) -> None: ...


class _WandbRun:
    """One wandb run, in a service process of its own that is gone when it closes.

    A run that goes on resumes its wandb run on the server, where steps that arrived before are left out. Offline nothing can
    be appended, and `wandb sync` lets the last upload of an id win: so each session holds all lines from the first, and the
    earlier sessions' folders go when it closes.
    """

    def __init__(self, wandb: Any, options: Wandb, where: Path, run_id: str, shown: dict[str, Any]) -> None:
        self._wandb, self._run_id = wandb, run_id
        self._alone = wandb.run is None  # a program that has a run of its own open keeps it
        settings = wandb.Settings(
            mode=options.mode,
            silent=True,  # standard output is ours, its last line is read by programs
            console="off",
            init_timeout=options.timeout,
            finish_timeout=options.timeout,
            finish_timeout_raises=True,
        )
        hooks = sys.exit, sys.excepthook
        try:
            if self._alone:
                wandb.setup(settings)
            if options.mode == "online" and not wandb.login(prompt=False, verify=False):
                raise RecordError("wandb has no login: run `wandb login`, set WANDB_API_KEY, or say logger.mode=offline")
            self._run = wandb.init(
                project=options.project,
                entity=options.entity,
                group=options.group,
                tags=options.tags,
                dir=str(where),
                id=run_id,
                resume="allow" if options.mode == "online" else None,
                reinit="create_new",
                settings=settings,
                **shown,
            )
            self._next: int = self._run.step
        except BaseException:
            self._teardown()
            raise
        finally:
            sys.exit, sys.excepthook = hooks  # wandb wraps both for good
        self._offline = options.mode == "offline"

    def log(self, step: int, line: Mapping[str, Any]) -> None:
        if step >= self._next:
            self._run.log(dict(line), step=step, commit=True)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        try:
            if summary is not None:
                self._run.summary.update({**{k: v for k, v in summary.items() if k != "summary"}, **summary["summary"]})
            own = Path(self._run.dir).parent
            self._run.finish(exit_code=0 if summary is not None and summary["status"] == "finished" else 1)
            if self._offline:
                for earlier in set(own.parent.glob(f"offline-run-*-{self._run_id}")) - {own}:
                    shutil.rmtree(earlier)
        finally:
            self._teardown()

    def _teardown(self) -> None:
        if self._alone:
            self._wandb.teardown()
