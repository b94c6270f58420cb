"""Nearest: how well digits are told apart by nearest neighbours in what the first layer makes of them."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.neighbours.editing import nearest_neighbour_accuracy
from effdl.probes.probe import Probe
from effdl.probes.single_images import Of, Places, drawn, features, groups, lowest, side_by_side
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class Nearest(Probe):
    """1-nearest-neighbour accuracy on single validation images, the neighbours being training images, before the first epoch
    too: the share of ``queries`` images whose nearest neighbour, by Euclidean distance, shows the same digit.

    ``acc``: in the first layer's representation, see `single_images.features`; before the first epoch the control of a layer
    that has learned nothing. ``above``: that less ``chance``, what neighbours drawn at random would reach, Σ p_c q_c of the
    digits' shares among images and neighbours. ``pixels``: in the standardised pixels, once. Images are the same at each look.

    of: "product" is the thesis's representation, "output" what the first block puts out of it. places: where samples are of
    several images, neighbours are at the "same" place (the mean over places counts), or at "all" of them.
    references, queries: how many training and validation images, at most.
    """

    begins: ClassVar[bool] = True

    of: Of = "product"
    places: Places = "same"
    references: Count = 10000
    queries: Count = 5000

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        check_images(self, problem, arch, self.of)
        if problem.val < 1:
            raise ConfigError(
                "probe=nearest: there are no validation images, of which neighbours are looked for; dataset.val_size=5000, say"
            )

    def measure(self, look: Look) -> dict[str, float]:
        if (seen := lowest(look)) is None:
            return {}
        learning, problem = seen
        known, asked = (
            drawn(split, count, problem.seed)
            for split, count in ((problem.train_split, self.references), (problem.val_split, self.queries))
        )
        k = side_by_side(problem.train_split)
        found = self._accuracy(lambda x, at: features(look, x, at, self.of), known, asked, k)
        by_chance = chance(known.y, asked.y)
        told = {"acc": found, "above": found - by_chance, "chance": by_chance, "queries": float(len(asked))}
        if learning.epoch == 0:
            told["pixels"] = self._accuracy(lambda x, at: features(look, x, at, None), known, asked, k)
        return told

    def _accuracy(self, made: Callable[[Tensor, Tensor], Tensor], known: Samples, asked: Samples, k: int) -> float:
        shares = []
        for theirs, ours in zip(groups(known, k, self.places), groups(asked, k, self.places), strict=True):
            shares.append(accuracy(made(*theirs[:2]), theirs[2], made(*ours[:2]), ours[2]))
        return sum(shares) / len(shares)


def accuracy(known: Tensor, labels: Tensor, asked: Tensor | None = None, truth: Tensor | None = None) -> float:
    """`nearest_neighbour_accuracy` of features (N, F) and (M, F) with their labels; NaN where one is not finite."""
    if not all(bool(torch.isfinite(z).all()) for z in (known, asked) if z is not None):
        return float("nan")
    return nearest_neighbour_accuracy(known, labels, asked, truth)


def chance(known: Tensor, asked: Tensor) -> float:
    """How often labels (N,) and (M,) agree where one of each is drawn at random."""
    classes = int(max(known.max(), asked.max())) + 1
    return float(sum((known == c).double().mean() * (asked == c).double().mean() for c in range(classes)))


def check_images(probe: Probe, problem: Facts, arch: ArchFacts, of: Of) -> None:
    """Raise a ConfigError unless these are images of classes, and the network one of linear layers where its product counts."""
    name = f"probe={probe.snake_name()}"
    if not problem.is_image or problem.targets != "classes":
        what = "vectors" if not problem.is_image else f"images with targets that are {problem.targets}"
        raise ConfigError(f"{name}: looks at images of classes, and these are {what}; leave the probe out")
    if of == "product" and not arch.linear:
        raise ConfigError(
            f"{name}: of=product is of a first layer that is linear, which this network's is not known to be; "
            f"probe.{probe.snake_name()}.of=output takes any"
        )
