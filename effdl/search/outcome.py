"""What a search found: the best trial as a config, all trials as a table, and Optuna's pictures."""

from __future__ import annotations

import csv
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from effdl.config import GROUPS, grammar
from effdl.records.store import write_atomically, write_json
from effdl.search import space as space_of
from effdl.search.trials import EPOCHS, REASON, RUN, STATUS

if TYPE_CHECKING:
    from effdl.search.trials import Trials

PLAIN = re.compile(r"[\w./-]+")  # what an override needs no quotes for
SHOWN = 10  # trials in the table that people see


def write(study: Study, trials: Trials, folder: Path) -> dict[str, Any]:
    """Write search.json, trials.csv, best.yaml and the pictures; returns what search.json holds."""
    ended = [one for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    told = {
        "study": study.study_name,
        "metric": trials.metric,
        "direction": study.direction.name.lower(),
        "left": max(0, trials.left),
        "trials": len(ended),
        "stopped": sum(one.state == TrialState.PRUNED for one in ended),
        "failed": sum(is_failed(one) for one in ended),
        "epochs": sum(one.user_attrs.get(EPOCHS, 0) for one in ended),
        "best": None,
        "path": str(folder),
    }
    _table(folder / "trials.csv", ended, list(trials.space))
    if (best := best_of(ended, maximize=told["direction"] == "maximize")) is not None:
        overrides = [*trials.fixed, *space_of.shown(best.params)]
        told["best"] = {
            "number": best.number,
            "value": best.value,
            "params": best.params,
            "run_id": best.user_attrs[RUN],
            "path": str(trials.root / "runs" / best.user_attrs[RUN]),
            "overrides": overrides,
        }
        _best(folder, study.study_name, overrides)
    write_json(folder / "search.json", told)
    pictures(study, trials.metric, folder)
    return told


def is_failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL or trial.user_attrs.get(STATUS) in ("diverged", "failed")


def best_of(ended: Sequence[FrozenTrial], maximize: bool) -> FrozenTrial | None:
    """The best of the trials that came to their end; the first of equals."""
    whole = [one for one in ended if one.state == TrialState.COMPLETE and not is_failed(one)]
    return (max if maximize else min)(whole, key=lambda one: one.value, default=None)  # type: ignore[arg-type, return-value]


def text(told: Mapping[str, Any], folder: Path, program: str = "run.py") -> str:
    """A table of the best trials, and how to take the best one, for people. program: the path of run.py."""
    with (folder / "trials.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["value"] and row["status"] == "finished"]
    rows.sort(key=lambda row: float(row["value"]), reverse=told["direction"] == "maximize")
    lines = [
        f"{told['study']}: {told['trials']} trials, {told['epochs']} epochs; {told['stopped']} stopped early, "
        f"{told['failed']} failed",
        "",
    ]
    if not rows:
        lines += [f"no trial came to its end; {folder / 'trials.csv'} has the reason of each"]
    else:
        names = ["number", "value", *(name for name in rows[0] if name not in COLUMNS), "epochs", "run_id"]
        heads = {"value": told["metric"], "number": "trial", "run_id": "run"}
        table = [[heads.get(name, name) for name in names]]
        table += [[_digits(row[name]) if name != "run_id" else row[name][:6] for name in names] for row in rows[:SHOWN]]
        widths = [max(len(row[i]) for row in table) for i in range(len(names))]
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        lines += [
            "",
            f"The best again: {_command(program, folder, '--config-name', 'best')}",
            f"or with more:   {_command(program, folder, '+best=' + told['study'], 'seed=1')}",
        ]
    return "\n".join(lines)


def _command(program: str, folder: Path, *arguments: str) -> str:
    """For a shell, where the search was started; records go where those of the search are."""
    results = str(folder.parents[1])
    written = results if PLAIN.fullmatch(results) else grammar.quoted(results)
    beside = [] if results == "results" else [f"results={written}"]
    return shlex.join(["python", program, "--config-dir", str(folder), *arguments, *beside])


COLUMNS = ("number", "state", "status", "value", "epochs", "run_id", "reason")


def _digits(text: str) -> str:
    try:
        return f"{float(text):.4g}" if "." in text or "e" in text else text
    except ValueError:
        return text


def _table(path: Path, ended: Sequence[FrozenTrial], params: Sequence[str]) -> None:
    part = path.with_suffix(".csv.part")
    with part.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*COLUMNS[:4], *params, *COLUMNS[4:]])
        for one in ended:
            noted = [one.user_attrs.get(name) for name in (EPOCHS, RUN, REASON)]
            values = [one.params.get(name) for name in params]
            rows.writerow([one.number, one.state.name.lower(), one.user_attrs.get(STATUS), one.value, *values, *noted])
    part.replace(path)


def _best(folder: Path, name: str, overrides: Sequence[str]) -> None:
    """best.yaml for --config-name and best/<study>.yaml for +best=<study>."""
    chosen = {key: value for key, _, value in (one.partition("=") for one in overrides) if key.lstrip("+") in GROUPS}
    values: dict[str, Any] = {}
    for key, _, value in (one.partition("=") for one in overrides):
        if key not in chosen:
            *parents, last = key.lstrip("+").split(".")
            here = values
            for parent in parents:
                here = here.setdefault(parent, {})
            here[last] = grammar.plain(value)
    head = f"# @package _global_\n# The best trial of the search {name}: {' '.join(overrides)}\n"

    def defaults(mark: str) -> list[Any]:
        return [{f"override {mark}{group}": grammar.plain(choice)} for group, choice in chosen.items()]

    whole = {"defaults": ["config", *defaults("/"), "_self_"], **values}
    added = {"defaults": [*defaults("/"), "_self_"], **values}
    (folder / "best").mkdir(exist_ok=True)
    for path, content in ((folder / "best.yaml", whole), (folder / "best" / f"{name}.yaml", added)):
        write_atomically(path, (head + yaml.safe_dump(content, sort_keys=False)).encode())


def pictures(study: Study, metric: str, folder: Path) -> None:
    """history.png, importances.png and parallel.png, as far as there are trials for them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    drawings: dict[str, Any] = {
        "history": plots.plot_optimization_history,
        "importances": plots.plot_param_importances,
        "parallel": plots.plot_parallel_coordinate,
    }
    for name, draw in drawings.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                axes = draw(study, target_name=metric)
            except (ValueError, RuntimeError, ZeroDivisionError):  # too few trials, or all alike
                continue
            figure = axes.figure
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close(figure)
