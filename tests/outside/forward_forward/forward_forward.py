"""Forward-Forward (Hinton 2022): layers learn to be active on true pairs of input and label, and quiet on false ones."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from effdl.archs.chain import BlockChain
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.setting import Count, Positive, setting
from effdl.training.loop import reduce_loss
from effdl.training.rule import Rule
from effdl.training.segments import SegmentPlan, Training


def laid_over(x, labels, classes):
    """Inputs whose first values say the label, one-hot, 255 in images of bytes and 1 elsewhere."""
    code = F.one_hot(labels, classes) * (255 if x.dtype == torch.uint8 else 1)
    return torch.cat([code.to(x.dtype), x.flatten(1)[:, classes:]], 1).view_as(x)


def goodness(z):
    """The mean square of each sample's activities (Hinton's sum, by the number of units)."""
    return z.flatten(1).square().mean(1)


class Length(nn.Module):
    """Activities divided by their root mean square, so that the goodness below is nothing that a layer could learn from."""

    def forward(self, z):
        return z / (goodness(z).sqrt() + 1e-4).view(-1, *[1] * (z.dim() - 1))


def layered(model):
    """The same blocks, all but the first behind a normalisation."""
    named = list(model.blocks.named_children())
    blocks = [named[0], *((name, nn.Sequential(Length(), block)) for name, block in named[1:])]
    return BlockChain(OrderedDict(blocks), nn.Identity(), model.input)


class Goodness(nn.Module):
    """For each label what all layers together make of it: the predicted one is the greatest."""

    def __init__(self, chain, classes):
        super().__init__()
        self.chain, self.classes = chain, classes

    def forward(self, x):
        of_labels = []
        for label in torch.arange(self.classes, device=x.device):
            z, total = self.chain.input(laid_over(x, label.expand(len(x)), self.classes)), 0
            for block in self.chain.blocks:
                z = block(z)
                total = total + goodness(z)
            of_labels.append(total)
        return torch.stack(of_labels, 1)


class ForwardForwardRule(Rule):
    """A batch is its samples with their labels, then the same with others."""

    def __init__(self, blocks, classes, threshold):
        super().__init__(blocks)
        self.classes, self.threshold = classes, threshold

    def prepare(self, batch, generator):
        n, classes = len(batch), self.classes
        others = (batch.y + torch.randint(1, classes, (n,), generator=generator).to(batch.y.device)) % classes
        twice = batch.take(torch.arange(n, device=batch.y.device).repeat(2))
        return twice.passed_on(laid_over(twice.x, torch.cat([batch.y, others]), classes))

    def learn(self, batch, epoch):
        with self.hardware.autocast():
            z = self(batch.x.detach())
        true, false = goodness(z.float() if z.dtype == torch.bfloat16 else z).chunk(2)
        loss = torch.cat([F.softplus(self.threshold - true), F.softplus(false - self.threshold)])
        reduce_loss(loss, batch.sample_weight).backward()
        return batch.passed_on(z.detach(), loss.detach())

    def predictor(self, chain):
        return Goodness(chain, self.classes)


@setting
class ForwardForward(Method):
    """Each block, bottom-up, by logistic regression of "true or false" on its goodness, with even odds at the threshold θ."""

    epochs: Count = 30
    threshold: Positive = 2.0

    def check(self, problem, arch, hardware):
        if problem.targets != "classes" or problem.outputs < 2 or math.prod(problem.input_shape) < problem.outputs:
            raise ConfigError(
                "dataset: ForwardForward lays a label over the input: take classes with an output each, fewer than inputs"
            )

    def chain(self, model):
        return layered(model)

    def training(self, problem, model, run):
        def rule(blocks, shapes):
            return ForwardForwardRule(blocks, problem.outputs, self.threshold)

        plans = [SegmentPlan(i, i + 1, self.epochs, rule) for i in range(len(model))]
        return Training(plans, keep_bytes=0)

    def network(self, model, problem, objective, notes):
        return Goodness(layered(model).cropped(notes["segment/chosen"] + 1), problem.outputs)
