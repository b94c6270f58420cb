"""Accuracy of a network whose weights are quantised afterwards, as it is trained without (thesis §3.7, figures 3.1 and 3.4)."""

from collections.abc import Iterator, Sequence
from copy import deepcopy

from torch import Tensor, nn

from effdl.compression import dequantise, quantise
from effdl.probes.sending import Sending, sent
from effdl.setting import setting
from effdl.training.look import Look
from effdl.training.loop import evaluate


@setting
class Quantised(Sending):
    """``<setting>/acc``, or ``/mse``: of validation samples under the network with its weight matrices at the centres of their
    bins. ``<setting>/test/acc``: the run's, of the test split, wherever ``test_every`` has it measured.

    Biases and normalisation stay as they are. What learns is not touched: this is the
    reading of chapter 3 by which one set of runs serves all settings.
    """

    def measure(self, look: Look) -> dict[str, float]:
        learning, found = look.learning, dict[str, float]()
        if learning is None or learning.problem is None:
            return found
        device = next(learning.rule.parameters()).device
        for names, network in self.networks(look):
            with learning.rule.hardware.autocast():
                scores = evaluate(network, (batch.to(device) for batch in learning.problem.val()), learning.objective)
            found |= {f"{name}/{key}": value for name in names for key, value in scores.items()}
        return found

    def networks(self, look: Look) -> Iterator[tuple[Sequence[str], nn.Module]]:
        if look.learning is None or (network := look.learning.network) is None:
            return
        network = deepcopy(network)
        state = {name: parameter.data for name, parameter in network.named_parameters()}
        exact = {name: weights.clone() for name, weights in sent(state).items()}
        for names, bits in self._alike(exact):
            for name, tensor in self._rounded(exact, bits).items():
                state[name].copy_(tensor)
            yield names, network

    def _alike(self, layers: dict[str, Tensor]) -> list[tuple[list[str], dict[str, int]]]:
        """Settings that come to the same N of every layer, which need be measured only once."""
        found: dict[tuple[int, ...], tuple[list[str], dict[str, int]]] = {}
        for name, bits in self.widths(layers) if layers else ():
            found.setdefault(tuple(bits.values()), ([], bits))[0].append(name)
        return [*found.values()]

    def _rounded(self, layers: dict[str, Tensor], bits: dict[str, int]) -> dict[str, Tensor]:
        ends = self.ranges(layers) or {}
        return {name: dequantise(quantise(w, bits[name], ends.get(name)), w.dtype) for name, w in layers.items()}
