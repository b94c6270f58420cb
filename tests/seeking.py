"""Small searches for tests, and what of a study a search that is repeated must have again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from effdl.records.report import Silent
from effdl.search.search import search
from effdl.search.setting import Optuna, Random
from effdl.search.storage import opened

SMALL = ("method=backprop", "method.epochs=2", "arch=mlp", "arch.hidden=[8]", "dataset.train_limit=256", "hardware=cpu")
LR = "optimizer.lr=tag(log,interval(1e-3,1))"


class Quiet(Silent):
    """A reporter that keeps what is said."""

    def __init__(self, left: int = 0) -> None:
        self.left, self.said, self.results = left, [], []  # type: tuple[int, list[str], list[dict[str, Any]]]

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)

    def done(self, result: dict[str, Any]) -> None:
        self.results.append(result)


def searched(root: Path, *arguments: str, workers: int = 1, shown: Any = Quiet, **settings: Any) -> dict[str, Any]:
    return search(Optuna(**{"sampler": Random(), **settings}), [*SMALL, *arguments], root, workers, shown)


def study(told: Mapping[str, Any]) -> optuna.Study:
    return optuna.load_study(study_name=told["study"], storage=opened(None, Path(told["path"])))


def trials(told: Mapping[str, Any]) -> list[Any]:
    """Of each trial what a search that is repeated must have again."""
    return [(one.number, one.state.name, one.params, one.values, one.intermediate_values) for one in study(told).trials]
