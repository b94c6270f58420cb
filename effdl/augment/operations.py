"""What policies are made of: operations at some strength, carried out on batches in which each image has its own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from effdl.augment import colours, index_maps

MOST_TRANSLATED = 150 / 331  # of a side


@dataclass(frozen=True)
class Operation:
    """What a name in a policy stands for.

    apply: for those that move, (strengths (N,), height, width) -> matrices; for those that blend, `colours.blend_`, which does
    all of them; for others, (images, strengths (N, 1, 1, 1)) in place.
    strength: (magnitude in 0..1, side in pixels) -> what ``apply`` takes, for each of the bins.
    signed: the magnitude is taken with a random sign.
    """

    apply: Callable[..., Tensor]
    strength: Callable[[Tensor, int], Tensor] = lambda magnitude, side: magnitude
    signed: bool = False


def _moving(matrices: Callable[[Tensor, int, int], Tensor], strength: Callable[[Tensor, int], Tensor]) -> Operation:
    return Operation(matrices, strength, signed=True)


def _blending(operation: Callable[..., Tensor]) -> Operation:
    return Operation(operation, lambda m, side: 0.9 * m, signed=True)


def _plain(operation: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(lambda images, strength: operation(images))


MOVING = {
    "shear_x": _moving(index_maps.shear_x, lambda m, side: 0.3 * m),
    "shear_y": _moving(index_maps.shear_y, lambda m, side: 0.3 * m),
    "translate_x": _moving(index_maps.translate_x, lambda m, side: MOST_TRANSLATED * side * m),
    "translate_y": _moving(index_maps.translate_y, lambda m, side: MOST_TRANSLATED * side * m),
    "rotate": _moving(index_maps.rotate, lambda m, side: 30 * m),
}
BLENDING = dict.fromkeys(("brightness", "saturation", "contrast"), _blending(colours.blend_))
OTHERS = {
    "sharpness": _blending(lambda images, change: colours.sharpness_(images, 1 + change)),
    "posterize": Operation(colours.posterize_, lambda m, side: (8 - 4 * m).round()),
    "solarize": Operation(colours.solarize_, lambda m, side: 1 - m),
    "auto_contrast": _plain(colours.auto_contrast_),
    "equalize": _plain(colours.equalize_),
    "invert": _plain(colours.invert_),
}
OPERATIONS = {**MOVING, **BLENDING, **OTHERS}
NAMES = [*OPERATIONS]
NOTHING = len(NAMES)


class Variants:
    """Operations (K,), each at a strength (K,), for images of a size; the variant after them, ``nothing``, leaves them alone.

    A policy has few, so where each takes its pixels is worked out once.
    """

    def __init__(self, operation: Tensor, strength: Tensor, height: int, width: int) -> None:
        strength = strength.double()
        self.nothing = len(operation)
        self.operation = torch.cat([operation, operation.new_tensor([NOTHING])])
        self.strength = torch.cat([strength, strength.new_zeros(1)]).view(-1, 1, 1, 1)
        moving = (operation < len(MOVING)).nonzero().flatten()
        matrices = [OPERATIONS[NAMES[operation[k]]].apply(strength[k, None], height, width) for k in moving]
        still = torch.eye(2, 3, dtype=strength.dtype).unsqueeze(0)
        self.maps = index_maps.affine(torch.cat([still, *matrices]), height, width)
        # The row of ``maps`` that each variant takes: those that do not move have the first.
        self.row = torch.zeros_like(self.operation).index_copy_(0, moving, 1 + torch.arange(len(moving)))

    def applied(self, images: Tensor, drawn: Tensor) -> Tensor:
        """On each image (N, C, H, W) the S variants ``drawn`` for it, (N, S) on the CPU, one after the other."""
        operations = self.operation[drawn]
        if images.shape[1] == 1:  # grey images have no colour to take away
            operations = operations.where(operations != NAMES.index("saturation"), NOTHING)
        place = torch.arange(len(images))  # where each image lies
        for variant, operation in zip(drawn.unbind(1), operations.unbind(1), strict=True):
            order = operation.argsort()
            images = images.index_select(0, place[order].to(images.device))
            self._carry_out_(images, variant[order], torch.bincount(operation, minlength=NOTHING + 1).tolist())
            place = order.argsort()
        return images.index_select(0, place.to(images.device))

    def _carry_out_(self, images: Tensor, variant: Tensor, counts: list[int]) -> None:
        """In place, for images in the order of their operations: number k is for ``counts[k]`` of them."""
        blends, others = len(MOVING), len(MOVING) + len(BLENDING)
        kinds = [sum(counts[:blends]), sum(counts[blends:others]), sum(counts[others:])]
        moved, blended, changed = images.split(kinds)
        _, change, strength = self.strength[variant].to(images.device).split(kinds)
        if len(moved):
            self._move_(moved, variant[: len(moved)])
        if len(blended):
            colours.blend_(blended, counts[blends:others], 1 + change)
        parts = zip(OTHERS.values(), changed.split(counts[others:]), strength.split(counts[others:]), strict=False)
        for operation, part, its in parts:
            if len(part):
                operation.apply(part, its)

    def _move_(self, images: Tensor, variant: Tensor) -> None:
        self.maps = self.maps.to(images.device)  # once, as batches stay on a device
        row = self.row[variant].to(images.device)
        images.copy_(index_maps.taken(images, self.maps.index_select(0, row)))
