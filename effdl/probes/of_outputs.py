"""What probes of a network's outputs share."""

from abc import ABC
from collections.abc import Sequence

from torch import Tensor

from effdl.probes.of_layers import OfSample
from effdl.probes.sample import Features, View, can_see, ends, seen
from effdl.setting import setting
from effdl.training.look import Look


@setting
class OfOutputs(OfSample, ABC):
    """A measurement of what the network that a segment trains puts out before its output units."""

    def view(self, look: Look) -> View:
        return Features(self.sample, ends(look)[1:], **self.places)

    def asks(self, look: Look) -> Sequence[View]:
        return [self.view(look)] if can_see(look) else []

    def outputs(self, look: Look) -> Tensor | None:
        """(n, K); None where it is not known how samples come to be that."""
        return next((z for _, z in seen(look, self.view(look))), None) if can_see(look) else None
