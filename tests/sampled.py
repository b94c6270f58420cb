"""Samples that another commit draws anew, so that in time all of what takes too long for each commit is looked at.

A failure is repeated by checking the commit out: its message names it. ``EFFDL_TEST_ALL=1`` in the environment takes all.
"""

import os
import random
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[1]


@cache
def head() -> str:
    """The commit that is checked out; none outside of a repository."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def drawing(what: str) -> random.Random:
    """A source of draws that depends on the commit and on what is drawn."""
    return random.Random(f"{head()} {what}")


def some(what: str, items: Sequence[T], count: int) -> list[T]:
    """So many of the items, in their order; all of them where the environment asks for it."""
    if os.environ.get("EFFDL_TEST_ALL"):
        return list(items)
    return [items[i] for i in sorted(drawing(what).sample(range(len(items)), count))]
