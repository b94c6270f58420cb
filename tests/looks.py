"""What probes are shown of a network that nobody trains."""

import torch
from torch import Tensor, nn

from effdl import SoftmaxCe
from effdl.archs.chain import BlockChain
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.training.decision_rule import DecisionRule
from effdl.training.look import Learning, Look


def look(model: BlockChain, problem: Problem, epoch: int = 0) -> Look:
    rule = DecisionRule(model.blocks, model.head, problem.objective)
    model.eval()
    return Look(
        model.blocks,
        Learning(
            rule,
            problem.objective,
            epoch,
            lambda: next(problem.train(0)),
            problem,
            (model.input,),
            model,
            tuple(model.names),
        ),
    )


def of_points(x: Tensor, y: Tensor, *scales: float) -> Look:
    """Layers each of which makes the points so many times as far apart, under a head that passes them on."""
    problem = Problem(Samples(x, y), Samples(x[:0], y[:0]), SoftmaxCe(), outputs=int(y.max()) + 1, batch_size=2)
    layers = [nn.Linear(x.shape[1], x.shape[1], bias=False) for _ in scales]
    for layer, scale in zip(layers, scales, strict=True):
        layer.weight.data = scale * torch.eye(x.shape[1])
    return look(BlockChain(layers, nn.Identity(), nn.Identity()), problem)
