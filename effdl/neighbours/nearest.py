"""Nearest neighbours by exact distances, of which matrix products leave few to be worked out."""

import torch
from torch import Tensor

from effdl.neighbours.points import Points, lower, upper
from effdl.neighbours.watching import Watch, unwatched

STRIP = 2**24  # bounds that are worked out at once, unless memory allows less


def nearest(
    points: Points, places: Tensor, among: Tensor, k: int, strip: int = STRIP, watch: Watch = unwatched
) -> tuple[Tensor, Tensor]:
    """The k nearest neighbours of some samples among others, nearest first; no sample is its own neighbour.

    Args:
        places (a,), among (b,): places in the points' order; each sample has k others among them at least.
        k: from 1.
        strip: bounds to work out at once. watch: is given these strips.

    Returns:
        Squared distances (a, k) in float64 and places (a, k).
    """
    strips = places.split(max(1, strip // len(among)))
    found = [_of_strip(points, rows, among, k) for rows in watch(strips, len(strips), f"neighbours of {len(places):,} samples")]
    return torch.cat([distances for distances, _ in found]), torch.cat([neighbours for _, neighbours in found])


def _of_strip(points: Points, rows: Tensor, among: Tensor, k: int) -> tuple[Tensor, Tensor]:
    first, second = points.squares[rows], points.squares[among]
    bounds = lower(points.values(rows) @ points.values(among).T, first, second, points.slack)
    bounds[rows[:, None] == among] = torch.inf
    least, at = bounds.topk(k, 1, largest=False)
    reach = upper(least, first[:, None], second[at], points.slack).amax(1)  # as many as k are no farther
    row, column = (bounds.double() <= reach[:, None]).nonzero(as_tuple=True)
    places = among[column]
    exact = points.exact(rows[row], places)
    order = in_order(row, exact, points.order[places])
    begins = torch.searchsorted(row[order], torch.arange(len(rows), device=row.device))
    taken = order[begins[:, None] + torch.arange(k, device=row.device)]
    return exact[taken], places[taken]


def in_order(row: Tensor, distance: Tensor, index: Tensor) -> Tensor:
    """The order (p,) by row, then distance, then index."""
    order = index.argsort(stable=True)
    order = order[distance[order].argsort(stable=True)]
    return order[row[order].argsort(stable=True)]
