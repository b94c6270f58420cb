"""What was searched before cells run: carried out where it is missing, found in the ledger or here, told."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdl import config
from effdl.config import grammar
from effdl.errors import RecordError, SearchMissing
from effdl.reproduce.lines import SEARCH, Line, ledger_path, read
from effdl.reproduce.sought import Sought

if TYPE_CHECKING:
    from effdl.records.report import Reporter
    from effdl.reproduce.artefact import Cell, Declaration

TOLD = ("study", "metric", "direction", "trials", "stopped", "failed", "epochs")  # of a search, in the ledger
OF_BEST = ("number", "value", "params", "run_id")
INTERVAL = re.compile(r"(?:interval|range)\(([^,()]+),([^,()]+)\)")


def values(declaration: Declaration, scale: str, cell: Cell, root: Path) -> list[str]:
    """Overrides that a cell's search found, none where it has no search.

    Raises:
        SearchMissing: neither the ledger knows what it found nor was it made here.
    """
    if cell.search is None:
        return []
    if (known := _found(cell.search, root)) is None:
        command = f"effdl run {declaration.artefact.id} --scale {scale}"
        raise SearchMissing(f"{cell.name}: its search is missing; {command} makes it")
    return [f"{key}={grammar.written(value)}" for key, value in known["best"]["params"].items()]


def carry_out(
    declaration: Declaration,
    scale: str,
    cells: Sequence[Cell],
    root: Path,
    workers: int,
    shown: Callable[[int], AbstractContextManager[Reporter]],
) -> None:
    """Make the searches of these cells that are missing; a search that was cut off goes on.

    Raises:
        ConfigError: a search cannot be.
        RecordError: no trial of one came to its end.
    """
    for sought, of_search in _distinct(cells):
        if _found(sought, root) is not None:
            continue
        from effdl.search.search import search

        trials = f"{sought.declared.trials} trials for {', '.join(sought.declared.params)}"
        print(f"effdl: {of_search[0].name}: searched first, {trials}", file=sys.stderr, flush=True)
        found = search(_settings(sought), _arguments(sought), root, workers, shown)
        if found["best"] is None:
            raise RecordError(
                f"{of_search[0].name}: none of {found['trials']} trials of its search came to an end; {found['path']} has the "
                "reason of each"
            )
        best = ", ".join(f"{key} {_short(value)}" for key, value in found["best"]["params"].items())
        score = f"{found['metric']} {found['best']['value']:.4g}"
        print(f"effdl: {of_search[0].name}: {best} of {found['trials']} trials, {score}\n", file=sys.stderr, flush=True)


def lines(declaration: Declaration, scale: str, cells: Sequence[Cell], root: Path) -> Iterator[Line]:
    """A ledger line for each search of these cells that the ledger knows or that was made here."""
    for sought, of_search in _distinct(cells):
        if (known := _found(sought, root)) is not None:
            head = {"artefact": declaration.artefact.id, "scale": scale, "cell": of_search[0].name}
            yield {**head, SEARCH: known, "runs": []}


def trial(sought: Sought) -> Any:
    """The Spec of a trial with the default values, which costs what all cost. Raises what `artefact.specs` does."""
    from effdl.reproduce.artefact import built

    return built(sought.name, sought.fixed)


def rows(cells: Sequence[Cell], label: Callable[[Cell], str], found: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """For people, a row a search: which cells, what was searched in which range, what it took, the best, its score."""
    for known in found:
        asked = known["asked"]
        of_search = [cell for cell in cells if cell.search is not None and cell.search.asked == asked]
        pruned = f", {known['stopped']} stopped early by {asked['pruner']}" if asked["pruner"] else ""
        failed = f", {known['failed']} failed" if known["failed"] else ""
        yield [
            "all" if 1 < len(of_search) == len(cells) else "; ".join(label(cell) for cell in of_search),
            ", ".join(f"`{key}` {text}" for key, text in asked["params"].items()),
            f"{known['trials']} trials, {known['epochs']} epochs in all ({asked['sampler']}{pruned}{failed})",
            ", ".join(_best(asked["params"], *found) for found in known["best"]["params"].items()),
            f"{known['metric']} {known['best']['value']:.4g}",
        ]


def _best(asked: Mapping[str, str], key: str, value: Any) -> str:
    return f"{key} {_short(value)}{at_end(asked[key], value)}"


def at_end(asked: str, value: Any) -> str:
    """ ", the largest asked" or ", the smallest asked" of a number at an end of what was searched, where a better one may lie
    beyond; of an interval its last twentieths, of its logarithm where that was searched."""
    interval = INTERVAL.search(asked)
    try:
        ends = [float(end) for end in (interval.groups() if interval else asked.split(","))]
        least, most, found = min(ends), max(ends), float(value)
        if interval and "log" in asked:
            least, most, found = map(math.log, (least, most, found))
    except (TypeError, ValueError):  # names, of which none is the largest
        return ""
    near = (most - least) / 20 if interval else 0
    if len(ends) < 2 or least + near < found < most - near:
        return ""
    return f", the {'smallest' if found <= least + near else 'largest'} asked"


def _found(sought: Sought, root: Path) -> dict[str, Any] | None:
    """What a search found: as it is published, else as it was made here, once all its trials have ended."""
    path = ledger_path(root, sought.artefact)
    known = _published(root, sought.artefact, path.stat().st_mtime_ns) if path.is_file() else []
    asked = sought.asked
    if (found := next((one for one in known if one["asked"] == asked), None)) is not None:
        return found
    made = root / "searches" / sought.name / "search.json"
    told = json.loads(made.read_text()) if made.is_file() else {}
    if told.get("best") is None or told["left"]:
        return None
    best = {key: told["best"][key] for key in OF_BEST}
    return {"asked": asked, **{key: told[key] for key in TOLD}, "best": best}


@lru_cache(maxsize=64)
def _published(root: Path, name: str, changed_ns: int) -> list[dict[str, Any]]:
    return [line[SEARCH] for line in read(root, name) if SEARCH in line]


def _distinct(cells: Sequence[Cell]) -> Iterator[tuple[Sought, list[Cell]]]:
    """Each search with the cells that ask for it."""
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.search is not None:
            by_name.setdefault(cell.search.name, []).append(cell)
    for of_search in by_name.values():
        assert of_search[0].search is not None
        yield of_search[0].search, of_search


def _settings(sought: Sought) -> Any:
    """The search as a setting."""
    from omegaconf import OmegaConf

    declared = sought.declared
    chosen = (f"search/sampler={declared.sampler}", f"search/pruner={declared.pruner or 'none'}")
    node: Any = OmegaConf.to_container(config.compose(["search=optuna", *chosen]).search)
    own = {"n_trials": declared.trials, "metric": declared.metric, "study_name": sought.name, "params": dict(declared.params)}
    return config.build_setting({**node, **own}, "search")


def _arguments(sought: Sought) -> list[str]:
    from effdl.reproduce.artefact import on_the_cpu

    return list(on_the_cpu(sought.fixed))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else grammar.written(value)
