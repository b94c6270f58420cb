"""t-SNE of what the first layer makes of single images (Demirbilek, appendix B), beside controls."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.probes.nearest import accuracy, check_images
from effdl.probes.probe import Probe
from effdl.probes.single_images import Of, Places, drawn, features, groups, lowest, side_by_side
from effdl.setting import Count, Positive, Size, setting
from effdl.training.look import Look


@setting
class Tsne(Probe):
    """Single training images in the plane by scikit-learn's t-SNE, before the first epoch and, by default, after the last.

    ``x``, ``y``: the points of the first ``shown`` images, of the layer's representation, see `Nearest`; ``untrained_x`` and
    ``untrained_y`` before the first epoch, ``pixels_x`` and ``pixels_y`` of their pixels, and ``digit``, what they show.
    ``acc``, ``untrained_acc``, ``pixels_acc``: for how many of all ``samples`` points in the plane, a share, the nearest other
    one shows the same. The layer before the first epoch is the control of one that has learned nothing.

    samples: images that are embedded, at most; the thesis has 7,500, its author's program 5,000 for one digit a sample.
    perplexity, seed: of t-SNE; 30 is scikit-learn's own, 123 his. every: an embedding of 7,500 takes a minute.
    """

    begins: ClassVar[bool] = True

    every: Count = 1000
    of: Of = "product"
    places: Places = "same"
    samples: Count = 7500
    perplexity: Positive = 30.0
    seed: Size = 123
    shown: Count = 300

    def __post_init__(self) -> None:
        if self.samples <= self.perplexity:
            raise ValueError(self._too_few(self.samples))

    def _too_few(self, samples: int) -> str:
        return (
            f"probe.tsne: {samples} samples are too few for a perplexity of {self.perplexity:g}, which must be less; more of "
            "them, or a smaller probe.tsne.perplexity"
        )

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        check_images(self, problem, arch, self.of)
        if problem.train <= self.perplexity:
            raise ConfigError(self._too_few(problem.train))

    def measure(self, look: Look) -> dict[str, Any]:
        if (seen := lowest(look)) is None:
            return {}
        learning, problem = seen
        images, places, digits = next(
            groups(drawn(problem.train_split, self.samples, problem.seed), side_by_side(problem.train_split), self.places)
        )
        kinds: dict[str, Of | None] = {"": self.of} if learning.epoch else {"untrained_": self.of, "pixels_": None}
        found: dict[str, Any] = {"samples": float(len(digits))}
        if learning.epoch == 0:
            found["digit"] = digits[: self.shown].tolist()
        for prefix, of in kinds.items():
            plane = self.embedded(features(look, images, places, of))
            found[f"{prefix}acc"] = accuracy(plane, digits)
            for axis, values in zip("xy", plane[: self.shown].T, strict=True):
                found[prefix + axis] = [round(value, 2) for value in values.tolist()]
        return found

    def embedded(self, z: Tensor) -> Tensor:
        """(N, F) -> (N, 2), in float64 on the device of z."""
        from sklearn.manifold import TSNE

        plane = TSNE(perplexity=self.perplexity, random_state=self.seed).fit_transform(z.detach().float().cpu().numpy())
        return torch.from_numpy(plane).double().to(z.device)
