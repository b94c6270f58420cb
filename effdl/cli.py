"""The command line: the help page, one-line errors, and the one place that prints the JSON line."""

import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from effdl import config, torchrun
from effdl.errors import ConfigError, EffdlError, RecordError, one_line
from effdl.home import at_home

_results: list[dict[str, Any]] = []  # of this process's runs, in order; Hydra gives no way to return them
_searches: list[tuple[dict[str, Any], int]] = []  # what this process's searches found, and their exit codes
_sweeps: list["_SweepFolder"] = []  # of this process's sweeps

FINAL = {"diverged": 6, "failed": 7}  # ends that are a run's answer, and their exit codes
FLAGS = {"-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "-i", "--info", "-r", "--run", "-h", "--help"}
FLAGS |= {"-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir", "-sc", "--shell-completion"}
FLAGS |= {"--hydra-help", "--version", "--experimental-rerun"}
HOME = re.compile(r"""(results|hydra\.sweep\.dir)=(['"])(~.*)\2""")

EXAMPLES = """\
  python run.py                                                     the default: DLL on handwritten digits, seconds
  python run.py method=backprop arch=vgg13_bn dataset=mnist         says what it will cost before it starts
  python run.py method=dll method/decision=vgg arch=vgg13_bn        a nested choice has a slash, a value a dot
  python run.py method.epochs=[3,4,5] optimizer.lr=0.02 seed=1
  python run.py -m method=dll,backprop seed=0,1,2                   a sweep: six runs, one process a core, resumable
"""


def main(entry: Callable[[], Any]) -> None:
    """Run Hydra's entry point; prints the JSON line, or one line on standard error, and exits with a code that says which."""
    for made in (_results, _searches, _sweeps):
        made.clear()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    arguments = sys.argv[1:]
    many = bool({"-m", "--multirun"} & set(arguments))
    if many and not any(a.startswith("hydra/launcher=") for a in arguments):
        sys.argv.append("hydra/launcher=effdl")
    if any(a.startswith("search=") and a != "search=none" for a in arguments):
        sys.argv.append("hydra/sweeper=effdl_search")
    gc.disable()  # what the imports make stays; looking through it again and again takes a second
    try:
        if {"-h", "--help"} & set(arguments):
            print(help_page())
            return
        arguments[:] = map(at_home_in, arguments)
        sys.argv[1 : 1 + len(arguments)] = arguments
        if unknown := [a for a in arguments if a.startswith("-") and a.split("=")[0] not in FLAGS]:
            raise ConfigError(f"{unknown[0]}: unknown option; values are given as key=value, see --help")
        if many and torchrun.place().size > 1:
            raise ConfigError(f"-m: torchrun's {torchrun.place().size} processes carry out one run, not a sweep")
        if any(a.startswith("-") for a in arguments):
            sys.argv += config.search_path()
            entry()
        else:  # the same without Hydra's second composition, which would be half of the time to answer from a record
            run(config.compose(arguments))
    except KeyboardInterrupt:
        stop("interrupted; the same command goes on where this one stopped", 130)
    except Exception as error:
        discard_sweep()
        stop_for(error, arguments)
    finally:
        gc.enable()
    if not any("path" in result for result in _results):
        discard_sweep()
    if _searches:
        told, code = _searches[0]
        print(json.dumps(told), flush=True)
        sys.exit(code)
    _answer(_results, many)


def at_home_in(override: str) -> str:
    """Where records go, with a home folder in the place of ``~``: Hydra makes a folder for a sweep out of it by itself."""
    if match := HOME.fullmatch(override):
        return f"{match[1]}={json.dumps(str(at_home(match[3], match[1])))}"
    return override


def run_overrides(arguments: Sequence[str]) -> int:
    """One run from overrides, answered as run.py does."""
    _results.clear()
    run(config.compose(arguments))
    _answer(_results, many=False)
    return 0


def run(composed: Any) -> None:
    """One composed config, alone in this process."""
    if composed.get("search") is not None:
        raise ConfigError("search: is of many runs; python run.py -m search=... carries them out")
    _results.extend(_execute([config.build(composed)], composed))


def sweep(composed: Sequence[Any]) -> list[dict[str, Any]]:
    """The composed configs of a multirun; all are built before the first starts."""
    specs = [config.build(one) for one in composed]
    results = _execute(specs, composed[0])
    _results.extend(results)
    return results


def search(arguments: Sequence[str], settings: Mapping[str, Any]) -> None:
    """A multirun whose values are searched: overrides with spaces, and what else was set under hydra.sweeper."""
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
    from effdl.search.outcome import text
    from effdl.search.search import search as carry_out

    gc.freeze()
    gc.enable()
    told = carry_out(found, arguments, *_places(composed))
    print(f"\n{text(told, Path(told['path']))}\n", file=sys.stderr)
    rate = settings.get("max_failure_rate")
    if too_many := rate is not None and told["failed"] > rate * told["trials"]:
        many = f"{told['failed']} of {told['trials']} trials failed, more than hydra.sweeper.max_failure_rate allows"
        print(f"effdl: {many}", file=sys.stderr)
    _searches.append((told, 1 if too_many or not told["best"] else 0))


@dataclass(frozen=True)
class _SweepFolder:
    """What there was where Hydra writes multirun.yaml, which it does before it looks whether the runs can be composed.

    The folder is one that the user may have named, with anything in it.
    """

    multirun: Path
    content: bytes | None
    missing: tuple[Path, ...]


def begin_sweep(folder: str) -> None:
    """Note what there is where Hydra is going to write for this sweep."""
    path = Path(folder).resolve()
    multirun = path / "multirun.yaml"
    missing = tuple(p for p in (path, *path.parents) if not p.exists())
    _sweeps.append(_SweepFolder(multirun, multirun.read_bytes() if multirun.is_file() else None, missing))


def discard_sweep() -> None:
    """Take back what Hydra wrote for a sweep that left no record: its file, and folders it made that are empty again."""
    for sweep in _sweeps:
        with suppress(OSError):  # never made
            if sweep.content is None:
                sweep.multirun.unlink()
            else:
                sweep.multirun.write_bytes(sweep.content)
        for folder in sweep.missing:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()


def _execute(specs: list[config.Spec], composed: Any) -> list[dict[str, Any]]:
    root, workers = _places(composed)
    from effdl.records.execute import execute
    from effdl.records.report import Console, Silent

    gc.freeze()
    gc.enable()
    if torchrun.place().rank > 0:  # the first shows it
        return execute(specs, root, 1, Silent())
    with Console(len(specs)) as console:
        return execute(specs, root, workers, console)


def _places(composed: Any) -> tuple[Path, int]:
    """The results folder, and how many processes work at once."""
    results, workers = composed.get("results"), composed.get("workers")
    if results in (None, ""):
        raise ConfigError("results: needs the name of a folder")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers: a whole number from 1, or null for one a core, not {workers!r}")
    return at_home(str(results), "results"), workers or os.cpu_count() or 1


def _answer(results: list[dict[str, Any]], many: bool) -> None:
    """The JSON line on standard output, a line on standard error if something did not finish, the exit code."""
    bad = [result for result in results if result["status"] != "finished"]
    if bad and many:  # each had its line when it ended
        print(f"effdl: {'; '.join(_unfinished(results))}", file=sys.stderr)
    elif bad:
        torchrun.fail(f"{bad[0]['name']}: {bad[0]['status']}: {bad[0]['reason']}")
    for result in bad:
        if os.environ.get("EFFDL_DEBUG") and "trace" in result:
            print(result["trace"], file=sys.stderr)
    shown = [{key: value for key, value in result.items() if key not in ("trace", "exit_code")} for result in results]
    if torchrun.place().rank > 0:
        shown = []
    if many:
        print(json.dumps({"runs": shown}), flush=True)
    elif shown and "path" in shown[0]:
        print(json.dumps(shown[0]), flush=True)
    if bad:
        sys.exit(1 if many else FINAL.get(bad[0]["status"]) or bad[0].get("exit_code", 1))


def _unfinished(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What became of the runs that did not finish, and whether asking again changes that."""
    final = sum(result["status"] in FINAL for result in results)
    begun = sum(result["status"] not in ("finished", *FINAL) for result in results)
    if final:
        yield f"{final} of {len(results)} runs diverged or failed, which the same command would only say again"
    if begun:
        yield f"{begun} of {len(results)} runs did not end; the same command tries them again"


def stop(line: str, code: int) -> None:
    torchrun.fail(line)
    sys.exit(code)


def stop_for(error: Exception, arguments: Sequence[str]) -> None:
    """One line for each kind of error: the user's, Hydra's, which are the user's too, the disk's, and ours."""
    if isinstance(error, EffdlError):
        stop(one_line(error), error.exit_code)
    if isinstance(error, BrokenPipeError):  # such as `effdl list | head`: nobody reads on, which is no failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf", "antlr4", "yaml"):
        stop(one_line(config.composition_error(error, arguments)), ConfigError.exit_code)
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.filename}: {error.strerror}; point `results` to a folder that can be written"
        stop(reason, RecordError.exit_code)
    if os.environ.get("EFFDL_DEBUG"):
        raise error
    stop(f"{one_line(error)} (this should not happen; EFFDL_DEBUG=1 shows where)", 1)


def help_page() -> str:
    """Every group with its choices and what they are, from the YAML files alone."""
    lines = ["effdl: train networks by rules other than plain end-to-end backpropagation.", ""]
    lines += ["python run.py [-m] [group=choice] [group.key=value] ...", ""]
    for group in config.GROUPS:
        lines.append(f"{group}:")
        default = config.default_choices().get(group)
        for name in config.choices(group):
            mark = "*" if name == default else " "
            lines.append(f" {mark} {name:<20} {config.about(group, name)}")
        lines.append("")
    lines += [
        "Root keys: seed (0), test_every (epoch, segment, run), results (folder of the records), workers (of a sweep).",
        "",
    ]
    lines += ["* is the default. Any key of a choice can be set; a wrong one is answered with those that there are.", ""]
    lines += ["Examples:", EXAMPLES.rstrip(), ""]
    lines += [
        "The last line on standard output is one JSON object with run_id, status, path and summary; the same command asked"
    ]
    lines += ["again answers from the record, and goes on where it was if it was killed. `make demo` shows the main idea."]
    return "\n".join(lines)
