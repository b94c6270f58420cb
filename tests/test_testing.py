"""`effdl.testing.check_method` finds a method that breaks what all methods promise, and says in a sentence what it breaks."""

from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from effdl.archs.chain import BlockChain
from effdl.methods.backprop import Backprop
from effdl.methods.method import Method
from effdl.methods.segmentwise import Segmentwise
from effdl.setting import setting
from effdl.testing import check_method


@setting
class Around(Method):
    """Layer-wise learning, with a fault."""

    fault: ClassVar[str] = ""
    inner: Any = Segmentwise(epochs=2)

    def training(self, problem: Any, model: BlockChain, run: Any) -> Any:
        return self.inner.training(problem, model, run)

    def fit(self, problem: Any, model: BlockChain, run: Any) -> nn.Module:
        return self.inner.fit(problem, model, run)

    def network(self, model: BlockChain, problem: Any, objective: Any, notes: Any) -> nn.Module:
        return self.inner.network(model, problem, objective, notes)


class LeftInTraining(Around):
    def fit(self, problem: Any, model: BlockChain, run: Any) -> nn.Module:
        return self.inner.fit(problem, model, run).train()


class OfAnotherForm(Around):
    def network(self, model: BlockChain, problem: Any, objective: Any, notes: Any) -> nn.Module:
        return model.with_head(nn.Linear(5, 3))


class AlwaysOne(Around):
    """Rebuilds one segment's network, whichever was chosen; the tiny problem chooses it by itself."""

    chosen: ClassVar[int]

    def network(self, model: BlockChain, problem: Any, objective: Any, notes: Any) -> nn.Module:
        return self.inner.network(model, problem, objective, {**notes, "segment/chosen": self.chosen})


class AlwaysFirst(AlwaysOne):
    chosen = 0


@setting
class AlwaysLast(AlwaysOne):
    chosen: ClassVar[int] = 2
    inner: Any = Segmentwise(epochs=(1, 1, 6))


class WithNoise(Around):
    def fit(self, problem: Any, model: BlockChain, run: Any) -> nn.Module:
        with torch.no_grad():
            next(model.parameters()).add_(torch.rand(()))
        return self.inner.fit(problem, model, run)


class Peeking(Around):
    def fit(self, problem: Any, model: BlockChain, run: Any) -> nn.Module:
        network = self.inner.fit(problem, model, run)
        run.note({"score/best": max(line.get("test/loss", 0) for line in run.lines)})
        return network


class Counting:
    """A run that counts what it records, which no checkpoint holds."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.count = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def record(self, segment: int, epoch: int, metrics: Any) -> None:
        self.count += 1
        self.inner.record(segment, epoch, {**metrics, **self.shown()})

    def shown(self) -> dict[str, int]:
        return {"train/count": self.count}


class Silent(Counting):
    def shown(self) -> dict[str, int]:
        return {}


class Forgetful(Around):
    def fit(self, problem: Any, model: BlockChain, run: Any) -> nn.Module:
        return self.inner.fit(problem, model, Counting(run))


class Stirring(Around):
    def fit(self, problem: Any, model: BlockChain, run: Any) -> nn.Module:
        outer = run

        class Run(Counting):
            def record(self, segment: int, epoch: int, metrics: Any) -> None:
                with torch.no_grad():
                    next(model.blocks[2].parameters()).add_(1)
                outer.record(segment, epoch, metrics)

        return self.inner.fit(problem, model, Run(run))


class KeptBeside(Around):
    """Adds to what it returns, where that is the last segment's, what no checkpoint holds."""

    def fit(self, problem: Any, model: BlockChain, run: Any) -> nn.Module:
        counting = Silent(run)
        network = self.inner.fit(problem, model, counting)
        if run.notes["segment/chosen"] == 2:
            with torch.no_grad():
                next(network.parameters()).add_(counting.count)
        return network


def test_a_method_without_a_fault_passes() -> None:
    check_method(Around())
    check_method(Backprop(epochs=2))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (LeftInTraining, r"^LeftInTraining\.fit returns a network that is not in evaluation mode"),
        (OfAnotherForm, r"^OfAnotherForm\.network is not of the form of what fit returned: .*[Mm]issing key"),
        (AlwaysFirst, r"^AlwaysFirst\.network is not of the form of what fit returned: "),
        (AlwaysLast, r"^AlwaysLast\.network is not of the form of what fit returned: "),
        (WithNoise, r"^WithNoise: other test labels and another state of torch's global generator moved the weight blocks"),
        (Peeking, r"^Peeking: other test labels and .* moved the note score/best from "),
        (Forgetful, r"^Forgetful: being cut off and taken up, with 6 checkpoints in all, moved line \d+ of the metrics"),
        (KeptBeside, r"^KeptBeside: being cut off and taken up, with 6 checkpoints in all, moved the weight blocks"),
        (Stirring, r"^Stirring: blocks\.conv3\.0\.weight moved while segment 0 learned, which has no such block"),
    ],
)
def test_a_fault_is_found_and_said(method: type[Method], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_method(method())
