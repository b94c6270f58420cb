"""The command line of run.py: from its arguments to runs, sweeps and searches, and to how they end."""

import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effdl import checking, config, ending, jobs, searching, torchrun
from effdl.errors import ConfigError, EffdlError
from effdl.home import at_home
from effdl.huge_pages import ask_for_huge_pages
from effdl.sweep_folder import SweepFolder

_results: list[dict[str, Any]] = []  # of this process's runs, in order; Hydra gives no way to return them
_raised: list[Exception] = []  # by a lone run that Hydra carries out
_searches: list[tuple[dict[str, Any], int]] = []  # what this process's searches found, and their exit codes
_sweeps: list[SweepFolder] = []  # of this process's sweeps
_jobs: list[jobs.Job] = []  # at most one, that this process works on for another launcher

OF_HYDRA = ("hydra.", "hydra/", "+hydra.", "+hydra/")  # overrides that say how runs are carried out, not which
HOME = re.compile(r"""(results|hydra\.(?:sweep|run)\.dir)=(['"])(~.*)\2""")


def main(entry: Callable[[], Any]) -> None:
    """Run Hydra's entry point; prints the JSON line, or one line on standard error, and exits with a code that says which."""
    for made in (_results, _raised, _searches, _sweeps, _jobs):
        made.clear()
    asked: Sequence[str] = ()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    ask_for_huge_pages()
    arguments = sys.argv[1:]
    many = bool({"-m", "--multirun"} & set(arguments))
    gc.disable()  # what the imports make stays; looking through it again and again takes a second
    try:
        if {"-h", "--help"} & set(arguments):
            from effdl.help import help_page

            print(help_page())
            return
        arguments = [at_home_in(one) for one in arguments]
        options, overrides = config.told_apart(arguments)
        config.refuse(overrides)
        config.no_config(overrides, *config.named(options))
        if many:
            overrides = _of_many(options, overrides)
        if options:
            sys.argv[1:] = [*options, *overrides, *_ours(arguments, many), *config.search_path()]
            asked = _asked(arguments) if many else ()
            entry()
            if _raised:
                raise _raised.pop()
        else:  # the same without Hydra's second composition, which would be half of the time to answer from a record
            run(config.compose(arguments))
    except KeyboardInterrupt:
        ending.stop("interrupted; the same command goes on where this one stopped", 130)
    except Exception as error:
        _take_in(asked)
        if ending.is_of_launcher(error) or any(result["status"] != jobs.MISSING for result in _results):
            print(json.dumps({"runs": jobs.shown(_results)}), flush=True)
        else:
            _put_back()
        ending.stop_for(error, arguments)
    finally:
        gc.enable()
    _take_in(asked)
    if not any("path" in result for result in _results):
        _put_back()
    if _searches:
        told, code = _searches[0]
        print(json.dumps(told), flush=True)
        sys.exit(code)
    ending.answer(_results, many)


def _of_many(options: Sequence[str], overrides: list[str]) -> list[str]:
    """A sweep's or a search's overrides as Hydra needs them. Raises ConfigError."""
    if torchrun.place().size > 1:
        raise ConfigError(f"-m: torchrun's {torchrun.place().size} processes carry out one run, not a sweep")
    if searching.is_search(overrides):
        return config.spelled_out(overrides, *config.named(options))
    return config.grammar.with_their_groups(overrides)


def _ours(arguments: Sequence[str], many: bool) -> Iterator[str]:
    """What effdl adds to a command: its own parts of Hydra's, unless others are asked for."""
    if many:
        yield f"+hydra.callbacks.effdl._target_={config.JOBS_CALLBACK}"
    if many and not any(a.startswith("hydra/launcher=") for a in arguments):
        yield "hydra/launcher=effdl"
    if searching.is_search(arguments):
        yield config.SEARCHES


