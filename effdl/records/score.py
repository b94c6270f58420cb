"""The score that chooses between runs: of a run's own summary, on validation samples."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from effdl.config import Spec
from effdl.errors import ConfigError, EffdlError
from effdl.objectives.objective import HIGHER

FINAL = ("diverged", "failed")  # ends that are a run's answer: the worst score


def metric(spec: Spec) -> str:
    """Accuracy on validation samples, their squared error where there are no classes, mean intersection over union where pixels
    have labels. Raises ConfigError."""
    if not spec.dataset.val_size:
        raise ConfigError("dataset.val_size: a search chooses by validation samples, of which there are none")
    return {"vectors": "val/mse", "pixels": "val/miou"}.get(spec.dataset.facts().targets, "val/acc")


def direction(name: str) -> Literal["minimize", "maximize"]:
    """Which way a score of that name is better."""
    return "maximize" if name.rpartition("/")[2] in HIGHER else "minimize"


def worst(name: str, sought: str | None = None) -> float:
    """The worst that a run can have. sought: the direction in which a search goes, by default the better one."""
    if (sought or direction(name)) == "maximize":
        return 0.0 if direction(name) == "maximize" else -math.inf
    return math.inf


def score(spec: Spec, result: Mapping[str, Any]) -> float:
    """A result's score, the worst where the run diverged or failed. Raises EffdlError where it did not end."""
    name = metric(spec)
    if result["status"] in FINAL:
        return worst(name)
    if result["status"] != "finished":
        raise EffdlError(f"{result['name']}: {result['status']}: {result['reason']}")
    return float(result["summary"][name])
