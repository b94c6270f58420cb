"""Samples that another commit draws anew, so that in time all of what takes too long for each commit is looked at.

A failure is repeated by checking the commit out: its message names it.
"""

import random
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def head() -> str:
    """The commit that is checked out; none outside of a repository."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def drawing(what: str) -> random.Random:
    """A source of draws that depends on the commit and on what is drawn."""
    return random.Random(f"{head()} {what}")
