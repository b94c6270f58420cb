"""Which samples are decided rightly, look by look: by it, which right answers are undone (thesis §4.5)."""

from collections.abc import Mapping
from typing import Any

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.probes.of_layers import check_classes
from effdl.probes.of_outputs import OfOutputs
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class RightAnswers(OfOutputs):
    """``right``: of each sample, the same and in the same order at each look, 1 where it is decided as its class and 0 where
    not; and ``acc``, their mean. Samples are of the training split by default, each of which is learned from once between two
    looks.
    """

    samples: Count = 500

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)

    def measure(self, look: Look) -> Mapping[str, Any]:
        if (outputs := self.outputs(look)) is None or look.learning is None or look.learning.problem is None:
            return {}
        y = self.sample.targets(look.learning.problem)
        right = (look.learning.objective.decide(outputs) == y).long()
        return {"right": right.tolist(), "acc": float(right.double().mean())}
