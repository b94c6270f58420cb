"""Images of which each pixel has a label, whole in memory as bytes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.datasets.moments import Moments, moments, parts
from effdl.datasets.split import Samples, Split
from effdl.errors import DataError
from effdl.objectives.objective import Objective


class Masked(Split):
    """Images x (N, C, H, W) and labels of their pixels y (N, H, W), both of 8 bits; 255 is ignored. Batches have labels as
    int64, which for all images would take eight times as much.

    Raises DataError where labels are not of the size of the images.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if len(x) != len(y) or x.shape[2:] != y.shape[1:]:
            raise DataError(f"images are {[*x.shape]} and their labels {[*y.shape]}: each pixel of an image needs one")
        self.x, self.y = x, y

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def take(self, index: Tensor) -> "Masked":
        return Masked(self.x[index], self.y[index])

    def to(self, device: torch.device) -> "Masked":
        return Masked(self.x.to(device), self.y.to(device))

    def check(self, where: str) -> None:
        """Raise a DataError for an image without a label, of which nothing can be learned."""
        if len(empty := (self.y == Objective.ignore_index).flatten(1).all(1).nonzero().flatten()):
            raise DataError(
                f"{len(empty):,} of {len(self.y):,} {where} images have no pixel with a label, first image {int(empty[0])}: "
                "leave them out"
            )

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        for index in indices:
            yield Batch(self.x[index], self.y[index].long(), index)

    def batches(self, size: int) -> Iterator[Batch]:
        return self.gather(torch.arange(len(self), device=self.y.device).split(size))

    def moments(self, by_pixel: bool = False) -> Moments:
        return moments(parts(self.x), by_pixel)

    def reading_seconds(self, samples: int) -> float:
        return 0.0

    def tensors(self) -> Samples:
        return Samples(self.x, self.y)
