"""A search as the command line asks for it: the search's own setting, and what its trials have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from omegaconf import OmegaConf

from effdl import config
from effdl.errors import ConfigError


def is_search(arguments: Sequence[str]) -> bool:
    return any(a.startswith("search=") and a != "search=none" for a in arguments)


def asked_for(arguments: Sequence[str], settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """The search's own setting, and what its trials have in common, composed.

    settings: what else was set under hydra.sweeper.
    """
    composed = config.compose([text for _, text, swept in config.grammar.read(arguments) if swept is None])
    if composed.search is None:
        raise ConfigError("search: is none; say search=optuna")
    node: Any = OmegaConf.to_container(composed.search)
    from effdl.search.carried import carried_over

    given = carried_over(settings)
    sampler = given.pop("sampler", None)
    found = config.build_setting({**node, **given}, "search")
    found = found if sampler is None else replace(found, sampler=sampler)
    if not find_spec("optuna"):
        raise ConfigError("search: needs Optuna, which `pip install 'effdl[search]'` brings")
    return found, composed


def trials(arguments: Sequence[str], settings: Mapping[str, Any]) -> tuple[Any, int]:
    """What the trials of a search have in common, composed, and how many there are at most."""
    found, composed = asked_for(arguments, settings)
    from effdl.search import space

    return composed, found.most(space.read(arguments, found.params)[0])
