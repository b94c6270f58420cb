"""What was declared, and when: a claim's tolerance and a row's floor count if they were committed before the runs."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from effdl.errors import ConfigError
from effdl.reproduce.artefact import Declaration, parse

FREE = ("says", "note")  # of a claim: words, which may be improved later


def fixed(raw: Mapping[str, Any], scale: str) -> dict[str, str]:
    """A digest of each claim, and of the floors of a scale: what must not move once the runs are known."""
    shared = {key: raw.get(key) for key in ("metric", "unit", "statistic")}
    claims = {
        f"claims.{name}": {**shared, **{key: value for key, value in claim.items() if key not in FREE}}
        for name, claim in (raw.get("claims") or {}).items()
    }
    floors = ((raw.get("scales") or {}).get(scale) or {}).get("floors", [])
    return {name: _digest(content) for name, content in {**claims, "floors": floors}.items()}


def at(declaration: Declaration, scale: str, commit: str | None) -> dict[str, Any]:
    """The declaration as it stood in a commit: its own last commit until then, and what was fixed. Nothing without one."""
    text, own = _at(declaration.path, commit) if commit else (None, None)
    try:
        raw = parse(text) if text else {}
    except (YAMLError, OmegaConfBaseException, ConfigError):
        raw = {}
    return {"commit": own, "fixed": fixed(raw, scale) if raw else {}}


def moved(declaration: Declaration, scale: str, then: Mapping[str, Any]) -> list[str]:
    """Claims, or "floors", that are not now as they were fixed ``then``, before the runs."""
    now = fixed(declaration.raw, scale)
    return [name for name, digest in now.items() if then["fixed"].get(name) != digest]


@lru_cache(maxsize=256)
def _at(path: Path, commit: str) -> tuple[str | None, str | None]:
    own = _git(path, "log", "-1", "--format=%H", commit, "--", path.name)
    return (_git(path, "show", f"{own}:./{path.name}"), own) if own else (None, None)


def _git(path: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(path.parent), *args], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, no checkout, or an unknown commit
        return None
    return done.stdout.strip() or None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
