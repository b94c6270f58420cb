"""What would make a run shorter, for whoever only wants to see it work."""

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from effdl import config
from effdl.errors import EffdlError

TRAIN, VAL, A_CLASS = 3000, 500, 15  # samples; so many a class, that a draw seldom misses one


def shorter(spec: config.Spec) -> list[str]:
    """Settings, as one types them, that leave this run less to do; with all of them it is one that can run."""
    found, facts = list[str](), spec.dataset.facts()
    least = A_CLASS * facts.classes if facts.targets == "classes" else 0
    wanted: list[tuple[str, str, Any]] = [
        ("dataset", "train_limit", max(TRAIN, least)),
        ("dataset", "val_size", max(VAL, least)),
        ("method", "epochs", 1),
        ("method", "rounds", 1),
    ]
    for group, name, value in wanted:
        if (less := _changed(spec, group, name, value)) is not None:
            spec = less
            found.append(f"{group}.{name}={value}")
    return [*found, *(["test_every=run"] if spec.test_every != "run" else [])]


def _changed(spec: config.Spec, group: str, name: str, value: Any) -> config.Spec | None:
    """The Spec with a setting of that value; None where that leaves no less to do, or cannot run."""
    setting = getattr(spec, group)
    try:
        changed = replace(spec, **{group: replace(setting, **{name: value})})
        before, after = spec.dataset.facts(), changed.dataset.facts()
        config.check(changed)
    except (EffdlError, ValidationError, TypeError):
        return None
    if group == "dataset":
        return changed if after.train <= before.train and after.train + after.val < before.train + before.val else None
    now = getattr(setting, name)
    return changed if max(now if isinstance(now, tuple) else (now,)) > value else None
