"""Entropy of quantised weights (thesis §3.4, figure 3.3)."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from effdl.compression.bits import estimated_entropy
from effdl.compression.quantisation import value_range
from effdl.probes.matrices import matrices, with_head
from effdl.probes.probe import Probe
from effdl.setting import setting
from effdl.training.look import Look

Bits = Annotated[int, Field(strict=True, ge=1, le=24)]
Fraction = Annotated[float, Field(gt=0, le=1)]


@setting
class WeightEntropy(Probe):
    """``<bits>/<layer>``: entropy of each weight matrix in bits a weight, see `weight_entropy`, by which §3.5 chooses how many
    bits it is sent with. Biases and normalisation have no matrix; "output" is the layer that makes logits.

    bits: of the quantisation, from 1 to 24; algorithm 1 takes 4, and 8 lose no accuracy (§3.2).
    fractions: of a layer's weights that the entropy is estimated from, each by itself (figure 3.3); of less than 1 the key is
    ``<bits>/<fraction>/<layer>``.
    """

    begins: ClassVar[bool] = True

    bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (4, 8)
    fractions: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0,)

    def measure(self, look: Look) -> Mapping[str, float]:
        found = matrices(with_head(look))
        settings = [(bits, fraction) for bits in self.bits for fraction in self.fractions]
        return {
            f"{bits}/{name}" if fraction == 1 else f"{bits}/{fraction:g}/{name}": weight_entropy(weight, bits, fraction)
            for bits, fraction in settings
            for name, weight in found.items()
        }


def weight_entropy(weight: Tensor, bits: int, fraction: float = 1.0) -> float:
    """In bits, from 0 to ``bits``: of the shares of weights in 2^bits bins that part their range evenly (§3.2).

    The largest weight lies in the last bin. 0 where all are equal, not a number where one is not finite. fraction: of the
    weights that are looked at, within the range of all, see `estimated_entropy`.
    """
    low, high = value_range([weight])
    return estimated_entropy(weight, bits, fraction, ends=(low, high)) if math.isfinite(high - low) else float("nan")
