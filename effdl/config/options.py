"""Hydra's own options among the arguments of run.py, which may stand before, between and after overrides."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise

from effdl.errors import ConfigError
from effdl.home import at_home

ALONE = {"-m", "--multirun", "-r", "--run", "-h", "--help", "--hydra-help", "--version", "--resolve"}
ALONE |= {"-sc", "--shell-completion"}
FOLDER, NAME = ("-cd", "--config-dir"), ("-cn", "--config-name")
OF_EFFDL = {  # options of the command `effdl`, and what says the same
    "--again": "effdl run --again {}, which sets the record of a run aside and makes it anew",
    "--scale": "effdl run <id> --scale small, as tables and figures alone have scales",
    "--cell": "effdl run <id> --cell axis=level, as tables and figures alone have cells",
    "--json": "effdl plan --json {}; the last line of a run is JSON by itself",
    "--time": "effdl plan --time {}, which measures a few steps and starts nothing",
    "--results": "results=<folder>",
    "--workers": "workers=<number>",
    "--no-stack": "stack=false",
}
WITH_VALUE: dict[str, tuple[str, ...]] = {  # and of which words, where not any will do
    **dict.fromkeys(("-c", "--cfg"), ("job", "hydra", "all")),
    **dict.fromkeys(("-i", "--info"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
    **dict.fromkeys(("-p", "--package", "-cp", "--config-path", *NAME, *FOLDER), ()),
    "--experimental-rerun": (),
}


def told_apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options with their values, and overrides. Hydra itself takes no override behind an option that follows another.

    Raises:
        ConfigError: an option that there is not, or a value that is missing or wrong.
    """
    options: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        one = rest.pop(0)
        option, equals, value = one.partition("=")
        if not one.startswith("-"):
            overrides.append(one)
        elif option in WITH_VALUE:
            value = value if equals else rest.pop(0) if rest else ""
            words = WITH_VALUE[option]
            if words and value not in words:
                raise ConfigError(f"{option}: takes one of {', '.join(words)}, as {option} {words[0]}")
            if not value or value.startswith("-"):
                raise ConfigError(f"{option}: needs a value")
            options += [option, str(at_home(value, option)) if option in FOLDER else value]
        elif option in ALONE and not equals:
            options.append(one)
        elif option in OF_EFFDL:
            given = shlex.join(each for each in arguments if not each.startswith("-"))
            raise ConfigError(f"{option}: is no option of run.py; say {OF_EFFDL[option].format(given or 'seed=0')}")
        else:
            raise ConfigError(f"{one}: unknown option; values are given as key=value, see --help")
    if "--resolve" in options and not {"-c", "--cfg"} & set(options):
        raise ConfigError("--resolve: goes with --cfg job, which prints the config; a run resolves it by itself")
    return options, overrides


def named(options: Sequence[str]) -> tuple[str | None, str | None]:
    """The folder and the name of the config that options, told apart, ask for; None where they do not."""
    said = dict(pairwise(options))
    folder, name = (next((said[one] for one in names if one in said), None) for names in (FOLDER, NAME))
    return folder, name
