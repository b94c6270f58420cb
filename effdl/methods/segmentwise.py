"""Segmentwise training; with segments of one block, from the bottom up, it is deep layer-wise learning (thesis chapter 6)."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.costs.budget import FEED_PARTS, LEVELS, MOST_CONVS, Choice, Search
from effdl.costs.cut import by_cost, by_memory
from effdl.costs.sparing import Sparing
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.methods.cutting import Span, evenly, windows
from effdl.methods.method import Method
from effdl.methods.recorded import RecordAt, Room, check_ends, check_layers, check_recording, recorded
from effdl.methods.segment_checks import check_growth, check_loss, check_memory, check_together
from effdl.objectives.objective import Objective
from effdl.setting import Count, NonNegative, Positive, Probability, Size, Switch, setting
from effdl.training.decision import Decision, DownConv, Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.local_loss import LocalLoss, Position
from effdl.training.offload import Place
from effdl.training.orders import Turn, permuted, robin, together
from effdl.training.recompute import Recompute
from effdl.training.recording import Where
from effdl.training.segments import SegmentPlan, Shapes, Training
from effdl.training.selection import Growth
from effdl.training.shelf import KeepOn

LOWER = Position(0, 2)
Factor = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


@setting
class Segmentwise(Method):
    """Train segments by turns, each under a temporary decision block: once from the bottom up (Algorithm 3), or in rounds
    (Algorithm 4).

    epochs: per segment and round, one number or a list whose last entry holds for all further segments; §6.4's "early
        stopping" is [30, 40, 50, 60], §6.7 uses 300.
    epochs_factor: segment i, from 0, learns for base · factor^i epochs, rounded to the nearest whole number, half up, and for
        one at least; 1.08 and 1.2 in table 6.5.
    segment_size: blocks a segment; 1 is DLL. overlap: each segment begins with so many blocks of the one below, which learn
        again (§6.5; figure 6.2 has segment_size − 1, table 6.3 sizes 2 with overlap 1); the last one ends with the last block
        and is shorter where the windows do not come out even.
    partitions: so many segments instead, as they are cut by ``cut`` (§6.8; four there): "depth", of equal numbers of blocks;
        "cost", the largest number of multiply-adds of a forward pass being as small as can be, decision blocks and what lies
        below not counted; "memory", the largest peak of a training step, as plans count it, layers named by ``record_at`` being
        ends; "batch", what a batch makes on its
        way at that peak, without the weights and optimizers that of partitions learning ``together`` all lie there.
    rounds: how often it is each segment's turn; schedules span all of its turns. Every segment's optimizer and decision block
        wait for the next round, which takes memory.
    permute: in each round another random order ("random robin", §6.6.2), instead of from the bottom up.
    together: all segments learn at once, each from what the one below puts out as it learns, in one pass through the data an
        epoch (§6.8.3), as they would on a device each; with few segments, since the weights of all lie in memory.
    decision: the decision block (§6.2.2).
    lr_factor, weight_decay_factor: segment i, from 0, learns with base · factor^i; 0.8 and 1.15 in table 6.3, 0.5
        and 0.5 in §6.8.1, 1.08 and 0.99 in table 6.5.
    input_dropout, input_dropout_decay: forward dropout p₀ and its decay per epoch (§6.6.3; 0.8 and 0.95 in table 6.3).
    drop_raw_input: forward dropout on the first segment's input too, as table 6.3's caption says; Conjecture 1 speaks of
        "all but the first layer".
    gradient_dropout: p of dropout on the gradients that leave the decision block, the same in all epochs (0.3 to 0.6).
    gradient_noise: Gaussian noise on them instead, in root mean squares of theirs, see `decision_rule.gradient_noise`.
    loss: a local loss of the literature, see `local_loss.LocalLoss`; null is the decision block's loss alone.
    own_head: the segment at the top learns under the network's own head, as in that literature, and not a decision block.
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
    keep_features_on: where outputs lie that do not fit it: with "memory" nowhere, as said; with "disk" in the run's folder, if
        they take up no more than half of what is free on its disk; with "auto" those of them that are reckoned to take less
        time so than a feednet, by what disk and blocks took for a few batches. Decided once, before the first step:
        "data/features_on_disk" in the record says how many blocks are below each. The numbers are those of outputs in memory.
    memory_budget: decision blocks are searched so that no segment's step, feednet included, takes more than this share of full
        backprop's at the same batch, optimizer and hardware, by 0.005 at most (§6.7: "30 ± 0.5%"), or the run is refused. Of
        all down-convs that fit (up to as many convolutions as `decision` has, or four where it is a plain pool; up to its
        channels, or the segment's own number; bottlenecked or not) the one with the most weights is taken. Where none does, the
        segment's blocks are recomputed, the first way that does of those that `checkpoint` names. The feednet takes batches in
        4 parts. With ``together`` decision blocks stay as they are, and a segment that misses the budget recomputes some of its
        blocks, those that hold most for a multiply-add, and none that it can do without: the same bits.
    checkpoint: "block" recomputes each block's activations in the backward pass instead of keeping them, "parts" what its
        convolutions, linear layers and normalisations put out, each where it is needed, which saves more where a segment is a
        single block, and takes more time: the same bits. "channels" does so for a quarter of a convolution's output channels at
        a time, with the normalisation and activation that follow: gradients are the same up to rounding. With a budget it is
        the first way that is tried.
    feed_parts: a batch goes through the feednet in so many parts, one after another: less memory, the same up to rounding.
    record_at: layers that are recorded while they learn, so that those above learn from the same batches in the same order
        (§6.2.2, "Feature checkpointing"), through the frozen layers between; numbers from 1, each the last layer of a segment;
        "all" of them; "auto" is the one that takes least room. Another network than by kept outputs: what was recorded came out
        in training, of weights that still moved. An upper segment with more epochs than were recorded begins again with the
        first (ours; the text does not say).
    store: where recordings lie: on the device or host, within keep_features_mib, or on disk, a file an epoch; "auto" takes the
        first of these with room for the most that lies there at once (of what is free on device and host at most half), once,
        before the first step: "data/recorded_on" in the record. The numbers are the same everywhere.
    full_disk: "stop" ends a run whose recording, or kept outputs, find no room on the disk, and the same command goes on from
        its checkpoint; "feed" goes on without, the layers below as a feednet.
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
    overlap: Size = 0
    partitions: Count | None = None
    cut: Literal["depth", "cost", "memory", "batch"] = "depth"
    epochs_factor: Positive = 1.0
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
    gradient_noise: NonNegative = 0.0
    loss: LocalLoss | None = None
    own_head: Switch = False
    choose: Literal["validation", "last"] = "validation"
    patience: Count | None = None
    grow_until: Positive | None = None
    grow_patience: Count | None = None
    keep_features_mib: NonNegative = 2048.0
    keep_features_on: KeepOn = "memory"
    memory_budget: Factor | None = None
    checkpoint: Literal["block", "parts", "channels"] | None = None
    feed_parts: Count = 1
    record_at: RecordAt = None
    store: Where | Literal["auto"] = "device"
    full_disk: Literal["stop", "feed"] = "stop"
    offload: Place | None = None
    first_round: Literal["eval", "batch_statistics", "ordered"] = "eval"

    def version(self) -> int:
        """One more where a cut by memory did not know of what is recorded."""
        return self.numerics_version + int(self.cut == "memory" and self.record_at not in (None, "auto"))

    def __post_init__(self) -> None:
        if self.partitions is not None and self.overlap:
            raise ValueError(
                "method.overlap is of a window that slides, method.partitions cuts the network once: set one alone"
            )
        if self.overlap >= self.segment_size:
            raise ValueError(
                f"method.overlap={self.overlap}: segments of method.segment_size={self.segment_size} would never climb; take a "
                "smaller overlap, or larger segments"
            )
        if self.partitions is not None and self.segment_size > 1:
            raise ValueError("method.partitions cuts the network by itself, method.segment_size too: set one of them alone")
        if self.partitions is None and self.cut != "depth":
            raise ValueError(f"method.cut={self.cut} is of partitions: say how many, such as method.partitions=4")
        if self.full_disk == "feed" and self.store not in ("disk", "auto") and self.keep_features_on == "memory":
            raise ValueError(f"method.full_disk=feed is of method.store=disk, not {self.store}: leave it out")
        if isinstance(self.epochs, tuple) and self.epochs_factor != 1:
            raise ValueError(
                "method.epochs names those of each segment, method.epochs_factor grows one number: set one of them"
            )

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        if self.partitions is not None and self.partitions > arch.blocks:
            raise ConfigError(
                f"method.partitions={self.partitions}: this network has {arch.blocks} blocks; take no more partitions than "
                "that, or a deeper arch"
            )
        segments = self.partitions or len(windows(arch.blocks, self.segment_size, self.overlap))
        if isinstance(self.epochs, tuple) and len(self.epochs) > segments + 1:  # the last is for all others, if there are any
            raise ConfigError(f"method.epochs names {len(self.epochs)} segments, this network has {segments}")
        for name in ("epochs_factor", "lr_factor", "weight_decay_factor"):
            if not math.isfinite(self._base(0) * _power(getattr(self, name), segments - 1)):
                raise ConfigError(
                    f"method.{name}={getattr(self, name)}: to the power of {segments - 1} it is no number any longer"
                )
        if self.patience is not None and self.rounds > 1:
            raise ConfigError("method.patience ends a segment for good, method.rounds comes back to it: set one of them alone")
        if self.first_round != "eval" and not (self.permute and self.rounds > 1):
            raise ConfigError(
                f"method.first_round={self.first_round} is of rounds in a random order, as layers from the bottom up have none "
                "below that has not learned: method.permute=true and method.rounds of 2 or more, or leave it out"
            )
        if self.first_round == "batch_statistics" and (self.feed_parts > 1 or self.memory_budget is not None):
            raise ConfigError(
                "method.first_round=batch_statistics is of whole batches, and method.feed_parts, which method.memory_budget "
                "sets too, takes them in parts: leave one out"
            )
        check_loss(self, problem)
        if self.together:
            check_together(self)
        if self.record_at is not None:
            self._check_recording(arch, hardware)
        if self.keep_features_on != "memory" and hardware.processes not in (1, "auto"):
            raise ConfigError(
                "method.keep_features_on: of several processes each would write all features: train in one process, or memory"
            )
        if self.memory_budget is not None or self.checkpoint is not None:
            check_memory(self, hardware)
        if self.grow_until is not None or self.grow_patience is not None:
            check_growth(self, problem, "grow_until" if self.grow_until is not None else "grow_patience")

    def _check_recording(self, arch: ArchFacts, hardware: Hardware) -> None:
        check_recording(hardware, self.permute, self.overlap)
        if self.partitions is None:
            check_layers(self.record_at, windows(arch.blocks, self.segment_size))
        elif self.cut == "depth":
            check_layers(self.record_at, evenly(arch.blocks, self.partitions))
        elif self.cut == "memory":
            check_ends(self.record_at, self.partitions, arch.blocks)

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training:
        of_segments = self._spans(problem, model, run)
        epochs = [self._epochs(i) for i in range(len(of_segments))]
        order = list(together(epochs[0], len(epochs)) if self.together else self._turns(epochs, problem.seed))
        keep_bytes = int(self.keep_features_mib * 2**20)

        def planned_as(i: int, **choice: Any) -> SegmentPlan:
            return self._plan(i, of_segments[i], problem, Position(i, len(of_segments)), model.head, **choice)

        planned = [planned_as(i) for i in range(len(of_segments))]
        room = Room(keep_bytes, run, self.full_disk == "feed", problem.is_outline)
        record, store = recorded(self.record_at, self.store, planned, epochs, problem, model, room)
        if record:
            run.note({"segment/recorded": sorted(record)})

        growth = self._growth(problem)

        def training(plans: list[SegmentPlan], feed_parts: int) -> Training:
            return Training(
                plans,
                keep_bytes,
                order,
                self.choose,
                self.patience,
                record=record,
                store=store,
                full_disk=self.full_disk,
                feed_parts=feed_parts,
                growth=growth,
                offload=self.offload,
                keep_on=self.keep_features_on,
                untrained="batch_statistics" if self.first_round == "batch_statistics" else "eval",
            )

        def plan(i: int, choice: Choice) -> SegmentPlan:
            return planned_as(i, decision=choice.decision, checkpoint=choice.checkpoint)

        if self.memory_budget is None:
            return training(planned, self.feed_parts)
        if self.together:

            def recomputing(i: int, at: tuple[int, ...]) -> SegmentPlan:
                return planned_as(i, checkpoint=at)

            whole = partial(training, feed_parts=self.feed_parts)
            return Sparing(self.memory_budget, of_segments, recomputing, whole).choose(problem, model, run)
        most = self.decision if isinstance(self.decision, DownConv) else DownConv(convs=MOST_CONVS)
        levels = LEVELS[LEVELS.index(self.checkpoint or False) :]
        search = Search(self.memory_budget, most, plan, training, len(of_segments), levels, max(self.feed_parts, FEED_PARTS))
        return training([plan(i, choice) for i, choice in enumerate(search.choose(problem, model, run))], search.feed_parts)

    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> nn.Module:
        chosen, spans = notes["segment/chosen"], windows(len(model), self.segment_size, self.overlap)
        stops = notes["segment/stops"] if self.partitions is not None else [stop for _, stop in spans]
        shape, decision = model.shapes(problem.input_shape)[stops[chosen] - 1], self.decision
        if self.memory_budget is not None and not self.together:
            decision = Choice.from_json(notes["segment/choices"][chosen]).decision
        if self.own_head and stops[chosen] == len(model):
            return model
        return model.cropped(stops[chosen]).with_head(decision.build(shape, problem.outputs))

    def _turns(self, epochs: list[int], seed: int) -> Iterator[Turn]:
        shuffled = partial(permuted, seed, len(epochs), ordered=int(self.first_round == "ordered"))
        return robin(epochs, self.rounds, shuffled if self.permute else None)

    def _growth(self, problem: Problem) -> Growth:
        """Scores are accuracies, or errors turned round."""
        until = self.grow_until if self.grow_until is None or problem.facts.targets == "classes" else -self.grow_until
        return Growth(until, self.grow_patience)

    def _spans(self, problem: Problem, model: BlockChain, run: RunHandle) -> list[Span]:
        """The blocks of each segment; those of partitions are noted, since a cut may depend on what the run counts with."""
        if self.partitions is None:
            return windows(len(model), self.segment_size, self.overlap)
        if self.cut == "depth":
            spans = evenly(len(model), self.partitions)
        elif self.cut == "cost":
            spans = by_cost(self.partitions, problem, model)
        else:

            def plan(start: int, stop: int) -> SegmentPlan:
                i = min(start, 1)
                return self._plan(i, (start, stop), problem, Position(i, i + (1 if stop == len(model) else 2)), model.head)

            named = self.record_at if self.cut == "memory" and self.record_at != "auto" else None
            layers = () if named is None else named
            spans = by_memory(self.partitions, plan, problem, model, run, self.feed_parts, self.cut == "batch", recorded=layers)
        run.note({"segment/stops": [stop for _, stop in spans]})
        return spans

    def _base(self, i: int) -> int:
        return self.epochs if isinstance(self.epochs, int) else self.epochs[min(i, len(self.epochs) - 1)]

    def _epochs(self, i: int) -> int:
        """Of segment i in a round."""
        return max(1, math.floor(self._base(i) * self.epochs_factor**i + 0.5))

    def _plan(
        self,
        i: int,
        span: tuple[int, int],
        problem: Problem,
        place: Position = LOWER,
        head: nn.Module | None = None,
        *,
        decision: Decision | None = None,
        checkpoint: Recompute | None = None,
    ) -> SegmentPlan:
        """head: the network's own."""
        decision, checkpoint = decision or self.decision, self.checkpoint or False if checkpoint is None else checkpoint
        loss, own = self.loss, head if self.own_head and place.is_top else None

        def rule(blocks: nn.Sequential, shapes: Shapes) -> DecisionRule:
            return DecisionRule(
                blocks,
                decision.build(shapes[-1], problem.outputs) if own is None else own,
                problem.objective,
                gradient_dropout=self.gradient_dropout,
                gradient_noise=self.gradient_noise,
                input_dropout=self.input_dropout if i > 0 or self.drop_raw_input else 0.0,
                input_dropout_decay=self.input_dropout_decay,
                checkpoint=checkpoint,
                penalty=None if loss is None else loss.build(shapes[-1], problem.facts, place),
                share=1.0 if loss is None else loss.share(place),
                wants_inputs=loss is not None and loss.wants_inputs and not place.is_top,
            )

        return SegmentPlan(
            *span,
            self.rounds * self._epochs(i),
            rule,
            lr_scale=self.lr_factor**i,
            weight_decay_scale=self.weight_decay_factor**i,
        )


def _power(factor: float, exponent: int) -> float:
    try:
        return factor**exponent
    except OverflowError:
        return math.inf
