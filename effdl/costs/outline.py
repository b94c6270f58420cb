"""A search by counted bytes, made on fake tensors where they can stand for a problem and its network."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from effdl.archs.chain import BlockChain
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import EffdlError

T = TypeVar("T")


def on_fakes(find: Callable[[Problem, BlockChain], T], problem: Problem, chain: BlockChain, as_stored: bool = False) -> T:
    """What ``find`` finds of a problem and a chain, on fake tensors, which compute nothing; else on those that there are.

    It is asked again where fake tensors do not do, so it is to leave nothing behind that an exception cuts off.

    as_stored: whether on fakes only where these have the samples' own bytes; else an image counts as bytes in any case.
    """
    if problem.is_outline:
        return find(problem, chain)
    from effdl.costs.fake import by_stock, fakes  # half a second to import, and few need it

    facts, device = problem.facts, next(chain.parameters()).device
    like = problem.train_split.first() if as_stored else None
    for tensors in (nullcontext, by_stock):
        try:
            with tensors(), fakes():
                return find(outline(problem, facts, like).to(device), fakes().copy(chain))
        except EffdlError:
            raise
        except Exception:  # fake tensors have many ways to say that they hold no numbers; real steps need no luck
            continue
    return find(problem, chain)


def outline(problem: Problem, facts: Facts, like: Tensor | None = None) -> Problem:
    """The problem without its data, among fake tensors.

    like: a stored sample, whose own bytes are to be counted. Raises ValueError where an outline has others.
    """
    made = Problem.outline(facts, problem.objective, problem.seed, None if problem.augment is None else unchanged)
    if like is not None and made.train_split.first().dtype != like.dtype:
        raise ValueError("an outline does not tell how these samples are stored")
    return made


def unchanged(x: Tensor, generator: torch.Generator) -> Tensor:
    """In place of an augmentation, whose images are of the form of those that it gets."""
    return x
