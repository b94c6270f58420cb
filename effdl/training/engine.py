"""The engine: segments of a network learn by turns, each by its rule, fed by the blocks below (Algorithms 3 and 4)."""

import math
from typing import Any, TypeVar

from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem, cut
from effdl.errors import Diverged
from effdl.training.copies import clone
from effdl.training.epoch import drain_epoch
from effdl.training.features import Stack
from effdl.training.handle import RunHandle, taking_up
from effdl.training.hardware import Hardware
from effdl.training.learner import Learner
from effdl.training.loop import evaluate, reseed
from effdl.training.rule import Rule
from effdl.training.segments import Training
from effdl.training.selection import Best, score, stale
from effdl.training.sources import Fed, Sieve

Module = TypeVar("Module", bound=nn.Module)


class Engine:
    """One training of a chain: `fit` carries it out, from where `resume` took it up, and returns the chosen network.

    A checkpoint holds the place in the order, the chain once, of each learner what is not the chain's, and the best network.
    """

    def __init__(self, training: Training, problem: Problem, chain: BlockChain, run: RunHandle) -> None:
        self.training, self.problem, self.chain, self.run = training, problem, chain, run
        chain.eval()
        # A whole batch of fake tensors takes no longer than two samples, and is what the count calls the blocks with too.
        samples, like = problem.batch_size if problem.is_outline else 2, problem.train_split.first()
        self.shapes = chain.shapes(problem.input_shape, samples, like.dtype)
        self.source = Fed(problem, training.keep_bytes, run.hardware, run.ranks)
        self.best = Best(training.choose, len(training.segments))
        self.learners: dict[int, Learner] = {}  # of segments that have begun and whose turn comes again
        self.ages = [0] * len(chain)  # epochs that each block has learned
        self.most_kept = self.feature_passes = 0
        self.at = (0, 0)  # the turn, and its epochs that lie behind
        self._tried: list[int] = []

    def fit(self) -> nn.Module:
        self.run.ranks.synchronise(self.chain)
        first, done = self.at
        for place, turn in enumerate(self.training.order[first:], first):
            learner = self._begin(turn.segment, resumed=done > 0)
            local = self._local(turn.segment, learner.rule)
            while done < turn.epochs and not stale(learner.history, self.training.patience):
                done += 1
                self.at = (place, done)
                self._epoch(turn.segment, learner, local)
            self._end(place, turn.segment, learner)
            done = 0
        chosen = self.best.segment
        assert chosen is not None
        kept, passes = self.most_kept, self.feature_passes
        self.run.note({"segment/chosen": chosen, "memory/kept_features_bytes": kept, "data/feature_passes": passes})
        network = self._predictor(chosen, self._rule(chosen))
        self.best.put_into(network)
        return network.eval()

    def _begin(self, segment: int, resumed: bool) -> Learner:
        """The segment's learner at the beginning of a turn, and its source looking through the blocks below."""
        if segment not in self.learners:
            self.learners[segment] = self._start(self.learner(segment))
            self.learners[segment].check_next_step()
        learner, below = self.learners[segment], self._below(segment)
        with self.run.timer("feed"):
            self.source.through.replay(self._tried, below)
            self._tried = []
            kept = self.source.look(below, learner.rule.prepare if learner.rule.prepares else None)
        if not resumed:
            self.feature_passes += kept
        self.most_kept = max(self.most_kept, self.source.through.kept_bytes)
        learner.ranks.synchronise(learner.rule)
        return learner

    def _epoch(self, segment: int, learner: Learner, local: nn.Module) -> None:
        """One epoch of a segment: train, validate, record, test, probe, offer a checkpoint.

        local: the network that is measured, above what the source looks through.
        """
        plan, epoch = self.training.segments[segment], learner.epoch
        where = f"segment {segment + 1} of {len(self.training.segments)}, epoch {epoch + 1}"
        with self.run.timer("train"):
            loss, samples = self._learn(segment, learner, where)
        for block in range(plan.start, plan.stop):
            self.ages[block] += 1
        with self.run.timer("eval"), self.run.hardware.autocast():
            val = learner.ranks.agree(lambda: evaluate(local, self.source.val(), self.problem.objective))
        if not math.isfinite(val.get("loss", 0.0)):
            raise Diverged(f"validation loss is {val['loss']} after {where}: try a smaller optimizer.lr")
        learner.history.append(score(val))
        metrics = {"train/loss": loss, "data/samples": samples, **{f"val/{name}": value for name, value in val.items()}}
        self.run.record(segment, epoch, metrics)
        last = learner.epoch == plan.epochs or stale(learner.history, self.training.patience)
        below = None if learner.rule.prepares else self._below(segment)
        self.run.test(local, segment, epoch, last, below, self.training.keep_bytes)
        self.run.probe(learner.rule.blocks, segment, epoch, last)
        self.run.save(self.state_dict)

    def _learn(self, segment: int, learner: Learner, where: str) -> tuple[float, int]:
        """An epoch of updates; mean training loss and samples stepped on."""
        place, done = self.at
        past, number = [0.0] * len(self.training.segments), done - 1
        for turn in self.training.order[:place]:
            past[turn.segment] += turn.epochs
            number += turn.epochs
        epoch, epochs, steps = learner.epoch, self.training.segments[segment].epochs, self.steps

        def progress(step: int) -> None:
            past[segment] = epoch + step / steps
            self.run.progress(segment, past, epochs)

        filter = self.run.filter
        sieve = None if filter is None else Sieve(filter, self.run.seed("filter", segment, epoch))
        return drain_epoch(learner, self.source.train(number, sieve), where, progress)

    def _end(self, place: int, segment: int, learner: Learner) -> None:
        """After a turn: offer the segment's network, and let go of a learner whose last turn this was."""
        later = {turn.segment for turn in self.training.order[place + 1 :]}
        changing = {id(t) for other in later for t in self._blocks(other).state_dict(keep_vars=True).values()}
        predictor = self._predictor(segment, learner.rule)
        ids = {id(t) for t in predictor.state_dict(keep_vars=True).values()}
        lasting = {id(t) for t in self.chain.state_dict(keep_vars=True).values()} - changing
        self.best.offer(segment, learner.history[-1], predictor, lasting, copied=segment in later or bool(ids & changing))
        if segment not in later:
            del self.learners[segment]

    def learner(self, segment: int) -> Learner:
        """A segment's learner as it begins, by itself."""
        plan, rank = self.training.segments[segment], self.run.ranks.rank
        rule = self._rule(segment)
        rule.hardware, rule.yields = self.run.hardware, False  # a turn ends before the next begins: nobody takes what it yields
        return Learner(
            rule,
            self.run.optimizer(rule.parameters(), plan.lr_scale, plan.weight_decay_scale),
            seed=lambda epoch, step: self.run.seed("step", segment, epoch, step, *([rank] if rank else [])),
            epochs=plan.epochs,
            schedule=self.run.schedule,
        )

    def _start(self, learner: Learner) -> Learner:
        """The learner, not by itself any longer: rehearsals are each rank's own, and not compiled."""
        if self.run.hardware.compile:
            learner.rule.compile_blocks()
        learner.ranks = self.run.ranks
        return learner

    def _rule(self, segment: int) -> Rule:
        """Segment's rule, in eval mode, all but its blocks freshly drawn from the stream ("init", segment)."""
        plan, blocks = self.training.segments[segment], self._blocks(segment)
        shape, like = self.shapes[plan.stop - 1], next(blocks.parameters())
        reseed(self.run.seed("init", segment))
        rule = plan.rule(blocks, shape)
        rule.blocks = nn.Sequential()  # which lie where they are to be
        rule = matched(like, rule, self.problem.is_outline, self.run.hardware)
        rule.blocks = blocks
        if not self.problem.is_outline:
            rule.check(like.new_zeros(2, *shape), self.problem.outputs)
        rule.eval()
        return rule

    def _blocks(self, segment: int) -> nn.Sequential:
        plan = self.training.segments[segment]
        return self.chain[plan.start : plan.stop]

    def _below(self, segment: int) -> Stack:
        start = self.training.segments[segment].start
        return Stack((self.chain.input, *self.chain[:start]), (0, *self.ages[:start]))

    def _predictor(self, segment: int, rule: Rule) -> nn.Module:
        return rule.predictor(self.chain.cropped(self.training.segments[segment].stop))

    def _local(self, segment: int, rule: Rule) -> nn.Module:
        """The network of a segment above what its source looks through; the whole where the rule makes batches of its own."""
        if rule.prepares:
            return self._predictor(segment, rule)
        return rule.predictor(BlockChain(dict(rule.blocks.named_children()), nn.Identity()))

    @property
    def steps(self) -> int:
        """Expected steps of an epoch."""
        share = self.run.filter.expected_share if self.run.filter is not None else 1.0
        return max(1, len(cut(round(share * self.problem.num_train), self.problem.batch_size)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "chain": self.chain.state_dict(),
            "ages": self.ages,
            "learners": {segment: learner.state_dict() for segment, learner in self.learners.items()},
            "best": self.best.state_dict(),
            "tried": self.source.through.tried,
            "counts": (self.most_kept, self.feature_passes),
        }

    def resume(self) -> bool:
        """Take up the run's checkpoint; whether there is one."""
        saved = self.run.load()
        if saved is not None:
            with taking_up():
                self._load_state_dict(saved)
        return saved is not None

    def _load_state_dict(self, saved: dict[str, Any]) -> None:
        """And look whether it is such as was saved, all of it, though some is needed at the very end."""
        self.chain.load_state_dict(saved["chain"])
        place, done = self.at = saved["at"]
        if not 0 < done <= self.training.order[place].epochs or len(saved["ages"]) != len(self.ages):
            raise ValueError("no such place in the order")
        self.ages, self._tried = list(saved["ages"]), list(saved["tried"])
        self.most_kept, self.feature_passes = saved["counts"]
        for segment, state in saved["learners"].items():
            learner = self.learner(segment)
            learner.load_state_dict(state)
            self.learners[segment] = self._start(learner)
        self.learners[self.training.order[place].segment]  # which is about to go on
        self.best.load_state_dict(saved["best"])
        if self.best.segment is not None:
            self.best.check(self._predictor(self.best.segment, self._rule(self.best.segment)))


def matched(like: Tensor, module: Module, is_outline: bool, hardware: Hardware) -> Module:
    """The module on this tensor's device, of its type, in the hardware's layout."""
    if not is_outline:
        return hardware.place(module.to(dtype=like.dtype), like.device)
    if all((p.device, p.dtype) == (like.device, like.dtype) for p in module.parameters()):
        return module
    # `to` exchanges parameters, which fake ones do not take
    return clone(module, lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype))
