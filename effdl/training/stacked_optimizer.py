"""One optimizer for the stacked parameters of many networks: torch's own, each over the members whose settings agree."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from effdl.training.optim import Optimizer
from effdl.training.rmsprop import RmspropInRoot

# Whose update of an element depends on nothing but that element's gradients, so that stacked ones are updated alike.
BY_ELEMENT = frozenset(
    {
        *(torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop, torch.optim.Rprop),
        *(torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam),
        RmspropInRoot,
    }
)
State = dict[str, Any]


def by_element(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it can be stacked."""
    if type(optimizer) not in BY_ELEMENT or len(optimizer.param_groups) != 1:
        return False
    return all(parameter.dim() > 0 for parameter in optimizer.param_groups[0]["params"])


def will_be_by_element(optimizer: Optimizer) -> bool:
    """Whether the optimizer that this setting builds can be stacked; none is made to see it, for which torch imports all of
    its compiler, but where the setting builds it in a way of its own."""
    if type(optimizer).build is Optimizer.build:
        return getattr(optimizer.rule, "func", optimizer.rule) in BY_ELEMENT
    return by_element(optimizer.build([nn.Parameter(torch.zeros(1))]))


class StackedOptimizer:
    """As each member's own optimizer would have it: updates of its slice of the stacked parameters, by its settings.

    Members with equal settings and as many steps behind share an optimizer of their class over their slices; so learning
    rates, schedules and resumed members may differ, for the overhead of one more each.

    Args:
        optimizers: of each member, over its own parameters; those of equal `settings_of` stand side by side.
        parameters: (members, ...), in the order of theirs.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], parameters: Sequence[Tensor]) -> None:
        self._optimizers, self._parameters = optimizers, parameters
        self._parts = [_Part(list(members), optimizers, parameters) for members in _alike(optimizers)]

    @torch.no_grad()
    def step(self) -> None:
        for part in self._parts:
            part.step(self._parameters)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def put_back(self) -> None:
        """What it remembers of each parameter into the members' own."""
        for part in self._parts:
            part.put_back(self._optimizers)


class _Part:
    """The members ``place`` of the stack, whose settings agree."""

    def __init__(self, members: list[int], optimizers: Sequence[torch.optim.Optimizer], stacked: Sequence[Tensor]) -> None:
        self._members, self._at = members, slice(members[0], members[-1] + 1)
        self._slices = [nn.Parameter(p.detach()[self._at], requires_grad=False) for p in stacked]
        first = optimizers[members[0]]
        self._own = copy.copy(first)
        (group,) = first.param_groups
        self._own.param_groups = [{**group, "params": self._slices}]
        self._own.state = defaultdict(dict)
        for place, part in enumerate(self._slices):
            states = [_states(optimizers[i])[place] for i in members]
            if states[0]:
                self._own.state[part] = {name: _joined([s[name] for s in states]) for name in states[0]}

    def step(self, stacked: Sequence[Tensor]) -> None:
        for part, whole in zip(self._slices, stacked, strict=True):
            part.grad = None if whole.grad is None else whole.grad[self._at]
        self._own.step()

    def put_back(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        for place, part in enumerate(self._slices):
            for row, member in enumerate(self._members if part in self._own.state else ()):
                (group,) = optimizers[member].param_groups
                found = {name: _row(value, row) for name, value in self._own.state[part].items()}
                optimizers[member].state[group["params"][place]] = found


def _states(optimizer: torch.optim.Optimizer) -> list[State]:
    (group,) = optimizer.param_groups
    return [optimizer.state.get(p, {}) for p in group["params"]]


def _is_stacked(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _joined(values: Sequence[Any]) -> Any:
    """What members remember of a parameter: tensors of its shape stacked, counters, which agree, as the first's."""
    return torch.stack(list(values)) if _is_stacked(values[0]) else copy.deepcopy(values[0])


def _row(value: Any, row: int) -> Any:
    return value[row].clone() if _is_stacked(value) else copy.deepcopy(value)


def settings_of(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What members must have in common to share one: class, settings, and all that is remembered but for stacked tensors."""
    (group,) = optimizer.param_groups
    own = sorted((key, repr(value)) for key, value in group.items() if key != "params")
    remembered = [sorted((k, "" if _is_stacked(v) else repr(v)) for k, v in state.items()) for state in _states(optimizer)]
    return type(optimizer).__qualname__, repr(own), repr(remembered)


def _alike(optimizers: Sequence[torch.optim.Optimizer]) -> list[list[int]]:
    places = range(len(optimizers))
    return [list(same) for _, same in groupby(places, key=lambda i: settings_of(optimizers[i]))]
