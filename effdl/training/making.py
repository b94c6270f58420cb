"""Making: the learners, rules and networks of a training's segments, each made the same way however often it is asked for."""

from functools import partial

from torch import nn

from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.training.copies import matched
from effdl.training.handle import RunHandle
from effdl.training.learner import Learner
from effdl.training.loop import reseed
from effdl.training.offloaded import Offloaded
from effdl.training.rule import Rule
from effdl.training.segments import SegmentPlan, Training


class Making:
    """What a training's segments consist of.

    Args:
        offloaded: where the chain's blocks are while they do not learn.

    ``shapes``: of each block's output for one sample.

    Raises:
        ConfigError: segments that cannot learn one after another, since they share weights.
    """

    def __init__(self, training: Training, problem: Problem, chain: BlockChain, run: RunHandle, offloaded: Offloaded) -> None:
        self.training, self.problem, self.chain, self.run, self.offloaded = training, problem, chain, run, offloaded
        # A whole batch of fake tensors takes no longer than two samples, and is what the count calls the blocks with too.
        samples, like = problem.batch_size if problem.is_outline else 2, problem.train_split.first()
        self.shapes = chain.shapes(problem.input_shape, samples, like.dtype)

    def learner(self, segment: int) -> Learner:
        """A segment's learner as it begins, by itself, its blocks on the device."""
        learner = self.learner_of(self.training.segments[segment], segment)
        learner.rule.yields = self.training.yields(segment)
        return learner

    def learner_of(self, plan: SegmentPlan, segment: int = 0) -> Learner:
        """The same of any plan for the chain, in the place of a segment; it yields nothing."""
        rank = self.run.ranks.rank
        self.offloaded.come(plan.start, plan.stop)
        rule = self._rule_of(plan, segment)
        rule.hardware, rule.yields = self.run.hardware, False
        return Learner(
            rule,
            self.run.optimizer(rule.parameters(), plan.lr_scale, plan.weight_decay_scale),
            seed=lambda epoch, step: self.run.seed("step", segment, epoch, step, *([rank] if rank else [])),
            epochs=plan.epochs,
            schedule=self.run.schedule,
        )

    def started(self, learner: Learner, segment: int) -> Learner:
        """A segment's learner, not by itself any longer: rehearsals are each rank's own, send nothing, and are not compiled."""
        if self.run.hardware.compile:
            learner.rule.compile_blocks()
        learner.ranks = self.run.ranks
        if (sync := self.run.sync) is not None:
            seed = partial(self.run.seed, "sync", segment)
            learner.syncing = sync.begin(learner.rule, learner.optimizer, learner.ranks, seed)
        return learner

    def rule(self, segment: int) -> Rule:
        """Segment's rule, in eval mode, all but its blocks freshly drawn from the stream ("init", segment)."""
        return self._rule_of(self.training.segments[segment], segment)

    def _rule_of(self, plan: SegmentPlan, segment: int) -> Rule:
        blocks = self.chain[plan.start : plan.stop]
        shapes, like = self.shapes[plan.start : plan.stop], next(blocks.parameters())
        reseed(self.run.seed("init", segment))
        before = [t._version for t in blocks.state_dict(keep_vars=True).values()]
        rule = plan.rule(blocks, shapes)
        if before != [t._version for t in blocks.state_dict(keep_vars=True).values()]:
            raise ConfigError(
                f"the rule {type(rule).__name__} changes its blocks where it is made, which happens again and again: let their "
                "weights be as they are"
            )
        rule.blocks = nn.Sequential()  # which lie where they are to be
        rule = matched(like, rule, self.problem.is_outline, self.run.hardware)
        rule.blocks = blocks
        if not self.problem.is_outline:
            rule.check(like.new_zeros(2, *shapes[-1]), self.problem.outputs)
        rule.eval()
        return rule

    def predictor(self, segment: int, rule: Rule) -> nn.Module:
        """The network that ends with a segment, from raw inputs."""
        return rule.predictor(self.chain.cropped(self.training.segments[segment].stop))

    def lasting(self, place: int) -> set[int]:
        """Ids of the chain's tensors that no turn after this place changes; without its head, which rules may share."""
        blocks, plans = list(self.chain.blocks), self.training.segments
        later = [plan for plan, last in zip(plans, self.training.last_turns, strict=True) if last > place]
        changing = {i for plan in later for i in range(plan.start, plan.stop)}
        ids = [{id(t) for t in block.state_dict(keep_vars=True).values()} for block in (self.chain.input, *blocks)]
        return set().union(*ids) - set().union(*(ids[i + 1] for i in changing))


def refuse_shared_weights(training: Training, chain: BlockChain) -> None:
    """Raise a ConfigError where two segments have a weight, and one of them not all blocks that have it: while that one
    learns, these could not stay as they are."""
    blocks: dict[int, dict[int, str]] = {}  # of each weight, those that have it, and its name there
    for i, (block, module) in enumerate(chain.blocks.named_children()):
        for name, weight in module.named_parameters():
            blocks.setdefault(id(weight), {})[i] = f"{block}.{name}"
    for having in (having for having in blocks.values() if len(having) > 1):
        spans = [(plan.start, plan.stop) for plan in training.segments]
        held = [[start <= i < stop for i in having] for start, stop in spans]
        first, *others = [segment for segment, of in enumerate(held) if any(of)] or [0]
        if others and not all(all(held[segment]) for segment in (first, *others)):
            raise ConfigError(
                f"arch: segments {first + 1} and {others[0] + 1} share the weight {having[max(having)]}, so that neither "
                "stays as it is while the other learns: train their blocks as one segment"
            )
