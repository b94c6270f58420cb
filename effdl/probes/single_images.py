"""What a network's first block makes of a single image, where its samples are several side by side (Demirbilek, appendix B)."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from effdl.archs.linear import linear_layer
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples, Split
from effdl.errors import ConfigError
from effdl.training.look import Learning, Look

Of = Literal["product", "output"]
Places = Literal["same", "all"]
PART = 1024  # images at once


def drawn(split: Split, count: int, seed: int) -> Samples:
    """At most so many of a split's single images with their labels, drawn by this seed."""
    pool = split.singles()
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return pool.take(order[:count].to(pool.y.device)).tensors()


def side_by_side(split: Split) -> int:
    """How many single images stand in a sample."""
    return split.input_shape[-1] // split.singles().input_shape[-1]


def alone(look: Look, images: Tensor, places: Tensor) -> Tensor:
    """Standardised samples (B, ...) with one image each, at these places (B,) of a row; all else in them is zero, so that it
    adds nothing to a product.

    images: (B, C, H, W), as they are stored.

    Raises:
        ConfigError: the input block changes the images' size, so that their places are not known.
    """
    assert look.learning is not None and look.learning.problem is not None
    split, block = look.learning.problem.train_split, look.learning.below[0]
    k = side_by_side(split)
    if k == 1:
        whole: Tensor = block(images)
        return whole
    width = images.shape[-1]
    within = torch.arange(k * width, device=images.device).div(width, rounding_mode="floor") == places[:, None]
    row: Tensor = block(images.repeat(1, 1, 1, k))
    if row.shape[-1] != k * width:
        raise ConfigError(
            f"probe: this network's input block makes images of {row.shape[-1]} columns of {k * width}, in which the single "
            "ones cannot be found; take one that leaves their size, such as arch=mlp"
        )
    return row * within[:, None, None]


def features(look: Look, images: Tensor, places: Tensor, of: Of | None) -> Tensor:
    """(B, F): of single images, each at its place, the first layer's product with their part of its weights, without a bias
    ("product", figure B.1), what the first block puts out ("output"), or None: the standardised pixels themselves."""

    def parts() -> Iterator[Tensor]:
        name, first = next(look.blocks.named_children())
        weight = linear_layer(name, first).linear.weight if of == "product" else None
        for x, at in zip(images.split(PART), places.split(PART), strict=True):
            z = alone(look, x, at)
            yield (first(z) if of == "output" else z if weight is None else z.flatten(1) @ weight.T).flatten(1)

    return torch.cat(list(parts()))


def groups(samples: Samples, k: int, places: Places) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, their places in a row of k, and their labels, within which neighbours are looked for: all images at each of the
    places ("same"), or, once, each image at one of them in turn ("all")."""
    turns = torch.arange(len(samples), device=samples.y.device) % k
    for at in [turns] if places == "all" else [torch.full_like(turns, place) for place in range(k)]:
        yield samples.x, at, samples.y


def lowest(look: Look) -> tuple[Learning, Problem] | None:
    """How blocks learn that single images reach by nothing but the input block, and from what; None of others."""
    learning = look.learning
    if learning is None or learning.problem is None or len(learning.below) != 1:
        return None
    return learning, learning.problem
