"""Feedback layer by layer: affine and convolutional layers go back through other weights than forward."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from effdl.errors import ConfigError
from effdl.objectives.objective import Objective
from effdl.training.backward_weights import layers, through
from effdl.training.called import called
from effdl.training.dense import Dense, written_out
from effdl.training.feedback import sign_symmetric
from effdl.training.feedback_rule import FeedbackRule
from effdl.training.hardware import Hardware
from effdl.training.recompute import Recompute


def refuse_compiled(hardware: Hardware) -> None:
    """Raise a ConfigError where blocks are compiled: for a step their layers are called in another way."""
    if hardware.compile:
        raise ConfigError(
            "hardware.compile: layers with feedback weights are not compiled; hardware.compile=false, or method=dfa"
        )


class LayerFeedback(FeedbackRule):
    """δ_x = C δ_y in the place of Wᵀ δ_y, from each layer to the one below; all else as in backpropagation.

    Layers are `nn.Linear` and convolutions; activations, pooling, and the scale of normalisations go back by their own
    derivatives. The lowest layer takes nothing back.

    Raises:
        ConfigError: see `layers`; in the first step, a layer that is not called as a module, or the lowest that takes back.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        head: nn.Module,
        objective: Objective,
        feedback: Sequence[Tensor] | None = None,
        checkpoint: Recompute = False,
    ) -> None:
        super().__init__(blocks, head, objective, feedback, checkpoint)
        layers(blocks, head)  # raises
        self._named: dict[str, nn.Module] | None = None  # found in the first step, when the blocks are where they learn

    @abstractmethod
    def backward_weight(self, place: int, weight: Tensor) -> Tensor:
        """C of the layer at this place, from 0 for the one above the lowest, in the shape of its weights."""

    def dense(self) -> Dense | None:
        def back(place: int, error: Tensor, delta: Tensor, above: Tensor) -> Tensor:
            return delta @ self.backward_weight(place, above.detach())

        return None if self.checkpoint else written_out(self.blocks, self.head, self.objective, back)

    def passed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.forward(x)
        return outputs, self.head(outputs)

    @contextmanager
    def feeding_back(self) -> Iterator[None]:
        seen, first = set[int](), self._named is None
        self._named = named = layers(self.blocks, self.head) if self._named is None else self._named
        ways = {layer: partial(self._called, layer, i, layer.forward, seen) for i, layer in enumerate(named.values(), -1)}
        with called(ways):
            yield
        if first and (past := [name for name, layer in named.items() if id(layer) not in seen]):
            raise ConfigError(
                f"method: layer {past[0]} is not called as a module, so that it would go back through its own weights; "
                "method=dfa takes any block"
            )

    def _called(self, layer: Any, place: int, forward: Callable[[Tensor], Tensor], seen: set[int], x: Tensor) -> Tensor:
        seen.add(id(layer))
        if not x.requires_grad:
            return forward(x)
        if place < 0:
            raise ConfigError(
                "method: the first layer of the network is called after others, and has no feedback weights; method=dfa "
                "takes any block"
            )
        return through(forward(x.detach()), x, self.backward_weight(place, layer.weight.detach()), layer)

    def stand_ins(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each layer but the lowest C beside W."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for place, (name, layer) in enumerate(layers(self.blocks, self.head).items(), -1):
            weight: Any = layer.weight
            if place >= 0:
                found[name] = self.backward_weight(place, weight.detach()), weight.detach()
        return found


class FixedFeedback(LayerFeedback):
    """Feedback alignment (Lillicrap et al. 2016): each C is fixed.

    Args:
        feedback: C of each layer but the lowest, in the shape of its weights, by their order; None: C = W at each step, which
            is backpropagation.
    """

    def backward_weight(self, place: int, weight: Tensor) -> Tensor:
        return weight if self.follows else self.matrix(place)


class SignFeedback(LayerFeedback):
    """Sign-symmetric feedback: each C has the signs of W at the moment, and one magnitude, see `feedback.sign_symmetric`."""

    def __init__(
        self,
        blocks: nn.Sequential,
        head: nn.Module,
        objective: Objective,
        magnitude: Literal["norm", "one"],
        checkpoint: Recompute = False,
    ) -> None:
        super().__init__(blocks, head, objective, checkpoint=checkpoint)
        self.magnitude: Literal["norm", "one"] = magnitude

    def backward_weight(self, place: int, weight: Tensor) -> Tensor:
        return sign_symmetric(weight, self.magnitude)
