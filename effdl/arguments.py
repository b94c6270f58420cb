"""The arguments of `effdl` as argparse reads them; each mistake is one line that says what to write instead."""

import argparse
import re
import shlex
from collections.abc import Sequence
from typing import NoReturn

from effdl import config
from effdl.errors import ConfigError

OF_RUN_PY = {*config.ALONE, *config.WITH_VALUE}
SWEEP = ("-m", "--multirun")


class Parser(argparse.ArgumentParser):
    """Raises a ConfigError where argparse prints two lines and exits."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required"):
            (needed,) = (one.help for one in self._actions if not one.option_strings)
            raise ConfigError(f"{self.prog.split()[-1]}: needs {needed}")
        name, _, said = message.removeprefix("argument ").partition(": ")
        option = name.split("/")[0]
        action = next((one for one in self._actions if option in one.option_strings), None)
        if said.startswith("expected") and action is not None:
            said = f"needs a value, {action.help}"
        elif said.startswith("ignored explicit argument"):
            said = "takes no value"
        raise ConfigError(f"{option}: {said}" if said else message)


def read(parser: Parser, given: Sequence[str]) -> argparse.Namespace:
    """What is asked for; overrides may stand between options. Raises ConfigError."""
    commands = next(one.choices for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    there = ", ".join(commands)
    if not given:
        raise ConfigError(f"needs a command, one of {there}; effdl --help says what each does")
    if given[0] not in (*commands, "-h", "--help"):
        if _is_override(given[0]):
            raise ConfigError(f"{given[0]}: stands behind a command, as in effdl run {shlex.join(given)}")
        raise ConfigError(f"{given[0]}: unknown command; there are {there}")
    options, rest = parser.parse_known_args(given)
    command = given[0]
    for one in (word for word in rest if word.startswith("-")):
        raise ConfigError(f"{one}: {_instead(command, commands[command], one.partition('=')[0], options)}")
    what = getattr(options, "what", None)
    if rest and not isinstance(what, list):
        raise ConfigError(f"{rest[0]}: effdl {command} takes {'one id alone' if what else 'options alone'}")
    if isinstance(what, list):
        what += rest
    return options


def _instead(command: str, parser: argparse.ArgumentParser, option: str, options: argparse.Namespace) -> str:
    """What to write for an option that a command has not."""
    overrides = shlex.join(one for one in getattr(options, "what", None) or () if _is_override(one))
    if option in SWEEP and getattr(options, "again", False):
        return "--again is of one run; say effdl run --again with the overrides of one, such as seed=0"
    if command == "run" and option in SWEEP:
        return f"effdl run carries out an artefact or one run; a sweep is python run.py -m {overrides or 'seed=0,1'}"
    if command in ("run", "plan") and option in OF_RUN_PY:
        return f"is an option of run.py; say python run.py {option} ..."
    takes = [max(one.option_strings, key=len) for one in parser._actions if one.option_strings]
    return f"unknown option; effdl {command} takes {', '.join(takes)}"


def _is_override(text: str) -> bool:
    return not text.startswith("-") and ("=" in text or text.startswith("~"))


def word(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("needs a value")
    return text


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"a whole number from 1, not {text!r}")
    return int(text)
