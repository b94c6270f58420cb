"""Which samples are redundant, exactly: all their k nearest neighbours are of their own class (thesis §5.4).

A sample is redundant if its k-th nearest neighbour of its own class is nearer than any sample of another. So the first is found
for each sample, within its class, and then the proof that none of another class is as near: mostly by lower bounds in 96
dimensions, which a tile of samples of one class shares with those of others, in both directions. Where these do not say, by
products of all features, which are exact to a known bound; where these do not say, by exact distances.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat

import numpy as np
import torch
from torch import Tensor

from effdl.neighbours.embedding import Embedding
from effdl.neighbours.nearest import nearest
from effdl.neighbours.points import Points, lower, upper
from effdl.neighbours.watching import Watch, unwatched

TILE = 512  # samples a side: bounds of a tile stay in a processor's cache
PENDING = 2**20  # pairs that wait for their exact distances


def redundant(parts: Sequence[tuple[Tensor, Tensor]], k: int, memory: int, watch: Watch = unwatched) -> Tensor:
    """Whether each sample is, (n,) booleans, among those of its own part; in classes of no more than k samples none is.

    Args:
        parts: of each x (m, d), any real dtype, and y (m,), class indices. k: from 1.
        memory: bytes to hold beside x, and beside some 900 a sample.
        watch: is given tiles of pairs, which take about as long within a class as between two.
    """
    found: list[Tensor] = []

    def tiles() -> Iterator[None]:
        for x, y in parts:
            found.append(torch.zeros(len(x), dtype=torch.bool, device=x.device))
            counts = torch.bincount(y)
            searched = counts[y] > k
            order = torch.argsort(y + len(counts) * ~searched, stable=True)  # class by class, those without search at the end
            if bool(searched.any()):
                search = _Search(Points.of(x, memory, order), counts[counts > k].tolist(), k, memory)
                yield from search.tiles()
                found[-1][order[: len(search.undecided)]] = search.undecided

    x = parts[0][0]
    total, samples = sum(_tiles(torch.bincount(y), k) for _, y in parts), sum(len(y) for _, y in parts)
    with torch.autocast(x.device.type, enabled=False), torch.no_grad():
        for _ in watch(tiles(), total, f"neighbours of {samples:,} samples"):
            pass
    return torch.cat(found)


def _tiles(counts: Tensor, k: int) -> int:
    """How many `_Search.tiles` there are of classes of so many samples."""
    sizes, left = counts[counts > k].tolist(), int(counts.sum())
    total = 0
    for size in sizes:
        left -= size
        total += _pieces(size) * (_pieces(size) + _pieces(left))
    return total


def _pieces(samples: int) -> int:
    return -(-samples // TILE)


@dataclass(eq=False)
class _Search:
    """Samples in the order of their classes; of those that are searched, what is known. All else is by place in the order."""

    points: Points
    sizes: list[int]
    k: int
    memory: int
    undecided: Tensor = field(init=False)  # not known to be kept
    reach: Tensor = field(init=False)  # upper bounds of the squared distance of the k-th of the own class, −1 where decided
    least: Tensor = field(init=False)  # lower bounds of it
    pending: list[tuple[Tensor, Tensor]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        count = sum(self.sizes)
        self.undecided = torch.ones(count, dtype=torch.bool, device=self.points.x.device)
        self.reach, self.least = self.points.squares.new_empty(2, count).unbind()

    def tiles(self) -> Iterator[None]:
        """Decides, tile by tile of pairs: then the redundant ones are `undecided`."""
        begins = [0, *np.cumsum(self.sizes).tolist()]
        for begin, end in pairwise(begins):
            for count in self._reach(begin, end):
                yield from repeat(None, _pieces(end - begin) * _pieces(count))
        embedding = Embedding.of(self.points, max(TILE, self.memory // (64 * self.points.x.shape[1])))
        wanted = torch.full((len(self.points),), -torch.inf, dtype=self.points.dtype, device=self.points.x.device)
        wanted[: len(self.reach)] = _rounded_up(self.reach, self.points.dtype)
        for begin, end in pairwise(begins):
            for start in range(begin, end, TILE):
                rows = slice(start, min(start + TILE, end))
                for other in range(end, len(self.points), TILE):
                    self._tile(embedding, wanted, rows, slice(other, min(other + TILE, len(self.points))))
                    yield
        self._settle(wanted)

    def _reach(self, begin: int, end: int) -> Iterator[int]:
        """Bounds of the k-th distances within a class, for so many of its samples after the other.

        Of upper bounds Uᵢⱼ = |xᵢ|² + |xⱼ|² − 2xᵢ·xⱼ + β(|xᵢ|² + |xⱼ|²) the k-th is one. Whoever is nearer than that has a norm
        of at most |xᵢ| + √U, so that its own bound is off by 2β(|xᵢ|² + (|xᵢ| + √U)²) at most; U less that is a lower bound.
        """
        squares, slack = self.points.squares[begin:end], self.points.slack
        raised = ((1 + slack) * squares).to(self.points.dtype)
        for start, bounds in self._products(begin, end):
            bounds.mul_(-2).add_(raised)
            bounds.diagonal(start - begin).fill_(torch.inf)
            kth, here = _kth(bounds, self.k), slice(start, start + len(bounds))
            own = self.points.squares[here]
            self.reach[here] = ((1 + slack) * own + kth).clamp_min(0) + slack * own * 1e-2
            farthest = (own.sqrt() + self.reach[here].sqrt()).square()
            self.least[here] = self.reach[here] - 2.2 * slack * (own + farthest)
            yield len(bounds)

    def _products(self, begin: int, end: int) -> Iterator[tuple[int, Tensor]]:
        """Inner products of samples of a class with all of it, as (first place, (a, all)), whole where memory allows."""
        size, values = end - begin, self.points.values
        step = max(1, self.memory // 4 // (size * self.points.dtype.itemsize))
        if step < size:
            right = values(slice(begin, end)).T
            for start in range(begin, end, step):
                yield start, values(slice(start, min(start + step, end))) @ right
            return
        whole, rows = self.points.x.new_empty(size, size, dtype=self.points.dtype), values(slice(begin, end))
        for start in range(0, size, TILE):  # the upper blocks, of which the lower ones are mirror images
            part = slice(start, start + TILE)
            torch.mm(rows[part], rows[start:].T, out=whole[part, start:])
            whole[start + TILE :, part] = whole[part, start + TILE :].T
        for start in range(0, size, TILE):
            yield begin + start, whole[start : start + TILE]

    def _tile(self, embedding: Embedding, wanted: Tensor, rows: slice, columns: slice) -> None:
        bounds = embedding.left[rows] @ embedding.right[columns].T
        near = (bounds.amin(1) <= wanted[rows]).nonzero()[:, 0] + rows.start
        if len(near):
            self._look(wanted, near, columns)
        near = (bounds.amin(0) <= wanted[columns]).nonzero()[:, 0] + columns.start
        if len(near):
            self._look(wanted, near, rows)

    def _look(self, wanted: Tensor, samples: Tensor, others: slice) -> None:
        """By all features: samples whose neighbours some others surely are, and pairs of which it is not sure."""
        values, slack = self.points.values, self.points.slack
        dots = values(samples) @ values(others).T
        bounds = lower(dots, self.points.squares[samples], self.points.squares[others], slack)
        nearest_at = bounds.min(1)
        highest = upper(nearest_at.values, self.points.squares[samples], self.points.squares[others][nearest_at.indices], slack)
        kept = highest < self.least[samples]
        self._keep(wanted, samples[kept])
        open_ = ~kept & (nearest_at.values.double() <= self.reach[samples])
        if bool(open_.any()):
            row, column = (bounds[open_].double() <= self.reach[samples[open_], None]).nonzero(as_tuple=True)
            self.pending.append((samples[open_][row], column + others.start))
            if sum(len(pair[0]) for pair in self.pending) > PENDING:
                self._settle(wanted)

    def _settle(self, wanted: Tensor) -> None:
        """Pending pairs by exact distances."""
        if not self.pending:
            return
        sample, other = (torch.cat(parts) for parts in zip(*self.pending, strict=True))
        self.pending.clear()
        live = self.undecided[sample]
        sample, other = sample[live], other[live]
        if not len(sample):
            return
        rows, row = torch.unique(sample, return_inverse=True)
        distance, kth = self._kth_exact(rows)
        enemies = self.points.exact(sample, other)
        lower_index = self.points.order[other] < self.points.order[kth[row]]
        nearer = (enemies < distance[row]) | ((enemies == distance[row]) & lower_index)
        self._keep(wanted, sample[nearer])

    def _kth_exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance and place of the k-th nearest of the own class; rows in their order."""
        found, end = [], 0
        for size in self.sizes:
            begin, end = end, end + size
            mine = rows[(rows >= begin) & (rows < end)]
            if len(mine):
                among = torch.arange(begin, end, device=rows.device)
                found.append(nearest(self.points, mine, among, self.k, max(1, self.memory // 64)))
        return torch.cat([one[:, -1] for one, _ in found]), torch.cat([one[:, -1] for _, one in found])

    def _keep(self, wanted: Tensor, samples: Tensor) -> None:
        self.undecided[samples] = False
        wanted[samples] = -torch.inf


def _kth(values: Tensor, k: int) -> Tensor:
    """The k-th least of each row (a, b), in float64; may disorder the rows. NumPy's selection is three times torch's on a CPU.

    Of blocks of about √(b/k) values the k with the least minima hold k values, of which none is above any value elsewhere: so
    minima are selected from first, and then these blocks' values.
    """
    if values.device.type != "cpu":
        return values.kthvalue(k, 1).values.double()
    block = math.isqrt(values.shape[1] // k)
    if block > 1:
        count = values.shape[1] // block
        blocks = values[:, : count * block].view(len(values), block, count)
        taken = torch.from_numpy(np.argpartition(blocks.amin(1).numpy(), k - 1, axis=1)[:, None, :k])
        own = blocks.gather(2, taken.expand(-1, block, -1)).flatten(1)
        values = torch.cat([own, values[:, count * block :]], 1)
    rows = values.numpy()
    rows.partition(k - 1, axis=1)
    return torch.from_numpy(rows[:, k - 1].astype(np.float64))


def _rounded_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """In a dtype of less precision, no less than they are."""
    rounded = values.to(dtype)
    return torch.where(rounded.double() < values, torch.nextafter(rounded, rounded.new_tensor(torch.inf)), rounded)
