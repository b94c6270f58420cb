"""RMSProp with its smoothing constant within the root, as papers print it; torch adds it to the root."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class RmspropInRoot(torch.optim.Optimizer):
    """θ = θ − η g / √(E + ε), with E = ρE + (1 − ρ)g² from 0 (Demirbilek §1.4.2).

    Where √E is as small as √ε, 1e-4, torch's g / (√E + ε) makes a step √2 times as long.

    Args:
        alpha: ρ, by torch's name for it. weight_decay: λ, whose λθ is a part of the gradient.
        foreach: all parameters at once, which a GPU does faster, and for which all roots lie in memory.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, alpha: float, eps: float, weight_decay: float, foreach: bool
    ) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "foreach": foreach})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learned = [p for p in group["params"] if p.grad is not None]
            for some in [learned] if group["foreach"] and learned else [[p] for p in learned]:
                self._update(some, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Any] = [p.grad for p in params]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
        means = [self._mean(p) for p in params]
        torch._foreach_mul_(means, group["alpha"])
        torch._foreach_addcmul_(means, gradients, gradients, value=1 - group["alpha"])
        roots = list(torch._foreach_add(means, group["eps"]))
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(params, gradients, roots, value=-group["lr"])

    def _mean(self, param: Tensor) -> Tensor:
        """E, the running mean of squared gradients."""
        state = self.state[param]
        if "square_avg" not in state:
            state["square_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        mean: Tensor = state["square_avg"]
        return mean
