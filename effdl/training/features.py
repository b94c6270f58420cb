"""A split seen through the modules below a segment, whose outputs are kept where they fit (Algorithm 3, line 8; §6.2.2)."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn


class Stored(Protocol):
    """Samples as they are stored: inputs, or features in their place."""

    def __len__(self) -> int:
        """How many there are."""

    def first(self) -> Tensor:
        """The first sample, (1, ...)."""


S = TypeVar("S", bound=Stored)


@dataclass(frozen=True, slots=True)
class Stack:
    """Modules in a row, in eval mode, and how many epochs each has learned: two alike compute the same within a training."""

    modules: tuple[nn.Module, ...]
    ages: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.modules)

    def __getitem__(self, span: slice) -> "Stack":
        return Stack(self.modules[span], self.ages[span])

    def shared(self, other: "Stack") -> int:
        """How many modules, from the bottom, are the same at the same age in both."""
        fewer = min(len(self), len(other))
        if self.modules[:fewer] == other.modules[:fewer] and self.ages[:fewer] == other.ages[:fewer]:
            return fewer  # as mostly, found out at once for thousands of modules
        pairs = zip(self.modules, other.modules, self.ages, other.ages, strict=False)
        return len(list(takewhile(lambda pair: pair[0] is pair[1] and pair[2] == pair[3], pairs)))


NOTHING = Stack((), ())
Pass = Callable[[Iterable[nn.Module], Tensor], Tensor]
Lift = Callable[[Tensor], Tensor]  # stored inputs -> features


class Through(Generic[S]):
    """Splits seen through what `look` says, from as high up as their features are kept.

    Args:
        splits: of raw inputs; their features are kept together or not at all.
        limit_bytes: what may lie in memory at once, old features and new ones; -1 keeps nothing.
        passed: sends inputs through modules.
        kept: (split, what sends its inputs up) -> the split of their features, and its bytes in memory.
        called: a module as it is to be called again and again, where its outputs are not kept.
        laid: as ``kept``, for features that do not fit in memory; None where they find no place. heights: at which it is asked.

    ``kept_bytes``: of the features that are kept in memory. ``height``: that looked from, in modules. ``pending``: the modules
    between there and the features that are kept, wherever they lie.
    """

    def __init__(
        self,
        splits: Sequence[S],
        limit_bytes: int,
        passed: Pass,
        kept: Callable[[S, Lift], tuple[S, int]],
        called: Callable[[nn.Module], nn.Module] = lambda module: module,
        laid: Callable[[S, Lift], tuple[S, int] | None] | None = None,
        heights: Collection[int] = (),
    ) -> None:
        self._raw, self.limit_bytes = tuple(splits), limit_bytes
        self._lay, self.heights = laid, heights
        self.made = 0  # how often features of all splits were
        self._passed, self._keep, self._called = passed, kept, called
        self.forget()

    def forget(self) -> None:
        """Keep nothing any longer, and look through nothing."""
        self.splits, self.kept_bytes = self._raw, 0
        self._seen = NOTHING  # the highest stack that was looked through, as far as it is the same still
        self._base = 0  # so many of its modules are below what is kept
        self._ready: dict[int, nn.Module] = {}  # by its place, a module as it is called again and again
        # Heights at which it was tried to keep features; replayed in this order they give the same bits.
        self.tried: list[int] = []
        self.height = 0
        self.pending: list[nn.Module] = []

    def look(self, stack: Stack) -> None:
        """From now on through these modules. What was kept of others, or of the same at another age, is dropped."""
        same = self._seen.shared(stack)
        if same < self._base:
            self.forget()
            same = 0
        self._seen, self.height = stack, len(stack)
        self.tried = [height for height in self.tried if height <= same]
        # What was made for a height that no longer counts is made anew, as a resumed run would.
        self._ready = {place: module for place, module in self._ready.items() if place < max(self.tried, default=0)}
        self._see()

    def keep(self) -> bool:
        """Replace what is kept by the features of all splits at this height if both fit for a moment; returns whether it is.

        Elsewhere the modules will be called again and again, as ``called`` makes them.
        """
        if self._base == self.height > 0:
            return True
        if self.height not in self.tried:
            self.tried.append(self.height)
            if self._makes():
                self.made += 1
                return True
            for place in range(self._base, self.height):
                if place not in self._ready:
                    self._ready[place] = self._called(self._seen.modules[place])
            self._see()
        return False

    def put(self, splits: Sequence[S], kept_bytes: int) -> None:
        """These are the features at this height."""
        self.splits, self.kept_bytes, self._base = tuple(splits), kept_bytes, self.height
        self._ready = {place: module for place, module in self._ready.items() if place >= self.height}
        self._see()

    def replay(self, heights: Iterable[int], stack: Stack) -> None:
        """Keep what another one, which ``tried`` these heights, has kept of the stack, rounded the same way."""
        for height in heights:
            self.look(stack[:height])
            self.keep()

    @property
    def keeps(self) -> bool:
        """Whether any features take the place of the raw inputs."""
        return self._base > 0

    @property
    def ready(self) -> list[nn.Module]:
        """Of the modules that are pending those that are called as ``called`` made them."""
        return [self._ready[place] for place in range(self._base, self.height) if place in self._ready]

    def _see(self) -> None:
        places = range(self._base, self.height)
        self.pending = [self._ready.get(place, self._seen.modules[place]) for place in places]

    def features(self, x: Tensor) -> Tensor:
        """Outputs at this height for stored x."""
        return self._passed(self.pending, x)

    @property
    def fits(self) -> bool:
        """Whether features of all splits at this height have room in memory beside those that are kept."""
        if self.limit_bytes < 0:
            return False
        needed = sum(map(len, self.splits)) * self.features(self.splits[0].first()).nbytes
        return needed + self.kept_bytes <= self.limit_bytes

    def _makes(self) -> bool:
        """Make what is kept at this height from now on; whether there is a place for it."""
        fits = self.fits
        keep = self._keep if fits else self._lay if self.height in self.heights and self.limit_bytes >= 0 else None
        made = list[tuple[S, int]]()
        for split in self.splits if keep is not None else ():
            if (one := keep(split, self.features)) is None:  # type: ignore[misc]
                return False
            made.append(one)
        if keep is not None:
            self.put([split for split, _ in made], sum(size for _, size in made))
        return keep is not None
