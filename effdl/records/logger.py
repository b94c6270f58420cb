"""The contract of a logger: a mirror of the records, never needed and never part of a run's identity."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from effdl.setting import Setting


class Logger(Setting, ABC):
    """Something that wants to see each line of metrics as it is written. ``logger=none`` is the absence of one."""

    @abstractmethod
    def open(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Begin, or go on with, the run of this name."""

    @abstractmethod
    def log(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""

    @abstractmethod
    def close(self, summary: Mapping[str, Any]) -> None:
        """The run's summary; nothing comes after."""
