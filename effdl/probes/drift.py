"""How far a layer's inputs move between looks (thesis §6.6, conjecture 1): without torch, since reports ask for it."""

from collections.abc import Sequence

import numpy as np


def drift(sketches: Sequence[Sequence[float]]) -> list[float]:
    """From each look to the next: ‖x' − x‖ / ‖x‖ of a layer's inputs, by their sketches; not a number where x is 0."""
    rows = np.array(sketches, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps: list[float] = (np.linalg.norm(np.diff(rows, axis=0), axis=1) / np.linalg.norm(rows[:-1], axis=1)).tolist()
    return steps
