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
from effdl.methods.recorded import RecordAt, Room, check_layers, recorded
from effdl.objectives.objective import Objective
from effdl.setting import Count, NonNegative, Positive, Probability, Switch, setting
from effdl.training.decision import Decision, Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.offload import Place
from effdl.training.orders import Turn, permuted, robin, together
from effdl.training.recording import Where
from effdl.training.segments import SegmentPlan, Shapes, Training

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
    keep_features_mib: a trained segment's outputs are kept in memory where they fit this bound, else a feednet computes them.
    record_at: layers that are recorded while they learn, so that those above learn from the same batches in the same order
        (§6.2.2, "Feature checkpointing"), through the frozen layers between; numbers from 1, each the last layer of a segment;
        "all" of them; "auto" is the one that takes least room. Another network than by kept outputs: what was recorded came out
        in training, of weights that still moved. An upper segment with more epochs than were recorded begins again with the
        first (ours; the text does not say).
    store: where recordings lie: on the device or host, within keep_features_mib, or on disk, a file an epoch.
    full_disk: "stop" ends a run whose recording finds no room on the disk, and the same command goes on from its checkpoint;
        "feed" goes on without a recording, the layers below as a feednet.
    offload: where blocks lie that are finished or have not begun, and the learners of rounds that wait, with optimizer and
        decision block: null leaves all on the device; "host" moves them from a GPU to the machine's memory, pinned (on a CPU
        that is the device itself, and nothing moves); "disk" to files in the run's folder for as long as it goes, which frees
        memory on a CPU too. Then only what learns is on the device, and of the blocks below, where their outputs are not kept,
        one at a time. The numbers are the same bit for bit. The network is built whole before anything leaves, and is whole
        again at the end.
    first_round: how layers that have not learned yet are called below a learning one, in the first round of a random order:
        "eval" by their initial statistics, by which features shrink from block to block; "batch_statistics": normalisation
        takes each batch's statistics and leaves its running ones alone, dropout is off, what comes of it is not kept, and no
        network is chosen by a score of that kind; "ordered": the first round goes from the bottom up, so that there are none.
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
    keep_features_mib: NonNegative = 2048.0
    record_at: RecordAt = None
    store: Where = "device"
    full_disk: Literal["stop", "feed"] = "stop"
    offload: Place | None = None
    first_round: Literal["eval", "batch_statistics", "ordered"] = "eval"

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        segments = len(spans(arch.blocks, self.segment_size))
        if isinstance(self.epochs, tuple) and len(self.epochs) > segments + 1:  # the last is for all others, if there are any
            raise ConfigError(f"method.epochs names {len(self.epochs)} segments, this network has {segments}")
        if self.patience is not None and self.rounds > 1:
            raise ConfigError("method.patience ends a segment for good, method.rounds comes back to it: set one of them alone")
        if self.first_round != "eval" and not (self.permute and self.rounds > 1):
            raise ConfigError(
                f"method.first_round={self.first_round} is of rounds in a random order, as layers from the bottom up have none "
                "below that has not learned: method.permute=true and method.rounds of 2 or more, or leave it out"
            )
        if self.together:
            self._check_together()
        if self.record_at is not None:
            self._check_recording(arch)

    def _check_recording(self, arch: ArchFacts) -> None:
        if self.permute:
            raise ConfigError(
                "method.record_at: in a random order the layer below has often not learned: set method.permute=false"
            )
        check_layers(self.record_at, spans(arch.blocks, self.segment_size))

    def _check_together(self) -> None:
        """All that speaks of one segment's turn after another's."""
        for name, value in (
            ("rounds", self.rounds > 1),
            ("permute", self.permute),
            ("patience", self.patience is not None),
            ("record_at", self.record_at is not None),
        ):
            if value:
                raise ConfigError(f"method.{name} is of segments that take turns, with method.together they have none: set one")
        if isinstance(self.epochs, tuple) and len(set(self.epochs)) > 1:
            raise ConfigError("method.epochs: segments that learn together learn for as many epochs: give one number")

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training:
        of_segments = spans(len(model), self.segment_size)
        epochs = [self._epochs(i) for i in range(len(of_segments))]
        order = together(epochs[0], len(epochs)) if self.together else self._turns(epochs, problem.seed)
        plans = [self._plan(i, span, problem) for i, span in enumerate(of_segments)]
        room = Room(self.store, int(self.keep_features_mib * 2**20), run)
        return Training(
            plans,
            int(self.keep_features_mib * 2**20),
            list(order),
            self.choose,
            self.patience,
            recorded(self.record_at, plans, epochs, problem, model, room),
            self.store,
            self.full_disk,
            self.offload,
            "batch_statistics" if self.first_round == "batch_statistics" else "eval",
        )

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> nn.Module:
        _, stop = spans(len(model), self.segment_size)[notes["segment/chosen"]]
        shape = model.shapes(problem.input_shape)[stop - 1]
        return model.cropped(stop).with_head(self.decision.build(shape, problem.outputs))

    def _turns(self, epochs: list[int], seed: int) -> Iterator[Turn]:
        shuffled = partial(permuted, seed, len(epochs), ordered=int(self.first_round == "ordered"))
        return robin(epochs, self.rounds, shuffled if self.permute else None)

    def _epochs(self, i: int) -> int:
        """Of segment i in a round."""
        return self.epochs if isinstance(self.epochs, int) else self.epochs[min(i, len(self.epochs) - 1)]

    def _plan(self, i: int, span: tuple[int, int], problem: Problem) -> SegmentPlan:
        def rule(blocks: nn.Sequential, shapes: Shapes) -> DecisionRule:
            return DecisionRule(
                blocks,
                self.decision.build(shapes[-1], problem.outputs),
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
