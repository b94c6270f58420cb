"""Loggers: mirrors of the records, never needed, never part of a run's identity, never able to stop a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from effdl.errors import one_line
from effdl.setting import Setting


class Session(Protocol):
    """One run as a logger sees it."""

    def log(self, step: int, line: Mapping[str, Any]) -> None:
        """Line ``step``, from 0, of metrics.jsonl. A run that goes on shows the lines up to its checkpoint again."""

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """What summary.json holds, or None where the run stopped before its end; nothing comes after."""


class Logger(Setting, ABC):
    """Something that wants to see each line of metrics. ``logger=none`` is the absence of one."""

    @abstractmethod
    def open(self, folder: Path, name: str, config: Mapping[str, Any]) -> Session:
        """Begin, or go on with, a run: ``folder`` is <results>/runs/<run_id>, ``name`` its label for people."""


class Log:
    """A run's logger, or none; its first failure is said in one line, and the run goes on without it."""

    def __init__(
        self, logger: Logger | None, say: Callable[[str], None], folder: Path, name: str, config: Mapping[str, Any]
    ) -> None:
        self._say = say
        self._session: Session | None = None
        self._shown = 0
        if logger is not None:
            self._try(lambda: setattr(self, "_session", logger.open(folder, name, config)))

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close(None)

    def show(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Show what was not shown yet of the run's lines."""
        for step in range(self._shown, len(lines)):
            if (session := self._session) is not None:
                self._try(lambda session=session, step=step: session.log(step, lines[step]))  # type: ignore[misc]
        self._shown = len(lines)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Close the session; only the first time counts."""
        session, self._session = self._session, None
        if session is not None:
            self._try(lambda: session.close(summary))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever it is, the records do not depend on it
            self._session = None
            self._say(f"logger: {one_line(error)}; the run goes on without it")
