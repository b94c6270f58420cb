"""Information propagation, InfoPro (Wang, Ni, Song, Yang and Huang 2021, Revisiting Locally Supervised Learning)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.objectives.objective import at_least_float32
from effdl.setting import Count, NonNegative, setting
from effdl.training.local_loss import LocalLoss, Position, Seen, Term


def reconstruction(outputs: Tensor, images: Tensor) -> Tensor:
    """(B,): the mean binary cross-entropy of sigmoid(outputs), (B, C, H, W), to images of bytes over 255."""
    wanted = images.to(outputs.dtype) / 255
    return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").flatten(1).mean(1)


class Decoder(Term):
    """``weight`` times the `reconstruction` of a segment's images (C, H, W) from what it puts out.

    Maps are enlarged to the side of the images, bilinearly; then come a 3×3 convolution to ``width`` channels with batch
    normalisation and ReLU, and one to the channels of the images. Of vectors, and of tokens' mean, it is a linear layer (ours).
    """

    def __init__(self, feature_shape: tuple[int, ...], images: tuple[int, ...], width: int, weight: float) -> None:
        super().__init__()
        self.weight, self.size = weight, tuple(images[1:])
        self.of_maps = len(feature_shape) == 3
        if self.of_maps:
            first, last = nn.Conv2d(feature_shape[0], width, 3, padding=1), nn.Conv2d(width, images[0], 3, padding=1)
            self.layers = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), last)
        else:
            self.layers = nn.Sequential(nn.Linear(feature_shape[-1], math.prod(images)))

    def forward(self, seen: Seen) -> Tensor:
        assert seen.inputs is not None
        if seen.inputs.dtype != torch.uint8:
            raise ConfigError("method/loss=infopro: reconstructs images of bytes, and these are not; say method/loss=none")
        z = seen.activations[-1]
        if self.of_maps:
            z = F.interpolate(z, size=self.size, mode="bilinear", align_corners=True)
        outputs = self.layers(z.mean(1) if z.dim() == 3 else z)
        return self.weight * reconstruction(at_least_float32(outputs).view(seen.inputs.shape), seen.inputs)


@setting
class Infopro(LocalLoss):
    """λ₁ times the reconstruction of the image from the features, and λ₂ times the decision block's loss (their L_InfoPro with
    the cross-entropy for I(h, y)): an upper bound on a loss that keeps all of what features say of the image but nuisance.

    λ₁ and λ₂ go linearly from the lowest segment to the one below the top; the top one has its decision block's loss alone. The
    images are those that come into the network, as they are varied in training, before they are standardised or enlarged.

    reconstruct_first, reconstruct_last: λ₁; 5 and 0.5 there for ResNet-110 in 16 modules.
    predict_first, predict_last: λ₂; 0 and 1 there. Of two segments the lower one has the first of both, 5 and 0.5 there.
    width: channels within the decoder, 12 there.
    """

    wants_inputs = True

    reconstruct_first: NonNegative = 5.0
    reconstruct_last: NonNegative = 0.5
    predict_first: NonNegative = 0.0
    predict_last: NonNegative = 1.0
    width: Count = 12

    def check(self, problem: Facts) -> None:
        if not problem.is_image:
            raise ConfigError("method/loss=infopro: reconstructs images, and these samples are none; say method/loss=none")

    def share(self, place: Position) -> float:
        return 1.0 if place.is_top else place.between(self.predict_first, self.predict_last)

    def build(self, feature_shape: tuple[int, ...], problem: Facts, place: Position) -> Term | None:
        if place.is_top:
            return None
        weight = place.between(self.reconstruct_first, self.reconstruct_last)
        return Decoder(feature_shape, problem.input_shape, self.width, weight)