def at_home_in(override: str) -> str:
    """Where records go, with a home folder in the place of ``~``: Hydra makes a folder for a sweep out of it by itself."""
    if match := HOME.fullmatch(override):
        return f"{match[1]}={json.dumps(str(at_home(match[3], match[1])))}"
    return override


def run_overrides(arguments: Sequence[str], again: bool = False) -> int:
    """One run from overrides, answered as run.py does. again: whatever record there is of it is set aside first."""
    _results.clear()
    composed = config.compose(arguments)
    if again:
        _set_aside(composed)
    run(composed)
    ending.answer(_results, many=False)
    return 0


def _set_aside(composed: Any) -> None:
    """Raises EffdlError where the run could not begin."""
    from effdl.records.carry import fingerprint
    from effdl.records.earlier import set_aside

    if torchrun.place().rank > 0:  # the first owns the record
        return
    spec = config.build(composed)
    spec.dataset.load()  # nothing is moved for a run that cannot begin

    def say(text: str) -> None:
        print(f"effdl: {text}", file=sys.stderr, flush=True)

    found = set_aside(places(composed)[0], config.run_id(spec, fingerprint(spec.dataset)), say)
    say("there was no record of this run" if found is None else f"its record is set aside in {found}")


def job(composed: Any) -> float | None:
    """What Hydra calls with a config. The error of a lone run is kept from it, since it would say a line of its own."""
    try:
        return run(composed)
    except Exception as error:
        if _jobs or {"-m", "--multirun"} & set(sys.argv):
            raise
        _raised.append(error)
        return None


def run(composed: Any) -> float | None:
    """One composed config, alone in this process. Returns its score if it is the job of a sweeper that wants one."""
    if composed.get("search") is not None:
        raise ConfigError("search: is of many runs; python run.py -m search=... carries them out")
    spec = _named(checking.specs([composed])[0])
    if not _jobs:
        _results.extend(_execute([spec], composed))
        return None
    (job,) = _jobs
    if job.wanted is not None:
        job.wanted.check(spec)
    (result,) = _execute([spec], composed)
    job.leave(result)
    if result["status"] != "finished":
        print(f"{result['name']}: {result['status']}: {result['reason']}", file=sys.stderr)
    return None if job.wanted is None else job.wanted.of(spec, result)


def _named(spec: config.Spec) -> config.Spec:
    """The same, with the names of its choices where Hydra composed it for run.py."""
    return spec if spec.chosen else replace(spec, chosen=config.chosen_by_hydra())


def sweep(composed: Sequence[Any], wanted: jobs.Wanted | None = None) -> list[float | Exception | None]:
    """The composed configs of a multirun; all are built before the first starts.

    Returns to a sweeper that wants scores the one of each, or why there is none; what cannot be built stops no other then.
    """
    config.values_of_a_sweep(composed)
    if wanted is None:
        _results.extend(_execute(checking.specs(composed), composed[0]))
        return [None] * len(composed)
    built = [_built(one, wanted) for one in composed]
    specs = [one for one in built if isinstance(one, config.Spec)]
    if not specs and not _results and isinstance(built[0], EffdlError):  # most likely wrong for all
        raise built[0]
    results = iter(_execute(specs, composed[0]) if specs else [])
    return [_scored(one, next(results), wanted) if isinstance(one, config.Spec) else one for one in built]


def _built(composed: Any, wanted: jobs.Wanted) -> config.Spec | EffdlError:
    try:
        spec = config.build(composed)
        wanted.check(spec)
    except EffdlError as error:
        return error
    return spec


def _scored(spec: config.Spec, result: dict[str, Any], wanted: jobs.Wanted) -> float | EffdlError:
    _results.append(result)
    try:
        return wanted.of(spec, result)
    except EffdlError as error:
        return error


