"""Loggers: mirrors of the records, never needed, never part of a run's identity, never able to stop a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from effdl.setting import Setting


class Session(Protocol):
    """One run as a logger sees it."""

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, as it is written."""

    def close(self, summary: Mapping[str, Any]) -> None:
        """What summary.json holds; nothing comes after."""


class Logger(Setting, ABC):
    """Something that wants to see each line of metrics. ``logger=none`` is the absence of one."""

    @abstractmethod
    def open(self, run_id: str, config: Mapping[str, Any]) -> Session:
        """Begin, or go on with, the run of this name."""


class Log:
    """A run's logger, or none; its first failure is said in one line, and the run goes on without it."""

    def __init__(self, logger: Logger | None, say: Callable[[str], None], run_id: str, config: Mapping[str, Any]) -> None:
        self._say = say
        self._session: Session | None = None
        if logger is not None:
            self._try(lambda: setattr(self, "_session", logger.open(run_id, config)))

    def line(self, line: Mapping[str, Any]) -> None:
        if (session := self._session) is not None:
            self._try(lambda: session.log(line))

    def close(self, summary: Mapping[str, Any]) -> None:
        if (session := self._session) is not None:
            self._try(lambda: session.close(summary))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever it is, the records do not depend on it
            self._session = None
            self._say(f"logger: {type(error).__name__}: {' '.join(str(error).split())}; the run goes on without it")
