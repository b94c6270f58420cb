"""Segmentwise training; with segments of one block, from the bottom up, it is deep layer-wise learning (thesis chapter 6)."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.objectives.objective import Objective
from effdl.setting import Count, NonNegative, Positive, Probability, Switch, setting
from effdl.training.decision import Decision, Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.orders import Turn, permuted, robin, together
from effdl.training.segments import SegmentPlan, Training
from effdl.training.selection import Growth

Factor = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


@setting
class Segmentwise(Method):
    """Train segments by turns, each under a temporary decision block: once from the bottom up (Algorithm 3), or in rounds
    (Algorithm 4).

    epochs: per segment and round, one number or a list whose last entry holds for all further segments; §6.4's "early
        stopping" is [30, 40, 50, 60], §6.7 uses 300. segment_size: blocks a segment; 1 is DLL.
    rounds: how often it is each segment's turn; schedules span all of its turns. Every segment's optimizer and decision block
        wait for the next round, which takes memory.
    permute: in each round another random order ("random robin", §6.6.2), instead of from the bottom up.
    together: all segments learn at once, each from what the one below puts out as it learns, in one pass through the data an
        epoch (§6.8.3), as they would on a device each; with few segments, since the weights of all lie in memory.
    decision: the decision block (§6.2.2).
    lr_factor, weight_decay_factor: segment i, from 0, learns with base · factor^i; 0.8 and 1.15 in table 6.3.
    input_dropout, input_dropout_decay: forward dropout p₀ and its decay per epoch (§6.6.3; 0.8 and 0.95 in table 6.3).
    drop_raw_input: forward dropout on the first segment's input too, as table 6.3's caption says; Conjecture 1 speaks of
        "all but the first layer".
    gradient_dropout: p of dropout on the gradients that leave the decision block, the same in all epochs (0.3 to 0.6).
    choose: "validation" ends the network at the segment that did best on the validation set after one of its turns, and as it
        was then, "last" at the last segment after its last turn; the thesis chose by test accuracy, effdl never does.
    patience: stop a segment after so many epochs without a better validation score, with its last weights; ours, off in the
        thesis. Not in rounds.
    grow_until, grow_patience: no further segments are trained once one has this validation accuracy (fraction; of real targets
        at most this mean squared error), or once so many in a row did no better than the best before them; then the network
        ends at the best (§6.1). The architecture's blocks are the most that there can be: those that are not reached are
        drawn all the same, lie in memory and in checkpoints, and count in plans, which say "at most". Not in rounds, and not
        together.
    keep_features_mib: a trained segment's outputs are kept in memory where they fit this bound, else a feednet computes them.
    """

    numerics_version: ClassVar[int] = 2  # of 1, outputs that nobody took were held, and feednets did not fold

    epochs: Count | Annotated[tuple[Count, ...], Field(min_length=1)] = 10
    segment_size: Count = 1
    rounds: Count = 1
    permute: Switch = False
    together: Switch = False
    decision: Decision = Pool()
    lr_factor: Positive = 1.0
    weight_decay_factor: Positive = 1.0
    input_dropout: Probability = 0.0
    input_dropout_decay: Factor = 0.95
    drop_raw_input: Switch = True
    gradient_dropout: Probability = 0.0
    choose: Literal["validation", "last"] = "validation"
    patience: Count | None = None
    grow_until: Positive | None = None
    grow_patience: Count | None = None
    keep_features_mib: NonNegative = 2048.0

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        segments = len(spans(arch.blocks, self.segment_size))
        if isinstance(self.epochs, tuple) and len(self.epochs) > segments + 1:  # the last is for all others, if there are any
            raise ConfigError(f"method.epochs names {len(self.epochs)} segments, this network has {segments}")
        if self.patience is not None and self.rounds > 1:
            raise ConfigError("method.patience ends a segment for good, method.rounds comes back to it: set one of them alone")
        if self.together:
            self._check_together()
        if self.grow_until is not None or self.grow_patience is not None:
            self._check_growth(problem, "grow_until" if self.grow_until is not None else "grow_patience")

    def _check_together(self) -> None:
        """All that speaks of one segment's turn after another's."""
        for name, value in (("rounds", self.rounds > 1), ("permute", self.permute), ("patience", self.patience is not None)):
            if value:
                raise ConfigError(f"method.{name} is of segments that take turns, with method.together they have none: set one")
        if isinstance(self.epochs, tuple) and len(set(self.epochs)) > 1:
            raise ConfigError("method.epochs: segments that learn together learn for as many epochs: give one number")

    def _check_growth(self, problem: Facts, key: str) -> None:
        """key: of the first field that says when it ends."""
        for name, value in (("rounds", self.rounds > 1), ("together", self.together)):
            if value:
                raise ConfigError(
                    f"method.{key} ends at a segment, with method.{name} none is trained to its end: set one alone"
                )
        if self.choose == "last":
            raise ConfigError(f"method.{key} goes by validation, and by it the network ends: set method.choose=validation")
        if not problem.val:
            raise ConfigError(f"method.{key} goes by validation samples, of which there are none: set dataset.val_size above 0")
        if problem.targets == "classes" and self.grow_until is not None and self.grow_until > 1:
            raise ConfigError(f"method.grow_until={self.grow_until:g} is no accuracy: they go to 1, and 0.97 is 97%")

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training:
        of_segments = spans(len(model), self.segment_size)
        epochs = [self._epochs(i) for i in range(len(of_segments))]
        order = together(epochs[0], len(epochs)) if self.together else self._turns(epochs, problem.seed)
        plans = [self._plan(i, span, problem) for i, span in enumerate(of_segments)]
        until = self.grow_until if self.grow_until is None or problem.facts.targets == "classes" else -self.grow_until
        growth = Growth(until, self.grow_patience)
        return Training(plans, int(self.keep_features_mib * 2**20), list(order), self.choose, self.patience, growth)

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> nn.Module:
        _, stop = spans(len(model), self.segment_size)[notes["segment/chosen"]]
        shape = model.shapes(problem.input_shape)[stop - 1]
        return model.cropped(stop).with_head(self.decision.build(shape, problem.outputs))

    def _turns(self, epochs: list[int], seed: int) -> Iterator[Turn]:
        return robin(epochs, self.rounds, partial(permuted, seed, len(epochs)) if self.permute else None)

    def _epochs(self, i: int) -> int:
        """Of segment i in a round."""
        return self.epochs if isinstance(self.epochs, int) else self.epochs[min(i, len(self.epochs) - 1)]

    def _plan(self, i: int, span: tuple[int, int], problem: Problem) -> SegmentPlan:
        def rule(blocks: nn.Sequential, shape: tuple[int, ...]) -> DecisionRule:
            return DecisionRule(
                blocks,
                self.decision.build(shape, problem.outputs),
                problem.objective,
                gradient_dropout=self.gradient_dropout,
                input_dropout=self.input_dropout if i > 0 or self.drop_raw_input else 0.0,
                input_dropout_decay=self.input_dropout_decay,
            )

        return SegmentPlan(
            *span,
            self.rounds * self._epochs(i),
            rule,
            lr_scale=self.lr_factor**i,
            weight_decay_scale=self.weight_decay_factor**i,
        )


def spans(blocks: int, size: int) -> list[tuple[int, int]]:
    """Consecutive blocks [start, stop) of each segment, from the bottom; the last may be shorter."""
    return [(start, min(start + size, blocks)) for start in range(0, blocks, size)]
