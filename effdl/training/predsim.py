"""Similarity matching beside prediction, "predsim" (Nøkland and Eidnes 2019, Training Neural Networks with Local Error
Signals)."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from effdl.datasets.dataset import Facts
from effdl.objectives.objective import at_least_float32
from effdl.setting import setting
from effdl.training.local_loss import LocalLoss, Position, Seen, Term, check_classes


def similarities(features: Tensor) -> Tensor:
    """The cosine of the angle between each two rows of (B, n), each row's own mean taken off first: (B, B) within [-1, 1].

    A row without variance has 0 with all.
    """
    centred = features - features.mean(1, keepdim=True)
    directions = F.normalize(centred, dim=1, eps=1e-8)
    return directions @ directions.T


def similarity_matching(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """(B,): of each sample the mean over the batch, itself included, of (S(features) − S(one-hot y))², see `similarities`.

    Its mean is ‖S(h) − S(Y)‖²_F / B², as in their experiments; the equation there is without the 1 / B². S of one-hot labels is
    1 for two samples of a class and −1 / (classes − 1) for others.
    """
    wanted = similarities(F.one_hot(y, classes).to(features))
    return (similarities(features) - wanted).square().mean(1)


class SimilarityMatching(Term):
    """``weight`` times `similarity_matching` of what a segment puts out, behind a layer of its own.

    Maps (C, H, W) go through a 3×3 convolution, C to C, and each of its C maps counts with its standard deviation over places;
    maps of a single place, tokens and vectors go through a linear layer, n to n, and count as they are.
    """

    def __init__(self, feature_shape: tuple[int, ...], classes: int, weight: float) -> None:
        super().__init__()
        self.classes, self.weight = classes, weight
        self.of_maps = len(feature_shape) == 3 and feature_shape[1] * feature_shape[2] > 1
        if self.of_maps:
            self.layer: nn.Module = nn.Conv2d(feature_shape[0], feature_shape[0], 3, padding=1, bias=False)
        else:
            width = feature_shape[-1] if len(feature_shape) < 3 else feature_shape[0]
            self.layer = nn.Linear(width, width, bias=False)

    def forward(self, seen: Seen) -> Tensor:
        z = seen.activations[-1]
        if self.of_maps:
            features = at_least_float32(self.layer(z)).flatten(2).std(2)
        else:
            features = at_least_float32(self.layer(z.flatten(1) if z.dim() == 4 else z))
            features = features.mean(1) if features.dim() == 3 else features
        return self.weight * similarity_matching(features, seen.y, self.classes)


@setting
class Predsim(LocalLoss):
    """(1 − β) times the decision block's loss and β times similarity matching, in each layer (their equation 4).

    Of several processes each compares the samples of its own part of a batch.

    beta: β; 0.99 there, 0 is the decision block's loss ("pred"), and with 1 the decision block does not learn ("sim").
    """

    beta: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.99

    def check(self, problem: Facts) -> None:
        check_classes(self, problem)

    def share(self, place: Position) -> float:
        return 1 - self.beta

    def build(self, feature_shape: tuple[int, ...], problem: Facts, place: Position) -> Term | None:
        return SimilarityMatching(feature_shape, problem.outputs, self.beta) if self.beta > 0 else None
