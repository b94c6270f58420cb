"""What objectives take forward and backward, time and memory, beside torch's cross-entropy, in turns in one run on one thread.

    python scripts/bench_objectives.py [time] [memory]

Nothing here is a test.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from bench import Row, medians, report
from torch import Tensor

from effdl.config import build_choice
from effdl.costs.memory import LiveStorages

SHAPES = {"128 × 1000": (128, 1000), "16 × 21 × 224 × 224": (16, 21, 224, 224)}
OBJECTIVES = ("exp_ga", "pow3_ga", "linear_mse", "tanh_mse", "sigmoid_bce", "softmax_ce")
# Others are torch's own operations; tanh, or the logarithm of a logistic unit, takes about as long as a whole cross-entropy.
JUDGED = {"128 × 1000": ("exp_ga", "pow3_ga"), "16 × 21 × 224 × 224": ("exp_ga", "pow3_ga", "linear_mse", "tanh_mse")}
Loss = Callable[[Tensor, Tensor], Tensor]


def drawn(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    return torch.randn(shape, generator=generator).requires_grad_(), y


def both_ways(loss: Loss, x: Tensor, y: Tensor) -> Callable[[], object]:
    def once() -> None:
        x.grad = None
        loss(x, y).mean().backward()

    return once


def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(x, y, reduction="none")


def time() -> Iterator[Row]:
    """Seconds of both, in turns."""
    for label, shape in SHAPES.items():
        x, y = drawn(shape)
        for name in OBJECTIVES:
            ours, peer = medians(both_ways(build_choice("objective", name).loss, x, y), both_ways(cross_entropy, x, y))
            yield f"{name}, {label}, over cross_entropy", ours / peer, "≤ 1.1" if name in JUDGED[label] else "for comparison"


def memory() -> Iterator[Row]:
    """Most bytes that a step makes beyond outputs and targets, over its gradient's: one copy more is 2, but for what is of the
    losses' size and the rows of images that are worked on."""
    for label, shape in SHAPES.items():
        x, y = drawn(shape)
        for name in ("cross_entropy", *OBJECTIVES):
            loss = cross_entropy if name == "cross_entropy" else build_choice("objective", name).loss
            with LiveStorages() as storages:
                storages.book([x, y], "parameter")
                held = storages.live
                both_ways(loss, x, y)()
            wanted = "≤ 2.05" if name in JUDGED[label] else "for comparison"
            yield f"bytes of {name}, {label}, over its gradient's", (storages.peak - held) / x.nbytes, wanted


if __name__ == "__main__":
    report({"time": time, "memory": memory}, {"time": time, "memory": memory})
