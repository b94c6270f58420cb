"""The engine: segments of a network learn by turns, each by its rule, fed by the blocks below (Algorithms 3 and 4)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import nn

from effdl.archs.chain import BlockChain
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem, cut
from effdl.errors import ConfigError, Diverged, RecordError
from effdl.training.features import Stack
from effdl.training.handle import RunHandle, taking_up
from effdl.training.hardware import give_back
from effdl.training.learner import Learner
from effdl.training.look import Learning, Look
from effdl.training.making import Making, refuse_shared_weights
from effdl.training.offload import Offload
from effdl.training.offloaded import Offloaded
from effdl.training.recorder import Recorder
from effdl.training.rule import Rule
from effdl.training.segments import Training
from effdl.training.selection import Best, score, stale
from effdl.training.shelf import Shelf
from effdl.training.sieving import Sifting
from effdl.training.sources import Fed, Replay, Source
from effdl.training.stacked import Evaluation, LearnEpoch
from effdl.training.untrained import OfBatch


class Member(NamedTuple):
    """Who learns in a turn. local: the network that is measured, above what comes in."""

    segment: int
    learner: Learner
    local: nn.Module

    def level(self, shared: bool) -> tuple[nn.Module, nn.Module]:
        """As `evaluate_each` takes it. shared: whether another one's level is above it, or below."""
        if not shared:
            return nn.Identity(), self.local
        if self.learner.rule.prepares or not isinstance(self.local, BlockChain):
            raise ConfigError(
                f"method: segments with the rule {type(self.learner.rule).__name__} cannot learn at once: it makes batches of "
                "its own, or its predictor is no BlockChain"
            )
        return self.local.blocks, self.local.head


