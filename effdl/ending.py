"""How a command ends: the JSON line on standard output, one line on standard error for what went wrong, an exit code."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from effdl import config, jobs, torchrun
from effdl.errors import ConfigError, EffdlError, RecordError, crash, one_line

FINAL = {"diverged": 6, "failed": 7}  # ends that are a run's answer, and their exit codes
COMPOSING = {"hydra", "omegaconf", "antlr4", "yaml"}
LAUNCHERS = {"joblib", "submitit", "ray"}  # whose errors are of a job that was killed


def answer(results: list[dict[str, Any]], many: bool) -> None:
    """The JSON line on standard output, a line on standard error if something did not finish, the exit code."""
    from effdl.records.report import source

    bad = [result for result in results if result["status"] != "finished"]
    if bad and len(results) > 1:  # each had its line when it ended
        print(f"effdl: {'; '.join(_unfinished(results))}", file=sys.stderr)
    elif bad:
        torchrun.fail(f"{bad[0]['name']}: {bad[0]['status']}: {bad[0]['reason']}{source(bad[0])}")
    for result in bad:
        if os.environ.get("EFFDL_DEBUG") and "trace" in result:
            print(result["trace"], file=sys.stderr)
    shown = jobs.shown(results)
    if torchrun.place().rank > 0:
        shown = []
    if many:
        print(json.dumps({"runs": shown}), flush=True)
    elif shown and "path" in shown[0]:
        print(json.dumps(shown[0]), flush=True)
    code = 0 if not bad else 1 if many else FINAL.get(bad[0]["status"]) or bad[0].get("exit_code", 1)
    torchrun.leave(code)
    if code:
        sys.exit(code)


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


def _is_of_composing(error: Exception) -> bool:
    """Whether what reads configs raised it: an error of its own, or of Python's where an override is of the wrong kind."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace is not None and type(error) in (ValueError, TypeError) else ""
    return COMPOSING & {type(error).__module__.split(".")[0], where.split(".")[0]} != set()


def stop_for(error: Exception, arguments: Sequence[str]) -> None:
    """One line for each kind of error: the user's, Hydra's, which are the user's too, the disk's, and ours."""
    if isinstance(error, EffdlError):
        stop(one_line(error), error.exit_code)
    if is_of_launcher(error):
        stop(f"a job did not come to its end ({type(error).__name__}); the same command goes on where it stopped", 1)
    if isinstance(error, BrokenPipeError):  # such as `effdl list | head`: nobody reads on, which is no failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if _is_of_composing(error):
        stop(one_line(config.composition_error(error, arguments)), ConfigError.exit_code)
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.filename}: {error.strerror}; point `results` to a folder that can be written"
        stop(reason, RecordError.exit_code)
    if os.environ.get("EFFDL_DEBUG"):
        raise error
    if other := next((one for one in arguments if one.startswith(("hydra/sweeper=", "hydra/launcher="))), None):
        lacking = config.missing_package(error)
        stop(f"{other}: {f'needs the package {lacking}, which is not installed' if lacking else one_line(error)}", 1)
    stop(crash(error), 1)


def is_of_launcher(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] in LAUNCHERS
