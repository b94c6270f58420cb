"""What least squares is about: features of all samples beside their targets, whole or in parts that are made when asked for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Design:
    """Features Z (m, n) and targets Y (m, k), read in parts: ``rows()`` gives (z, y) of some samples, then of the next.

    samples: m, even where a `reduced` design has fewer rows. like: an empty tensor of Z's dtype and device. held: Z and Y where
    they lie in memory; otherwise each pass makes them anew.
    """

    rows: Callable[[], Iterable[Rows]]
    samples: int
    features: int
    targets: int
    like: Tensor
    held: Rows | None = None

    @classmethod
    def of(cls, z: Tensor, y: Tensor, chunk: int = 4096) -> "Design":
        """A design of features and targets in memory, read ``chunk`` samples at a time."""
        m, n = z.shape

        @cache  # for narrow layers it is a cost that shows
        def parts() -> list[Rows]:
            return list(zip(z.split(chunk), y.split(chunk), strict=True))

        return cls(parts, m, n, y.shape[1], z.new_empty(0), (z, y))

    def changed(self, change: Callable[[Tensor], Tensor], features: int, hold: bool) -> "Design":
        """The design of the same samples with features ``change(z)``, worked out at once (hold) or anew in each pass.

        If at once, then from all of Z together where that lies in memory.
        """
        if hold and self.held is not None:
            return Design.of(change(self.held[0]), self.held[1], max(len(z) for z, _ in self.rows()))
        made = Design(lambda: ((change(z), y) for z, y in self.rows()), self.samples, features, self.targets, self.like)
        return made.kept() if hold else made

    def kept(self) -> "Design":
        """The same design, held in memory."""
        parts = list(self.rows())
        return Design.of(torch.cat([z for z, _ in parts]), torch.cat([y for _, y in parts]), max(len(z) for z, _ in parts))

    def whole(self) -> Rows:
        """Z and Y as two tensors, put together from their parts where they are not held."""
        held = self.held or self.kept().held
        assert held is not None
        return held

    def reduced(self) -> "Design":
        """A design with the same least squares solutions in at most n + k rows: the R of a QR decomposition of [Z | Y].

        R has the inner products of [Z | Y], so that weights, distances and singular values are the same up to rounding.
        """
        z, y = self.whole()
        r = torch.linalg.qr(torch.cat([z.T, y.T]).T, mode="r").R  # by columns, as LAPACK wants them
        z, y = r[:, : self.features], r[:, self.features :]
        return Design(lambda: [(z, y)], self.samples, self.features, self.targets, self.like, (z, y))

    def take(self, index: Tensor) -> Tensor:
        """Features of the samples at these positions, (len(index), n)."""
        if self.held is not None:
            return self.held[0][index]
        taken: Tensor | None = None
        start = 0
        for z, _ in self.rows():
            here = (index >= start) & (index < start + len(z))
            taken = z.new_empty(len(index), z.shape[1]) if taken is None else taken
            taken[here] = z[index[here] - start]
            start += len(z)
        assert taken is not None, "a design has samples"
        return taken
