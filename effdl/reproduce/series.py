"""What a declaration's measures read of a run's series, which are rows of (segment, epoch, value)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Series = Mapping[str, Sequence[Sequence[float | None]]]


def lists(series: Series | None, key: str) -> dict[int, NDArray[np.float64]]:
    """By epochs behind, rising, the list that was recorded then, in its order; NaN in the place of null.

    Empty of a run that recorded none. All segments' are one list, so it is for runs of one segment.
    """
    looks: dict[int, list[float]] = {}
    for _, epoch, value in series.get(key, []) if isinstance(series, Mapping) else []:
        assert epoch is not None
        looks.setdefault(int(epoch) + 1, []).append(np.nan if value is None else value)
    return {epoch: np.array(values) for epoch, values in sorted(looks.items())}


def curve(series: Series | None, key: str) -> list[tuple[int, float]]:
    """(epochs behind, number) in the order of epochs, of those that have a number."""
    return [(epoch, float(values[0])) for epoch, values in lists(series, key).items() if not np.isnan(values[0])]


def peak(series: Series | None, key: str) -> tuple[float, float]:
    """(epochs until a series was first highest, how high); of a run that recorded none, no numbers."""
    points = curve(series, key)
    epoch, value = max(points, key=lambda point: (point[1], -point[0])) if points else (float("nan"), float("nan"))
    return float(epoch), value


def last_of_segments(series: Series | None, key: str) -> list[float]:
    """The last number of each segment that recorded one, from the bottom; empty of a run that recorded none."""
    points = series.get(key, []) if isinstance(series, Mapping) else []
    by_segment = {segment: float(value) for segment, _, value in points if segment is not None and value is not None}
    return [by_segment[segment] for segment in sorted(by_segment)]