def search(arguments: Sequence[str], settings: Mapping[str, Any]) -> None:
    """A multirun whose values are searched: overrides with spaces, and what else was set under hydra.sweeper."""
    found, composed = searching.asked_for(arguments, settings)
    from effdl.search.outcome import text
    from effdl.search.search import search as carry_out

    gc.freeze()
    gc.enable()
    told = carry_out(found, arguments, *places(composed))
    print(f"\n{text(told, Path(told['path']), sys.argv[0])}\n", file=sys.stderr)
    rate = settings.get("max_failure_rate")
    if too_many := rate is not None and told["failed"] > rate * told["trials"]:
        many = f"{told['failed']} of {told['trials']} trials failed, more than hydra.sweeper.max_failure_rate allows"
        print(f"effdl: {many}", file=sys.stderr)
    _searches.append((told, 1 if too_many or not told["best"] else 0))


def begin_sweep(folder: str, launcher: str | None = None) -> None:
    """Note what there is where Hydra is going to write for this sweep; say where jobs of another launcher leave theirs.

    Ends the process where that launcher cannot work here: Hydra makes a warning of an exception.
    """
    _sweeps.append(SweepFolder.as_it_is(Path(folder)))
    if launcher is not None:
        try:
            jobs.check_launcher(launcher)
        except ConfigError as error:
            _put_back()
            ending.stop_for(error, ())
        print(f"effdl: jobs by {launcher}; each leaves {jobs.RESULT} in its folder in {folder}", file=sys.stderr, flush=True)


def begin_job(folder: str, number: int, overrides: Sequence[str], wanted: jobs.Wanted | None) -> None:
    """The run that follows in this process is a job of another launcher."""
    _jobs[:] = [jobs.Job(Path(folder), number, tuple(overrides), wanted)]


def _asked(arguments: Sequence[str]) -> Sequence[str]:
    """What varies in each run of a sweep for another launcher, all of which are built before the first starts.

    () for effdl's own, which does that itself, and where a sweeper or a config of the user's has its own say.
    """
    options = [one for one in arguments if one.startswith(("-", "hydra/"))]
    launchers = [one for one in options if one.startswith("hydra/launcher=") and one != "hydra/launcher=effdl"]
    if launchers and searching.is_search(arguments):
        raise ConfigError(f"{launchers[0]}: a search carries its trials out itself; processes with the same command share them")
    if not launchers or any(one not in (*launchers, "-m", "--multirun") for one in options):
        return ()
    runs = config.grammar.sweep([one for one in arguments if not one.startswith(("-", *OF_HYDRA))])
    for run, _ in runs:
        config.build(config.compose(run))
    return [" ".join(varied or run) for run, varied in runs]


def _take_in(asked: Sequence[str]) -> None:
    for sweep in _sweeps:
        _results.extend(sweep.gathered(asked))


def _put_back() -> None:
    for sweep in _sweeps:
        sweep.put_back()


def _execute(specs: list[config.Spec], composed: Any) -> list[dict[str, Any]]:
    root, workers = places(composed)
    from effdl.records.execute import execute
    from effdl.records.report import Console, Silent

    gc.freeze()
    gc.enable()
    if torchrun.place().rank > 0:  # the first shows it
        return execute(specs, root, 1, Silent())
    for remark in checking.remarks(specs):
        print(f"effdl: {remark}", file=sys.stderr, flush=True)
    with Console(len(specs), bars=not _jobs) as console:
        return execute(specs, root, workers, console, stacks(composed))


def places(composed: Any) -> tuple[Path, int]:
    """The results folder, and how many processes work at once."""
    results, workers = composed.get("results"), composed.get("workers")
    if results in (None, ""):
        raise ConfigError("results: needs the name of a folder")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers: a whole number from 1, or null for one a core, not {workers!r}")
    return at_home(str(results), "results"), workers or os.cpu_count() or 1


def stacks(composed: Any) -> bool:
    """Whether small networks of a sweep may be trained as one."""
    if type(found := composed.get("stack", True)) is not bool:
        raise ConfigError(f"stack: true or false, not {found!r}")
    return found
