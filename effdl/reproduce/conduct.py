"""Run an artefact: say what it costs, carry out what is left, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effdl.errors import DataError, RecordError
from effdl.reproduce import figure, ledger
from effdl.reproduce.artefact import NO_GPU, Cell, Declaration, specs
from effdl.reproduce.frame import frame
from effdl.reproduce.ledger import Line
from effdl.reproduce.report import command, report, verdicts
from effdl.reproduce.survey import Surveyed

if TYPE_CHECKING:
    from effdl.config import Spec


def conduct(
    declaration: Declaration, scale: str, surveyed: list[Surveyed], root: Path, workers: int, as_json: bool = False
) -> int:
    """Plan, run, report and, for the artefact as a whole, show what is planned only.

    The exit code is 1 if a run neither finished nor diverged.
    """
    from effdl.records.execute import execute
    from effdl.records.report import Console
    from effdl.records.tracking import tracking
    from effdl.reproduce.console import Plan

    in_part = len(surveyed) < len(declaration.all_cells(scale))
    plans = {} if as_json or in_part else _plans(declaration)
    left = list(dict.fromkeys(spec for one in surveyed for spec in one.left))
    if declaration.artefact.in_turns:
        left.sort(key=lambda spec: spec.seed)
    results = []
    if left:
        with tracking() as track:
            planned = Plan(declaration, scale, [one for one in surveyed if one.left or one.reason], workers, track)
            print(planned.text() + "\n", file=sys.stderr, flush=True)
        with Console(len(left)) as console:
            results = execute(left, root, workers, console)
    if not any(one.specs or one.reason == NO_GPU for one in surveyed):
        raise DataError(surveyed[0].reason)
    show(declaration, scale, ledger.collect(declaration, scale, root, say=_say), root, as_json, plans)
    broken = [result for result in results if result["status"] in ("error", "died")]
    if broken:
        line = f"{len(broken)} of {len(results)} runs did not end ({broken[0]['reason']}); the same command tries them again"
        print(f"effdl: {line}", file=sys.stderr)
    return int(bool(broken))


def lines_of(declaration: Declaration, scale: str, root: Path) -> tuple[list[Line], str]:
    """The artefact's lines at a scale and where they are from: the ledger, else the runs made here.

    Raises:
        RecordError: neither has any, or a ledger line was edited.
    """
    name = declaration.artefact.id
    published = [line for line in ledger.read(root, name) if line["scale"] == scale]
    if published:
        return published, str(ledger.ledger_path(root, name))
    here = ledger.collect(declaration, scale, root, say=_say)
    if any(line["runs"] for line in here):
        return here, f"{root / 'runs'}, not published"
    raise RecordError(f"{name}: nothing has been run at scale {scale}; {command(declaration, scale)}")


def show(
    declaration: Declaration,
    scale: str,
    lines: Sequence[Line],
    root: Path,
    as_json: bool = False,
    plans: Mapping[str, Spec] | None = None,
) -> None:
    """The report on standard output, what ``plans`` would take, and the figure into a file that the last line names."""
    if as_json:
        print(json.dumps(verdicts(declaration, scale, lines)))
        return
    text = report(declaration, scale, lines)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text, flush=True)
    if plans:
        print(f"\n{_planned(plans)}\n")
    path = figure.write(declaration, scale, frame(declaration, scale, lines), root / "figures")
    print(f"Figure: {path}")


def _say(text: str) -> None:
    print(f"effdl: {text}", file=sys.stderr, flush=True)


def _plans(declaration: Declaration) -> dict[str, Spec]:
    """What is to be planned only, by its label. Raises ConfigError or DataError."""
    return {
        label: specs(Cell({"plans": label}, overrides, 1, None))[0] for label, overrides in declaration.artefact.plans.items()
    }


def _planned(plans: Mapping[str, Spec]) -> str:
    from effdl.records.plan import cost
    from effdl.records.tracking import tracking
    from effdl.reproduce.planned import ending

    with tracking() as track:
        return ending({label: cost(spec, track=track, rows=("backprop_checkpointed",)) for label, spec in plans.items()})
