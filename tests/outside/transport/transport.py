"""Least action (Karkar et al. 2020): layer-wise, and residual blocks are to move what they get as little as they can."""

from dataclasses import replace
from itertools import pairwise

from effdl.methods.method import Method
from effdl.methods.segmentwise import Segmentwise
from effdl.setting import Count, NonNegative, setting
from effdl.training.decision import Decision, Pool
from effdl.training.decision_rule import DecisionRule


def displacement(x, z):
    """‖z − x‖² of each sample, (B,); 0 where a block changes the shape, so that there is nothing between them."""
    return (z - x).flatten(1).square().sum(1) if z.shape == x.shape else x.new_zeros(len(x))


@setting
class Transport(Method):
    """Deep layer-wise learning with a transport penalty. penalty: λ, with 0 it is dll."""

    epochs: Count = 5
    decision: Decision = Pool()
    penalty: NonNegative = 0.1

    @property
    def layerwise(self):
        return Segmentwise(epochs=self.epochs, decision=self.decision)

    def cost(self, seen):
        """λ times how far each block moves the samples."""
        return self.penalty * sum(displacement(x, z) for x, z in pairwise(seen.activations))

    def training(self, problem, model, run):
        def rule(blocks, shapes):
            decision = self.decision.build(shapes[-1], problem.outputs)
            return DecisionRule(blocks, decision, problem.objective, penalty=self.cost)

        made = self.layerwise.training(problem, model, run)
        return replace(made, segments=[replace(plan, rule=rule) for plan in made.segments])

    def network(self, model, problem, objective, notes):
        return self.layerwise.network(model, problem, objective, notes)