class Engine:
    """One training of a chain: `fit` carries it out, from where `resume` took it up, and returns the chosen network.

    A checkpoint holds the place in the order, the chain once, of each learner what is not the chain's, and the best network.
    """

    def __init__(self, training: Training, problem: Problem, chain: BlockChain, run: RunHandle) -> None:
        self.training, self.problem, self.chain, self.run = training, problem, chain, run
        refuse_shared_weights(training, chain)
        if training.record and not run.ranks.alone:
            raise ConfigError("method.record_at: of several processes each would record its part alone: train in one process")
        if training.keep_on != "memory" and not run.ranks.alone:
            raise ConfigError(
                "method.keep_features_on: of several processes each would write all features: train in one process"
            )
        chain.eval()
        give_up = self._fed_instead if training.full_disk == "feed" else None
        self.shelf = Shelf(lambda: run.folder("features"), give_up)
        self.fed = self.active = self._fed()
        self.source: Source = self.fed
        device = next(chain.parameters()).device
        self.recorder = Recorder(training, device, lambda: run.folder("recorded"), run.say)
        self.offload = Offload(training.offload, device, lambda: run.folder("offload"), problem.is_outline)
        self.offloaded = Offloaded(self.offload, chain, training.untrained)
        self.sifting = Sifting(training, problem, run)
        self.making = Making(training, problem, chain, run, self.offloaded)
        self.best = Best(training.choose, len(training.segments), self.offloaded.copied)
        self.learners: dict[int, Learner] = {}  # of segments that have begun and are not done
        self.ages = [0] * len(chain)  # epochs that each block has learned
        self.most_kept = self.feature_passes = self.most_laid = 0
        self.at = (0, 0)  # the turn, and its epochs that lie behind
        self._tried: list[int] = []

    def fit(self) -> nn.Module:
        """Algorithms 3 and 4, by the order of the training::

        for turn in order:
            look through the blocks below the segment, and keep their outputs where they fit      (Algorithm 3, line 8)
            for each of its epochs: train, validate, record                                       (lines 3 to 6)
            offer the segment's network to the best

        Segments that learn at once have one turn; each gets what the one below puts out as it learns (§6.8.3).
        """
        if not self.run.ranks.alone:
            self.offloaded.all_come()
            self.run.ranks.synchronise(self.chain)
        self.offloaded.rest()
        first, done = self.at
        for place, turn in self.training.growth.growing(enumerate(self.training.order[first:], first), self.best):
            team = self._begin(place, resumed=done > 0)
            while done < turn.epochs and not any(stale(m.learner.history, self.training.patience) for m in team):
                self.at = (place, done)
                self._epoch(team)
                done += 1
            self._end(place, team)
            del team  # before the next segment's features are made
            done = 0
        return self._chosen()

    def _chosen(self) -> nn.Module:
        """The best network, in eval mode."""
        chosen, training = self.best.segment, self.training
        assert chosen is not None
        kept, passes = self.most_kept, self.feature_passes
        self.run.note({"segment/chosen": chosen, "memory/kept_features_bytes": kept, "data/feature_passes": passes})
        self.run.note({**self.recorder.notes(), **self.sifting.notes()})
        self.run.keep(self.sifting.lists())
        if training.keep_on != "memory":
            self.run.note({"data/features_on_disk_bytes": self.most_laid})
        if training.returns:
            self.run.note({"epoch/chosen": self.best.epoch})
        self.offloaded.all_come()
        if training.growth:
            self.run.note(training.growth.notes(self.best, self.at[0] + 1))
            self.run.reached(self.at[0] + 1)
        network = self.making.predictor(chosen, self.making.rule(chosen))
        self.best.put_into(network)
        return network.eval()

    def _begin(self, place: int, resumed: bool) -> list[Member]:
        """Those who learn in a turn, from the bottom up, and the source looking through the blocks below."""
        # What the last turn, or rehearsed steps, held; of a stack for all at once, since it takes milliseconds.
        self.run.company.share(("given back", place), give_back)
        turn = self.training.order[place]
        team = [self._member(segment) for segment in turn.segments]
        for member in team:
            member.level(len(team) > 1)  # raises where its networks cannot be measured so
        with self.run.timer("feed"):
            made = self._look(place, team[0], any(member.learner.rule.wants_inputs for member in team))
        if not resumed:  # else they were counted when the turn began
            self.feature_passes += made
        self.most_kept = max(self.most_kept, self.active.through.kept_bytes)
        self.most_laid = max(self.most_laid, self.active.laid_bytes)
        self.recorder.begin(place)
        for member in team:
            member.learner.ranks.synchronise(member.learner.rule)
            if not resumed and member.learner.epoch == 0:
                self.run.probe(self._shown(member), member.segment, -1, last=False)
        return team

    def _look(self, place: int, lowest: Member, inputs: bool) -> int:
        """From now on the source is of what comes out below the lowest segment; how often features were kept for that.

        inputs: whether somebody who learns wants the samples as they are stored, too.
        """
        rule, below, tried = lowest.learner.rule, self._below(lowest.segment), self._tried
        self._tried = []
        if self.training.record and (rule.prepares or inputs):
            raise ConfigError(
                f"method.record_at: the rule {type(rule).__name__} learns from raw inputs, of which nothing is recorded"
            )
        if (found := self.recorder.find(below)) is None:
            self.source = self.active = self.fed
            before = self.fed.through.made
            self.fed.look(below, rule.prepare if rule.prepares else None, tried, inputs)
        else:
            height, recording = found
            if self.active is self.fed:
                self.active = self._fed(only_val=True)
                self.fed.through.forget()
            before = self.active.through.made
            self.active.look(below, None, tried)
            behind = self.training.epochs_before(place)
            self.source = Replay(recording, self.active, below, height, behind)
        return self.active.through.made - before

    def _fed(self, only_val: bool = False) -> Fed:
        training, run = self.training, self.run
        return Fed(self.problem, training.keep_bytes, run.hardware, run.ranks, only_val, training.feed_parts, self.shelf)

    def may_lay(self, starts: Iterable[int]) -> None:
        """Features may lie on disk from now on, of the blocks below each of these, where they do not fit in memory."""
        self.shelf.heights |= {start + 1 for start in starts}

    def _fed_instead(self, error: RecordError) -> None:
        what, *_ = str(error).split("; ")
        self.run.say(f"{what}; the blocks below feed the segment")

    def _member(self, segment: int) -> Member:
        if segment not in self.learners:
            self.learners[segment] = self.making.started(self.making.learner(segment), segment)
            self.learners[segment].check_next_step()
        learner = self.learners[segment]
        self.offloaded.wake(segment, learner)
        return Member(segment, learner, self._local(segment, learner.rule))

    def _epoch(self, team: Sequence[Member]) -> None:
        """One epoch of a turn: train, validate, record, test, probe, offer a checkpoint."""
        with self.run.timer("train"):
            learned = self._learn(team)
        self.at = (self.at[0], self.at[1] + 1)
        for plan in (self.training.segments[member.segment] for member in team):
            for block in range(plan.start, plan.stop):
                self.ages[block] += 1
        levels = [member.level(len(team) > 1) for member in team]
        size = (self.problem.num_val, self.problem.batch_size)
        with self.run.timer("eval"), self.run.hardware.autocast():
            asked = Evaluation(levels, self.source.val(), self.problem.objective, size)
            found = self.run.ranks.agree(lambda: self.run.company.ask(asked))
        for member, (loss, samples), val in zip(team, learned, found, strict=True):
            self._record(member, {"train/loss": loss, "data/samples": samples, **member.learner.told}, val)
        self.run.save(self.state_dict)

    def _record(self, member: Member, learned: dict[str, float], val: dict[str, float]) -> None:
        """A segment's numbers of an epoch, and what the run measures of it."""
        segment, learner, local = member.segment, member.learner, member.local
        epoch = learner.epoch - 1
        if not math.isfinite(val.get("loss", 0.0)):
            where = self._where(segment, epoch)
            raise Diverged(f"validation loss is {val['loss']} after {where}: try a smaller optimizer.lr")
        learner.history.append(score(val))
        self.run.record(segment, epoch, {**learned, **{f"val/{name}": value for name, value in val.items()}})
        epochs = self.training.segments[segment].epochs
        last = learner.epoch == epochs or stale(learner.history, self.training.patience)
        below = None if learner.rule.prepares else self._below(segment)
        self.run.test(local, segment, epoch, last, below, self.training.keep_bytes)
        self.run.probe(self._shown(member), segment, epoch, last)

    def _shown(self, member: Member) -> Look:
        """What probes are shown of a segment."""
        rule = member.learner.rule
        below = () if rule.prepares else self._below(member.segment).modules
        learning = Learning(
            rule,
            self.problem.objective,
            member.learner.epoch,
            partial(self._sample, member.segment, rule.wants_inputs),
            self.problem,
            below,
            member.local,
            tuple(self.chain.names),
        )
        return Look(rule.blocks, learning)

    @cached_property
    def _first(self) -> Batch:
        """The first batch of the first epoch, of stored inputs."""
        return next(self.problem.train(0)).to(next(self.chain.parameters()).device)

    def _sample(self, segment: int, inputs: bool) -> Batch:
        """The same batch as a segment gets it. inputs: see `Rule.wants_inputs`."""
        fed = self._first.passed_on(self.fed.passed(self._below(segment).modules, self._first.x))
        return replace(fed, inputs=self._first.x) if inputs else fed

    def _learn(self, team: Sequence[Member]) -> list[tuple[float, int]]:
        """An epoch of updates; of each who learns mean training loss, and how many samples of the problem it learned from."""
        place, done = self.at
        past, number = list(map(float, self.training.behind(place))), self.training.epochs_before(place) + done
        learners = {self._where(m.segment, m.learner.epoch): m.learner for m in team}
        epochs, steps = {m.segment: m.learner.epoch for m in team}, self.steps(team[0].segment)
        lowest, of_all = team[0].segment, self.training.segments[team[0].segment].epochs

        def progress(step: int, stands_for: int = 1) -> bool:
            part = min(step / steps, 1.0)
            for segment, epoch in epochs.items():
                past[segment] = epoch + part
            return self.run.progress(lowest, past, of_all, stands_for)

        sieve = self.sifting.sieve({m.segment: (m.learner, m.local) for m in team}, number, self.source)
        sizes = cut(self.problem.num_train, self.problem.batch_size)
        asked = LearnEpoch(
            learners,
            lambda joined: self.source.train(number, sieve, joined),
            progress,
            expected=0 if sieve else self.problem.steps,
            passing=lambda batches: self.recorder.passing(self.sifting.learned(batches)),
            sizes=() if sieve or self.problem.is_outline else sizes,
            sample_bytes=self.active.sample_bytes,
            between=self.sifting.between,
        )
        found = self.run.company.ask(asked)
        if not team[0].learner.rule.prepares:
            return found
        samples = self.run.ranks.total(torch.tensor(self.fed.prepared))  # of each its rule made as many rows as it likes
        return [(loss, int(samples)) for loss, _ in found]

    def _where(self, segment: int, epoch: int) -> str:
        return f"segment {segment + 1} of {len(self.training.segments)}, epoch {epoch + 1}"

    def _end(self, place: int, team: Sequence[Member]) -> None:
        """After a turn: offer the segments' networks, and let go of learners whose last turn this was."""
        is_last = place == len(self.training.order) - 1
        for segment, learner, _ in team:
            predictor = partial(self.making.predictor, segment, learner.rule)
            lasting = partial(self.making.lasting, place)
            above_untrained = any(isinstance(module, OfBatch) for module in self._below(segment).modules)
            if self.best.segment is None or not above_untrained:  # by batch statistics another network was measured
                score = float("-inf") if above_untrained else learner.history[-1]
                self.best.offer(segment, learner.epoch - 1, score, predictor, lasting, copied=not is_last)
            if self.training.last_turns[segment] > place:
                self.offloaded.wait(segment, learner)
            else:
                del self.learners[segment]
        self.offloaded.rest()
        self.recorder.end(place, self._stack)

    def _below(self, segment: int) -> Stack:
        return self._stack(self.training.segments[segment].start)

    def _stack(self, blocks: int) -> Stack:
        return Stack((self.chain.input, *map(self._called, range(blocks))), (0, *self.ages[:blocks]))

    def _called(self, i: int) -> nn.Module:
        """A block as it is called from above; the same object as long as it has learned nothing new."""
        return self.offloaded.called(i, has_learned=self.ages[i] > 0)

    def _local(self, segment: int, rule: Rule) -> nn.Module:
        """The network of a segment above what its source looks through; the whole where the rule makes batches of its own."""
        if rule.prepares:
            plan, blocks = self.training.segments[segment], list(self.chain.blocks)
            whole = [*map(self._called, range(plan.start)), *blocks[plan.start : plan.stop]]
            return rule.predictor(BlockChain(dict(zip(self.chain.names, whole, strict=False)), nn.Identity(), self.chain.input))
        return rule.predictor(BlockChain(dict(rule.blocks.named_children()), nn.Identity()))

    def share(self, segment: int) -> float:
        """Of an epoch's samples that a segment is expected to learn from."""
        return self.sifting.share(segment)

    def steps(self, segment: int) -> int:
        """Expected steps of an epoch of a segment."""
        return max(1, len(cut(round(self.share(segment) * self.problem.num_train), self.problem.batch_size)))

    def state_dict(self) -> dict[str, Any]:
        self.offload.check()
        return {
            "at": self.at,
            "chain": self.chain.state_dict(),
            "ages": self.ages,
            "learners": {segment: learner.state_dict() for segment, learner in self.learners.items()},
            "best": self.best.state_dict(),
            "tried": self.active.through.tried,
            "recorded": self.recorder.state_dict(),
            "filter": self.sifting.state_dict(),
            "counts": (self.most_kept, self.feature_passes),
            "shelf": (self.most_laid, sorted(self.shelf.heights)),
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
        if place < 0 or not 0 < done <= self.training.order[place].epochs or len(saved["ages"]) != len(self.ages):
            raise ValueError("no such place in the order")
        self.ages, self._tried = list(map(int, saved["ages"])), list(map(int, saved["tried"]))
        self.sifting.load_state_dict(saved.get("filter"))
        self.most_kept, self.feature_passes = map(int, saved["counts"])
        self.most_laid, heights = saved.get("shelf", (0, ()))  # none in checkpoints of older versions
        self.shelf.heights |= set(map(int, heights))
        order = self.training.order
        begun, still = ({s for turn in part for s in turn.segments} for part in (order[: place + 1], order[place:]))
        if saved["learners"].keys() != begun & still:
            raise ValueError("not the learners that are at work or wait")
        epochs = self.training.behind(place)
        for segment in order[place].segments:
            epochs[segment] += done
        for segment, state in saved["learners"].items():
            learner = self.making.started(self.making.learner(segment), segment)
            learner.load_state_dict(state)
            self.offloaded.wait(segment, learner)
            if learner.epoch != epochs[segment]:
                raise ValueError("no such epoch")
            self.learners[segment] = learner
        self.recorder.load_state_dict(saved["recorded"], place, done, lambda blocks: self._stack(blocks).modules)
        self._load_best(saved["best"], place)

    def _load_best(self, state: dict[str, Any], place: int) -> None:
        """Its weights are to be those that were not lasting when it was offered: exactly these."""
        self.best.load_state_dict(state)
        segment, epoch = self.best.segment, self.best.epoch
        if (segment is not None) != (place > 0):
            raise ValueError("no best network, or one of the future")
        if segment is not None:
            if epoch is None:
                raise ValueError("no epoch of the best network")
            lasting = self.making.lasting(self.training.place_of(segment, epoch, before=place))
            predictor = self.making.predictor(segment, self.making.rule(segment))
            self.best.check(predictor, {n for n, t in predictor.state_dict(keep_vars=True).items() if id(t) not in lasting})
            if self.offload.moves:
                self.best.weights = self.offloaded.copied(self.best.weights)
