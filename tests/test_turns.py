"""The engine with rules of other kinds than ours: what they prepare, share and must not do, alone and after a resume."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.classifier import Classifier
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.training.decision_rule import DecisionRule
from effdl.training.engine import Engine
from effdl.training.handle import CannotGoOn
from effdl.training.loop import evaluate
from effdl.training.optim import Sgd
from effdl.training.orders import Turn, robin
from effdl.training.rule import Rule
from effdl.training.segments import SegmentPlan, Shapes, Training

Make = Callable[[nn.Sequential, Shapes], Rule]


class CutOff(BaseException):
    """As abrupt as a kill can be within a process."""


def trained(
    model: BlockChain,
    rule: Make,
    order: Sequence[Turn] = (),
    epochs: int = 2,
    lr: float = 0.05,
    state: Any = None,
    stop: int = 0,
) -> tuple[nn.Module, Engine, list[Any]]:
    """A training of each block by such a rule, from a checkpoint on and to one; with the checkpoints that it made."""
    run, saved = Run.in_memory(Sgd(lr=lr)), list[Any]()

    def save(made: Callable[[], Any]) -> None:
        saved.append(copy.deepcopy(made()))
        if len(saved) == stop:
            raise CutOff

    run.save, run.load = save, lambda: copy.deepcopy(state)  # type: ignore[method-assign]
    plans = [SegmentPlan(i, i + 1, epochs, rule) for i in range(len(model))]
    engine = Engine(Training(plans, 10**9, order, choose="last" if not order else "validation"), tiny.problem(), model, run)
    engine.resume()
    try:
        return engine.fit(), engine, saved
    except CutOff:
        return model, engine, saved


class Seeing(DecisionRule):
    """Has batches of its own, which are as they were, and remembers their form."""

    seen: ClassVar[set[tuple[Any, ...]]] = set()

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        Seeing.seen.add((tuple(batch.x.shape[1:]), batch.x.dtype))
        return batch

    def predictor(self, chain: BlockChain) -> BlockChain:
        return chain.with_head(self.decision)


def seeing(blocks: nn.Sequential, shapes: Shapes) -> Rule:
    return Seeing(blocks, Classifier(shapes[-1], tiny.CLASSES, size=1), SoftmaxCe())


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_rule_that_prepares_its_batches_gets_raw_ones_after_a_resume_too(stop: int) -> None:
    Seeing.seen.clear()
    alone, engine, _ = trained(tiny.chain(), seeing)
    _, _, saved = trained(tiny.chain(), seeing, stop=stop)
    again, resumed, _ = trained(tiny.chain(), seeing, state=saved[-1])
    assert Seeing.seen == {((1, tiny.SIDE, tiny.SIDE), torch.uint8)}
    assert engine.most_kept == resumed.most_kept == 0
    assert tiny.same(tiny.copied(alone), tiny.copied(again))


@pytest.mark.parametrize("rounds", [1, 12])
def test_a_head_that_all_segments_share_is_kept_with_the_best_network(rounds: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(36 if i == 0 else 12, 12), nn.ReLU()) for i in range(3)]
    model = BlockChain(layers, nn.Linear(12, tiny.CLASSES), nn.Sequential(Scaled(), nn.Flatten()))
    problem, offered = tiny.problem(), list[tuple[float, dict[str, Tensor]]]()
    order = list(robin([8 if rounds == 1 else 1] * 3, rounds))
    plans = [
        SegmentPlan(i, i + 1, 8 if rounds == 1 else rounds, lambda b, s: DecisionRule(b, model.head, SoftmaxCe()))
        for i in range(3)
    ]
    engine = Engine(Training(plans, 0, order), problem, model, Run.in_memory(Sgd(lr=0.3)))
    offer = engine.best.offer

    def watched(segment: int, epoch: int, score: float, predictor: Callable[[], nn.Module], *more: Any, **named: Any) -> None:
        offer(segment, epoch, score, predictor, *more, **named)
        offered.append((score, tiny.copied(predictor())))

    engine.best.offer = watched  # type: ignore[method-assign, assignment]
    network = engine.fit()
    scores = [score for score, _ in offered]
    best = scores.index(max(scores))
    assert best < len(offered) - 1 and tiny.same(offered[best][1], tiny.copied(network))
    assert evaluate(network, problem.val(), problem.objective)["acc"] == max(scores)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


class Resetting(DecisionRule):
    def __init__(self, blocks: nn.Sequential, shapes: Shapes) -> None:
        super().__init__(blocks, Classifier(shapes[-1], tiny.CLASSES, size=1), SoftmaxCe())
        nn.init.zeros_(blocks[0][0].weight)


def test_a_rule_that_changes_its_blocks_where_it_is_made_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^the rule Resetting changes its blocks where it is made"):
        trained(tiny.chain(), Resetting)


def test_segments_that_share_a_weight_are_refused() -> None:
    layers = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)]
    layers[2].weight = layers[0].weight
    with pytest.raises(ConfigError, match=r"^arch: segments 1 and 2 share the weight 2\.weight"):
        trained(BlockChain(layers, nn.Linear(4, 2)), seeing)


HOSTILE: dict[str, Callable[[Any], Any]] = {
    "a place before the first": lambda s: s.update(at=(-1, 1)),
    "an epoch that is not": lambda s: s.update(at=(s["at"][0], 7)),
    "heights that are words": lambda s: s.update(tried=["high"]),
    "no count": lambda s: s.update(counts=("many", 0)),
    "no learner that waits": lambda s: s["learners"].pop(min(s["learners"])),
    "a learner of another epoch": lambda s: s["learners"][0].update(epoch=1, history=[0.0]),
    "no best network": lambda s: s["best"].update(segment=None),
    "a best without its decision block": lambda s: s["best"]["weights"].clear(),
    "a best without a weight of its blocks": lambda s: s["best"]["weights"].pop("blocks.conv1.0.weight"),
    "a best without its blocks": lambda s: [s["best"]["weights"].pop(k) for k in [*s["best"]["weights"]] if "blocks" in k],
    "a best of an epoch to come": lambda s: s["best"].update(epoch=3),
    "a best of no epoch": lambda s: s["best"].update(epoch=None),
    "a best of another shape": lambda s: s["best"]["weights"].update({"head.layers.0.weight": torch.zeros(2, 2)}),
    "no chain": lambda s: s.pop("chain"),
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_a_checkpoint_that_holds_something_else_is_none(damage: Callable[[Any], Any]) -> None:
    def rule(blocks: nn.Sequential, shapes: Shapes) -> Rule:
        return DecisionRule(blocks, Classifier(shapes[-1], tiny.CLASSES, size=1), SoftmaxCe())

    order = list(robin([1] * 3, 4))
    _, _, saved = trained(tiny.chain(), rule, order, epochs=4, stop=8)
    trained(tiny.chain(), rule, order, epochs=4, state=saved[-1])
    damage(saved[-1])
    with pytest.raises(CannotGoOn):
        trained(tiny.chain(), rule, order, epochs=4, state=saved[-1])
