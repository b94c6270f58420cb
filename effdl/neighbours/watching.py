"""How far a long search is, for whoever wants to show it."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Watch(Protocol):
    """`RunHandle.watch` is one."""

    def __call__(self, parts: Iterable[T], total: int, doing: str) -> Iterable[T]:
        """The same parts, one by one, of which there are so many in all. doing: what is done with them, in words."""


def unwatched(parts: Iterable[T], total: int, doing: str) -> Iterable[T]:
    """Shows nothing."""
    return parts
