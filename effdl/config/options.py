"""Hydra's own options among the arguments of run.py, which may stand before, between and after overrides."""

from __future__ import annotations

from collections.abc import Sequence

from effdl.errors import ConfigError

ALONE = {"-m", "--multirun", "-r", "--run", "-h", "--help", "--hydra-help", "--version", "--resolve"}
ALONE |= {"-sc", "--shell-completion"}
WITH_VALUE: dict[str, tuple[str, ...]] = {  # and of which words, where not any will do
    **dict.fromkeys(("-c", "--cfg"), ("job", "hydra", "all")),
    **dict.fromkeys(("-i", "--info"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
    **dict.fromkeys(("-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"), ()),
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
            options += [option, value]
        elif option in ALONE and not equals:
            options.append(one)
        else:
            raise ConfigError(f"{one}: unknown option; values are given as key=value, see --help")
    if "--resolve" in options and not {"-c", "--cfg"} & set(options):
        raise ConfigError("--resolve: goes with --cfg job, which prints the config; a run resolves it by itself")
    return options, overrides
