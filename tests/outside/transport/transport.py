"""Least action (Karkar et al. 2020): layer-wise, and residual blocks are to move what they get as little as they can."""

from dataclasses import replace

from effdl.methods.method import Method
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.objective import at_least_float32
from effdl.setting import Count, NonNegative, setting
from effdl.training.decision import Decision, Pool
from effdl.training.loop import reduce_loss
from effdl.training.rule import Rule


def displacement(x, z):
    """‖z − x‖² of each sample, (B,); 0 where a block changes the shape, so that there is nothing between them."""
    return (z - x).flatten(1).square().sum(1) if z.shape == x.shape else x.new_zeros(len(x))


class TransportRule(Rule):
    """The loss of a decision block, and beside it λ times how far each block moves the samples."""

    def __init__(self, blocks, decision, objective, penalty):
        super().__init__(blocks)
        self.decision, self.objective, self.penalty = decision, objective, penalty

    def learn(self, batch, epoch):
        z, moved = batch.x.detach(), 0.0
        with self.hardware.autocast():
            for above in self.activations(z):
                z, moved = above, moved + displacement(z, above)
            loss = self.objective.loss(at_least_float32(self.decision(z)), batch.y) + self.penalty * moved
        reduce_loss(loss, batch.sample_weight).backward()
        return batch.passed_on(z.detach(), loss.detach())

    def predictor(self, chain):
        return chain.with_head(self.decision)


@setting
class Transport(Method):
    """Deep layer-wise learning with a transport penalty. penalty: λ, with 0 it is dll."""

    epochs: Count = 5
    decision: Decision = Pool()
    penalty: NonNegative = 0.1

    @property
    def layerwise(self):
        return Segmentwise(epochs=self.epochs, decision=self.decision)

    def training(self, problem, model, run):
        made = self.layerwise.training(problem, model, run)
        return replace(made, segments=[replace(plan, rule=self.penalised(plan.rule)) for plan in made.segments])

    def penalised(self, rule):
        def build(blocks, shape):
            plain = rule(blocks, shape)
            return TransportRule(plain.blocks, plain.decision, plain.objective, self.penalty)

        return build

    def network(self, model, problem, objective, notes):
        return self.layerwise.network(model, problem, objective, notes)
