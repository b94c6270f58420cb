"""How often the signs of a layer's gradients change from batch to batch (thesis §6.6, conjecture 2)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from effdl.datasets.batch import Batch
from effdl.probes.of_layers import OfSample
from effdl.probes.sample import can_see
from effdl.rng import seed_for
from effdl.setting import Count, setting
from effdl.training.look import Learning, Look


@setting
class SignFlips(OfSample):
    """``<block>``: of two batches, one after the other, the share of a block's weights whose gradient has another sign in the
    second, the weights being the same; the mean over a sample's batches. 0.5 is chance, 0 is all batches alike.

    The gradients are those that the rule makes of a batch, its dropout and noise on gradients and inputs included, and
    normalisation by running statistics. Gradients that are 0 in one of the two do not count; where all are, it is no number.

    samples: in batches of the problem's size, always the same ones; a smaller one at the end is left out.
    """

    samples: Count = 1000

    def measure(self, look: Look) -> Mapping[str, float]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        problem = look.learning.problem
        split, index = self.sample.of(problem)
        generator = torch.Generator().manual_seed(seed_for(problem.seed, "sign_flips"))
        index = index[torch.randperm(len(index), generator=generator).to(index.device)]  # a set may be in the order of classes
        sizes = index.split(problem.batch_size)
        whole = sizes[: len(index) // problem.batch_size] or sizes
        rates: dict[str, list[Tensor]] = {name: [] for name, _ in look.blocks.named_children()}
        before: dict[str, Tensor] = {}
        for batch in split.gather(whole):
            with torch.enable_grad():
                signs = _signs(look.learning, batch)
            for name in before:
                rates[name].append(flips(before[name], signs[name]))
            before = signs
        return {name: float(torch.stack(of).nanmean()) if of else float("nan") for name, of in rates.items()}


def flips(a: Tensor, b: Tensor) -> Tensor:
    """Of signs (n,), -1, 0 or 1, the share that differs where neither is 0; not a number where there is none."""
    counted = (a * b).double()
    return (counted < 0).sum() / (counted != 0).sum()


def _signs(learning: Learning, batch: Batch) -> dict[str, Tensor]:
    """Of the gradients that the rule leaves in each block, as one row; nothing stays there."""
    rule, x = learning.rule, batch.x
    with torch.no_grad(), rule.hardware.autocast():
        for module in learning.below:
            x = module(x)
    rule.learn(Batch(x, batch.y, batch.index, inputs=batch.x if rule.wants_inputs else None), learning.epoch)
    found = {}
    for name, block in rule.blocks.named_children():
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in block.parameters() if p.requires_grad]
        found[name] = torch.cat([g.flatten().sign().to(torch.int8) for g in gradients])
    for p in rule.parameters():
        p.grad = None
    return found
