"""The engine: segments of a network learn by turns, each by its rule, fed by the blocks below (Algorithms 3 and 4)."""

import math
from typing import Any, TypeVar

from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem, cut
from effdl.errors import ConfigError, Diverged
from effdl.training.copies import clone
from effdl.training.epoch import drain_epoch
from effdl.training.features import Stack
from effdl.training.handle import RunHandle, taking_up
from effdl.training.hardware import Hardware, give_back
from effdl.training.learner import Learner
from effdl.training.loop import evaluate, reseed
from effdl.training.offload import Offload
from effdl.training.offloaded import Offloaded
from effdl.training.rule import Rule
from effdl.training.segments import Training
from effdl.training.selection import Best, score, stale
from effdl.training.sources import Fed, Sieve
from effdl.training.untrained import OfBatch, normalises

Module = TypeVar("Module", bound=nn.Module)


class Engine:
    """One training of a chain: `fit` carries it out, from where `resume` took it up, and returns the chosen network.

    A checkpoint holds the place in the order, the chain once, of each learner what is not the chain's, and the best network.
    """

    def __init__(self, training: Training, problem: Problem, chain: BlockChain, run: RunHandle) -> None:
        self.training, self.problem, self.chain, self.run = training, problem, chain, run
        self._refuse_shared_weights()
        chain.eval()
        # A whole batch of fake tensors takes no longer than two samples, and is what the count calls the blocks with too.
        samples, like = problem.batch_size if problem.is_outline else 2, problem.train_split.first()
        self.shapes = chain.shapes(problem.input_shape, samples, like.dtype)
        self.source = Fed(problem, training.keep_bytes, run.hardware, run.ranks)
        device = next(chain.parameters()).device
        self.offload = Offload(training.offload, device, run.scratch, problem.is_outline)
        self.offloaded = Offloaded(self.offload, chain)
        self.best = Best(training.choose, len(training.segments), self.offloaded.copied)
        self.learners: dict[int, Learner] = {}  # of segments that have begun and are not done
        self.ages = [0] * len(chain)  # epochs that each block has learned
        by_batch = [i for i, block in enumerate(chain.blocks) if training.untrained == "batch_statistics" and normalises(block)]
        self._of_batch = {i: OfBatch(self.offloaded.blocks[i]) for i in by_batch}
        self.most_kept = self.feature_passes = 0
        self.at = (0, 0)  # the turn, and its epochs that lie behind
        self._tried: list[int] = []

    def fit(self) -> nn.Module:
        """Algorithms 3 and 4, by the order of the training::

        for turn in order:
            look through the blocks below the segment, and keep their outputs where they fit      (Algorithm 3, line 8)
            for each of its epochs: train, validate, record                                       (lines 3 to 6)
            offer the segment's network to the best
        """
        if not self.run.ranks.alone:
            self.offloaded.all_come()
            self.run.ranks.synchronise(self.chain)
        self.offloaded.rest()
        first, done = self.at
        for place, turn in enumerate(self.training.order[first:], first):
            learner = self._begin(turn.segment, resumed=done > 0)
            local = self._local(turn.segment, learner.rule)
            while done < turn.epochs and not stale(learner.history, self.training.patience):
                self.at = (place, done)
                self._epoch(turn.segment, learner, local)
                done += 1
            self._end(place, turn.segment, learner)
            del learner, local  # before the next segment's features are made
            done = 0
        return self._chosen()

    def _chosen(self) -> nn.Module:
        """The best network, in eval mode."""
        chosen, training = self.best.segment, self.training
        assert chosen is not None
        kept, passes = self.most_kept, self.feature_passes
        self.run.note({"segment/chosen": chosen, "memory/kept_features_bytes": kept, "data/feature_passes": passes})
        if training.returns:
            self.run.note({"epoch/chosen": self.best.epoch})
        self.offloaded.all_come()
        network = self._predictor(chosen, self._rule(chosen))
        self.best.put_into(network)
        return network.eval()

    def _begin(self, segment: int, resumed: bool) -> Learner:
        """The segment's learner at the beginning of a turn, and its source looking through the blocks below."""
        give_back()  # what the last turn, or rehearsed steps, held
        plan = self.training.segments[segment]
        self.offloaded.come(plan.start, plan.stop)
        if segment not in self.learners:
            self.learners[segment] = self._start(self.learner(segment))
            self.learners[segment].check_next_step()
        learner, below = self.learners[segment], self._below(segment)
        self.offloaded.wake(segment, learner)
        before = self.source.through.made
        with self.run.timer("feed"):
            self.source.look(below, learner.rule.prepare if learner.rule.prepares else None, self._tried)
            self._tried = []
        if not resumed:  # else they were counted when the turn began
            self.feature_passes += self.source.through.made - before
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
        self.at = (self.at[0], self.at[1] + 1)
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
        behind = self.training.behind(place)
        past, number = list(map(float, behind)), sum(behind) + done
        epoch, epochs, steps = learner.epoch, self.training.segments[segment].epochs, self.steps

        def progress(step: int) -> None:
            past[segment] = epoch + min(step / steps, 1.0)
            self.run.progress(segment, past, epochs)

        filter = self.run.filter
        sieve = None if filter is None else Sieve(filter, self.run.seed("filter", segment, epoch))
        return drain_epoch(learner, self.source.train(number, sieve), where, progress, 0 if sieve else self.problem.steps)

    def _end(self, place: int, segment: int, learner: Learner) -> None:
        """After a turn: offer the segment's network, and let go of a learner whose last turn this was."""
        later = {turn.segment for turn in self.training.order[place + 1 :]}
        changing = {id(t) for other in later for t in self._blocks(other).state_dict(keep_vars=True).values()}
        predictor = self._predictor(segment, learner.rule)
        parts = self.chain.input, self.chain.blocks  # rules may share its head
        lasting = {id(t) for part in parts for t in part.state_dict(keep_vars=True).values()} - changing
        above_untrained = any(isinstance(module, OfBatch) for module in self._below(segment).modules)
        if self.best.segment is None or not above_untrained:  # what was measured by batch statistics is not what it computes
            score = float("-inf") if above_untrained else learner.history[-1]
            self.best.offer(segment, learner.epoch - 1, score, predictor, lasting, copied=bool(later))
        if segment not in later:
            del self.learners[segment]
        self.offloaded.wait(segment, self.learners.get(segment))

    def learner(self, segment: int) -> Learner:
        """A segment's learner as it begins, by itself, its blocks on the device."""
        plan, rank = self.training.segments[segment], self.run.ranks.rank
        self.offloaded.come(plan.start, plan.stop)
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
        before = [t._version for t in blocks.state_dict(keep_vars=True).values()]
        rule = plan.rule(blocks, shape)
        if before != [t._version for t in blocks.state_dict(keep_vars=True).values()]:
            raise ConfigError(
                f"the rule {type(rule).__name__} changes its blocks where it is made, which happens again and again: let their "
                "weights be as they are"
            )
        rule.blocks = nn.Sequential()  # which lie where they are to be
        rule = matched(like, rule, self.problem.is_outline, self.run.hardware)
        rule.blocks = blocks
        if not self.problem.is_outline:
            rule.check(like.new_zeros(2, *shape), self.problem.outputs)
        rule.eval()
        return rule

    def _refuse_shared_weights(self) -> None:
        """Raise a ConfigError where a weight is of two segments: neither could be frozen while the other learns."""
        owners: dict[int, int] = {}
        for i in range(len(self.training.segments)):
            for name, weight in self._blocks(i).named_parameters():
                if owners.setdefault(id(weight), i) != i:
                    raise ConfigError(
                        f"arch: segments {owners[id(weight)] + 1} and {i + 1} share the weight {name}, so that neither stays "
                        "as it is while the other learns: train their blocks as one segment"
                    )

    def _blocks(self, segment: int) -> nn.Sequential:
        plan = self.training.segments[segment]
        return self.chain[plan.start : plan.stop]

    def _below(self, segment: int) -> Stack:
        start = self.training.segments[segment].start
        return Stack((self.chain.input, *map(self._called, range(start))), (0, *self.ages[:start]))

    def _called(self, i: int) -> nn.Module:
        """A block as it is called from above; the same object as long as it has learned nothing new."""
        return self._of_batch.get(i, self.offloaded.blocks[i]) if self.ages[i] == 0 else self.offloaded.blocks[i]

    def _predictor(self, segment: int, rule: Rule) -> nn.Module:
        return rule.predictor(self.chain.cropped(self.training.segments[segment].stop))

    def _local(self, segment: int, rule: Rule) -> nn.Module:
        """The network of a segment above what its source looks through; the whole where the rule makes batches of its own."""
        if rule.prepares:
            plan, blocks = self.training.segments[segment], list(self.chain.blocks)
            whole = [*map(self._called, range(plan.start)), *blocks[plan.start : plan.stop]]
            named = dict(zip(self.chain.names, whole, strict=False))
            return rule.predictor(BlockChain(named, nn.Identity(), self.chain.input))
        return rule.predictor(BlockChain(dict(rule.blocks.named_children()), nn.Identity()))

    @property
    def steps(self) -> int:
        """Expected steps of an epoch."""
        share = self.run.filter.expected_share if self.run.filter is not None else 1.0
        return max(1, len(cut(round(share * self.problem.num_train), self.problem.batch_size)))

    def state_dict(self) -> dict[str, Any]:
        self.offload.check()
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
        if place < 0 or not 0 < done <= self.training.order[place].epochs or len(saved["ages"]) != len(self.ages):
            raise ValueError("no such place in the order")
        self.ages, self._tried = list(map(int, saved["ages"])), list(map(int, saved["tried"]))
        self.most_kept, self.feature_passes = map(int, saved["counts"])
        order = self.training.order
        begun, still = ({turn.segment for turn in part} for part in (order[: place + 1], order[place:]))
        if saved["learners"].keys() != begun & still:
            raise ValueError("not the learners that are at work or wait")
        epochs = self.training.behind(place)
        epochs[order[place].segment] += done
        for segment, state in saved["learners"].items():
            learner = self.learner(segment)
            learner.load_state_dict(state)
            self.offloaded.wait(segment, learner)
            if learner.epoch != epochs[segment]:
                raise ValueError("no such epoch")
            self.learners[segment] = self._start(learner)
        self._load_best(saved["best"], is_there=place > 0)

    def _load_best(self, state: dict[str, Any], is_there: bool) -> None:
        self.best.load_state_dict(state)
        if (self.best.segment is not None) != is_there:
            raise ValueError("no best network, or one of the future")
        if self.best.segment is not None:
            predictor = self._predictor(self.best.segment, self._rule(self.best.segment))
            chains = {id(t) for part in (self.chain.input, self.chain.blocks) for t in part.state_dict(keep_vars=True).values()}
            own = {name for name, t in predictor.state_dict(keep_vars=True).items() if id(t) not in chains}
            self.best.check(predictor, own)
            if self.offload.moves:
                self.best.weights = self.offloaded.copied(self.best.weights)


def matched(like: Tensor, module: Module, is_outline: bool, hardware: Hardware) -> Module:
    """The module on this tensor's device, of its type, in the hardware's layout."""
    if not is_outline:
        return hardware.place(module.to(dtype=like.dtype), like.device)
    if all((p.device, p.dtype) == (like.device, like.dtype) for p in module.parameters()):
        return module
    # `to` exchanges parameters, which fake ones do not take
    return clone(module, lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype))
