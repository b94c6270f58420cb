"""Filters that choose by what was found out of each sample of the training set before, and not by how it comes."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from effdl.errors import ConfigError
from effdl.filters.filter import Filter
from effdl.setting import setting

if TYPE_CHECKING:
    from effdl.training.sieving import Moment


@setting
class Remembering(Filter, ABC):
    """Knows samples by their place alone, so that what is dropped need not be fed; remembers what it goes by."""

    needs_moments: ClassVar[bool] = True

    @property
    def sees(self) -> Literal["index", "features"]:
        return "index"

    @property
    def again(self) -> bool:
        return True

    @property
    def expected_share(self) -> float:
        """All: what is kept is not known before data are read, so that a plan says the most that it may be."""
        return 1.0

    @abstractmethod
    def begin(self, at: "Moment") -> None:
        """Find out, before an epoch of a segment, what `choose` goes by, and write it down."""


def refuse_at_once(filter: Filter, at_once: bool) -> None:
    """Raise a ConfigError where segments learn at once."""
    if at_once:
        name = type(filter).__name__
        raise ConfigError(f"filter: {name} is of segments that take turns: method.together=false, or filter=loss_filter")
