"""Which network a training ends in, and when a segment or all has learned enough: by validation, never by anything else."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from effdl.objectives.objective import HIGHER, SCORES
from effdl.training.orders import Turn

Choose = Literal["validation", "last"]


def score(metrics: dict[str, float]) -> float:
    """Higher is better: mean intersection over union of pixels, accuracy, or minus the mean squared error; minus infinity where
    nothing was measured."""
    name = next((name for name in SCORES if name in metrics), None)
    if name is None:
        return float("-inf")
    return metrics[name] if name in HIGHER else -metrics[name]


def stale(history: Sequence[float], patience: int | None) -> bool:
    """Whether the best score, the first of equals, is ``patience`` epochs old."""
    if patience is None or not history or history[0] == float("-inf"):
        return False
    return len(history) - 1 - max(range(len(history)), key=history.__getitem__) >= patience


def clones(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that nobody else changes."""
    return {name: t.clone() for name, t in weights.items()}


class Best:
    """The network that did best so far, by the state of its predictor.

    choose: "validation" takes the segment whose network did best on the validation set after its turn, ties going to the
        earlier one; "last", or an empty validation set, takes the last segment (Algorithm 3).
    copy: makes copies of weights, where they are to lie.

    ``segment``, ``epoch``, ``score``: of the best, None before the first. ``weights``: those of its predictor that change or go
    after its turn; all others are the network's own.
    """

    def __init__(self, choose: Choose, segments: int, copy: Callable[[dict[str, Tensor]], dict[str, Tensor]] = clones) -> None:
        self._choose, self._last, self._copy = choose, segments - 1, copy
        self.segment: int | None = None
        self.epoch: int | None = None
        self.score = float("-inf")
        self.weights: dict[str, Tensor] = {}

    def offer(
        self,
        segment: int,
        epoch: int,
        score: float,
        predictor: Callable[[], nn.Module],
        lasting: Callable[[], set[int]],
        copied: bool,
    ) -> None:
        """A segment's network after its turn.

        Args:
            epoch: its last so far.
            predictor, lasting: make it, and the ids of its tensors that nobody changes from now on. They are asked where it is
                the best so far, for each goes through a network from its bottom.
            copied: whether the others may change; else they are only held.
        """
        if self.segment is None or self._is_better(segment, score):
            self.segment, self.epoch, self.score = segment, epoch, score
            still = lasting()
            own = {name: t.detach() for name, t in predictor().state_dict(keep_vars=True).items() if id(t) not in still}
            self.weights = self._copy(own) if copied else own

    def put_into(self, predictor: nn.Module) -> None:
        """Raises ValueError where the weights are not such as a predictor of that segment has."""
        self.check(predictor, set(self.weights))
        predictor.load_state_dict(self.weights, strict=False)

    def check(self, predictor: nn.Module, names: set[str]) -> None:
        """Raises ValueError as `put_into`, and where they are not those of these names; puts nothing."""
        shapes = {name: tensor.shape for name, tensor in predictor.state_dict().items()}
        if names != self.weights.keys() or any(shapes.get(name) != tensor.shape for name, tensor in self.weights.items()):
            raise ValueError("not the weights of this network")

    def _is_better(self, segment: int, score: float) -> bool:
        if self._choose == "last" or score == float("-inf"):
            return segment == self._last or self.segment != self._last
        return score > self.score

    def state_dict(self) -> dict[str, Any]:
        return {"segment": self.segment, "epoch": self.epoch, "score": self.score, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.segment, self.epoch, self.weights = state["segment"], state["epoch"], state["weights"]
        self.score = float(state["score"])


@dataclass(frozen=True)
class Growth:
    """When a network has grown enough that is trained from the bottom up, each segment in a single turn (§6.1: "layers (or
    blocks) are added and trained, as needed, until a desired precision has been achieved"); by default never.

    until: a `score` that is good enough. patience: so many segments in a row that did no better than the best before them.
    """

    until: float | None = None
    patience: int | None = None

    def __bool__(self) -> bool:
        """Whether it may end before the network does."""
        return self.until is not None or self.patience is not None

    def ended_by(self, best: Best, segment: int) -> str | None:
        """Which setting of `methods.segmentwise` ends it after this segment's turn, whose network was offered to the best."""
        assert best.segment is not None
        if self.until is not None and best.score >= self.until:
            return "grow_until"
        if self.patience is not None and segment - best.segment >= self.patience:
            return "grow_patience"
        return None

    def growing(self, turns: Iterable[tuple[int, Turn]], best: Best) -> Iterator[tuple[int, Turn]]:
        """An order's places and turns until there are segments enough; asked for the next, it looks at the best until then."""
        for place, turn in turns:
            yield place, turn
            if self.ended_by(best, turn.segment) is not None:
                return

    def notes(self, best: Best, trained: int) -> dict[str, Any]:
        """For the record: how many segments were trained, and what ended it: "blocks" where the network has no more."""
        return {"segment/trained": trained, "segment/ended_by": self.ended_by(best, trained - 1) or "blocks"}
