"""Modules as torch.compile makes them: each with a cache of its own, and never back to plain calls without a word."""

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from effdl.errors import HardwareError

_numbers = itertools.count()


class Compiled(nn.Module):
    """A module as torch.compile calls it; its weights stay where they are.

    torch keeps what it compiles by the code of the function that it was given, at most eight forms of each: training and
    evaluation, whole batches and the last one. Blocks of one class share their code, and from the ninth form on all further
    blocks would be called uncompiled. Here each module is given as a function whose code is its own.

    Raises:
        HardwareError: when it is called, where one module needs more forms than torch keeps.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._call: Callable[[Tensor], Tensor] = torch.compile(_function(module))

    def forward(self, x: Tensor) -> Tensor:
        from torch._dynamo import config as dynamo  # here, since it takes a second that no other run needs
        from torch._dynamo.exc import FailOnRecompileLimitHit

        try:
            with dynamo.patch(fail_on_recompile_limit_hit=True):
                return self._call(x)
        except FailOnRecompileLimitHit:
            raise HardwareError(
                f"hardware.compile: {type(self.module).__name__} takes more than {dynamo.recompile_limit} forms, as one with a "
                "number that changes from step to step does: hardware.compile=false"
            ) from None


def _function(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """module(x) as a function with a code object, and a name, that no other has."""

    def call(x: Tensor) -> Any:
        return module(x)

    name = (
        f"call_{next(_numbers)}"  # torch also remembers shapes by name, and would take those of two blocks for one that varies
    )
    return types.FunctionType(call.__code__.replace(co_name=name), call.__globals__, name, None, call.__closure__)
