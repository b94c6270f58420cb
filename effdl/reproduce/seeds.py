"""Which seeds a scale runs: where its evidence is fresh, they follow from what it declares, so that nobody picks them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effdl.reproduce.artefact import Declaration

FREE = ("says", "note", "ours")  # of a claim: words, which may be improved later
LOWEST, COUNT = 1_000_000, 8_000_000  # seven digits


def first(declaration: Declaration, scale: str) -> int:
    """The first seed of a scale's runs: of fresh evidence from 1,000,000 on, by the digest of claims and floors, else 0.

    Seeds below it belong to its floors.
    """
    if declaration.scale(scale).evidence != "fresh":
        return 0
    return LOWEST + int(digest([claims(declaration), floors(declaration, scale)]), 16) % COUNT


def claims(declaration: Declaration) -> dict[str, Any]:
    """name -> all of a claim but its words, with the metric and unit that it takes from the artefact."""
    raw = declaration.raw
    shared = {key: raw.get(key) for key in ("metric", "unit", "statistic")}
    return {
        name: {**shared, **{key: value for key, value in claim.items() if key not in FREE}}
        for name, claim in (raw.get("claims") or {}).items()
    }


def floors(declaration: Declaration, scale: str) -> list[Any]:
    """The floors of a scale as they are declared, and what its numbers are evidence of."""
    here = declaration.scale(scale)
    return [here.evidence, *(floor.model_dump() for floor in here.floors)]


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
