"""Least-squares distances of layers to the targets, and to the inputs (thesis §5.3.1)."""

import warnings
from collections.abc import Sequence

from torch import Tensor

from effdl.probes.of_layers import Meter, OfLayers
from effdl.probes.sample import Features, View, can_see, ends, seen
from effdl.representations.least_squares_distance import least_squares_distance
from effdl.setting import Switch, setting
from effdl.training.look import Look


@setting
class Lsd(OfLayers):
    """‖Y − ZZ⁺Y‖²_F / m of each layer's features Z on m samples (eq. 5.3), which falls with depth in a trained network by
    eq. 5.2; and the same from Z to the inputs X, from which layers move away (§5.3.2).

    ``y/<layer>``: from 0 to 1 for classes, whose targets are one-hot. ``x/<layer>``: from 0 to ‖X‖²_F / m, X being the
    standardised inputs with all their places; by eq. 5.2 read backwards it falls from the output to the input.

    As many features as samples explain anything: the distance is then 0, which says nothing, and a warning says so; more
    samples, or pool=average.

    bias: whether a column of ones joins Z, as in the listing of figure 7.3; eq. 5.3 as printed has none.
    to_inputs: false leaves out ``x``, which of large images takes the most time.
    """

    bias: Switch = False
    to_inputs: Switch = True

    def kinds(self) -> Sequence[str]:
        return ["y", "x"] if self.to_inputs else ["y"]

    def asks(self, look: Look) -> Sequence[View]:
        return [*super().asks(look), self._inputs(look)] if self.to_inputs and can_see(look) else super().asks(look)

    def _inputs(self, look: Look) -> View:
        return Features(self.sample, ends(look)[:1], self.pool, **self.places)

    def meter(self, look: Look, y: Tensor) -> Meter:
        inputs = [x for _, x in seen(look, self._inputs(look))] if self.to_inputs else []
        first, _ = ends(look)

        def meter(layer: str, z: Tensor) -> Sequence[float]:
            if z.shape[1] + self.bias >= len(z):
                warnings.warn(
                    f"probe=lsd: {layer} explains {len(z):,} samples by {z.shape[1]:,} features without a rest: its distance, "
                    "0, says nothing; more probe.lsd.samples, or pool=average",
                    RuntimeWarning,
                    stacklevel=2,
                )
            of_itself = [0.0] if inputs and layer == first else []
            targets = [y] if of_itself else [y, *inputs]
            return [least_squares_distance(z, target, bias=self.bias) for target in targets] + of_itself

        return meter
