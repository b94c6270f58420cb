"""How a layer's weights would be sent: to how many bits each, in which settings of §3.5's N = H + c."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from effdl.compression import dynamic_bits, value_range
from effdl.compression.bits import FRACTION, Rounding
from effdl.compression.quantisation import Range
from effdl.probes.probe import Probe
from effdl.setting import setting

Width = Annotated[int, Field(strict=True, ge=1, le=30)]
Dynamic = Annotated[str, Field(pattern=r"^c([0-9]|[12][0-9]|30)m([1-9]|1[0-6])$")]
Fraction = Annotated[float, Field(gt=0, le=1)]


@setting
class Sending(Probe):
    """Base of probes of weights as they would be sent, under fixed widths and under Algorithm 1, training untouched.

    bits: N of every layer, each by itself.
    dynamic: such as "c6m4", which is N = H + 6 of each layer, H being the entropy of a part of its weights in 2^4 bins.
    fraction: F, of the weights of a layer that H is estimated from.
    rounding: of H + c, "ceil", "round" or "floor"; the text does not say.
    ends: whose least and largest weight bins lie between: of each "layer" (Algorithm 1), or of the "network" (§3.2).
    """

    bits: tuple[Width, ...] = (4, 6, 8)
    dynamic: tuple[Dynamic, ...] = ("c5m4", "c6m4")
    fraction: Fraction = FRACTION
    rounding: Rounding = "ceil"
    ends: Literal["layer", "network"] = "layer"

    def widths(self, layers: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, int]]]:
        """Each setting's name, and N of each layer; layers are finite and not constant."""
        for bits in self.bits:
            yield str(bits), dict.fromkeys(layers, bits)
        for name in self.dynamic:
            floor, sample_bits = map(int, name[1:].split("m"))
            ends = self.ranges(layers)
            yield name, dynamic_bits(layers, floor, sample_bits, self.fraction, rounding=self.rounding, ends=ends)

    def ranges(self, layers: Mapping[str, Tensor]) -> dict[str, Range] | None:
        """The range of each layer's bins where it is not its own."""
        return dict.fromkeys(layers, value_range(layers.values())) if self.ends == "network" and layers else None


def sent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices and kernels among them that bins can part, as ``sync=quantised`` has it: finite, and not all equal."""
    found = {name: tensor for name, tensor in tensors.items() if tensor.dim() >= 2 and tensor.numel()}
    ends = {name: value_range([tensor]) for name, tensor in found.items()}
    return {name: found[name] for name, (low, high) in ends.items() if low < high and math.isfinite(high - low)}
