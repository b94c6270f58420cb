"""The softmax normaliser (thesis chapter 4, figure 4.5)."""

from collections.abc import Mapping

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.probes.of_layers import check_classes
from effdl.probes.of_outputs import OfOutputs
from effdl.setting import setting
from effdl.training.look import Look


@setting
class SoftmaxNormaliser(OfOutputs):
    """s = Σᵢ exp(xᵢ) over the outputs x of a sample, before the output units, in float64: its ``mean``, ``min`` and ``max``
    over samples, null where it is beyond float64, and ``log``, the mean of ln s, which never is.

    Figure 4.5 does not say whether it is a mean over samples.
    """

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)

    def measure(self, look: Look) -> Mapping[str, float]:
        if (outputs := self.outputs(look)) is None:
            return {}
        s = outputs.double().exp().sum(1)
        log = outputs.double().logsumexp(1)
        return {"mean": float(s.mean()), "min": float(s.min()), "max": float(s.max()), "log": float(log.mean())}
