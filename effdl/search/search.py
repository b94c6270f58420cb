"""A search from its command to its best trial."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json

from effdl import config
from effdl.config import Spec
from effdl.errors import ConfigError
from effdl.records import score
from effdl.records.carry import names
from effdl.records.execute import work_off
from effdl.records.report import Console, Reporter
from effdl.search import outcome
from effdl.search import space as space_of
from effdl.search.setting import Optuna
from effdl.search.storage import held, opened
from effdl.search.trials import Trials

Shown = Callable[[int], AbstractContextManager[Reporter]]
BESIDE = re.compile(r"\+*(results|workers|search)\b")  # overrides that are of no run
WHAT = "effdl"  # under which a study says what it searches


def search(found: Optuna, arguments: Sequence[str], root: Path, workers: int = 1, shown: Shown = Console) -> dict[str, Any]:
    """Carry out the trials that are left, and write down the best; returns what search.json holds.

    Args:
        arguments: overrides, some of which name what is searched.
        root: the results folder; the search has searches/<study_name> in it.
        workers: trials at once, where the search leaves it open.
        shown: makes the reporter, given how many trials are left.

    Raises:
        ConfigError: the space, the metric or the storage cannot be.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, fixed = space_of.read(arguments, found.params)
    fixed = [one for one in fixed if not BESIDE.match(one)]
    _refuse(space, fixed)
    spec = config.build(config.compose([*fixed, *space_of.first_choices(space)]))
    metric = found.metric or score.metric(spec)
    direction = found.direction or score.direction(metric)
    what = {
        "space": {name: distribution_to_json(one) for name, one in space.items()},
        "fixed": sorted(fixed),
        "metric": metric,
        "by": repr((found.sampler, found.pruner, found.seed)),
    }
    name = found.study_name or _name(spec, what)
    folder = root / "searches" / name
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / "lock"):
        study = optuna.create_study(
            storage=opened(found.storage, folder),
            study_name=name,
            direction=direction,
            pruner=found.pruner.make() if found.pruner is not None else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        _compare(study, what)
    trials = Trials(study, found, metric, space, fixed, folder, root)
    at_once = 1 if spec.hardware.device != "cpu" else found.n_jobs or workers
    if (left := trials.left) > 0:
        with shown(left) as reporter:
            reporter.begin()
            trials.say = reporter.say
            try:
                work_off(trials, root, min(at_once, left), reporter)
            finally:
                trials.release()
    with held(folder / "lock"):
        return outcome.write(study, trials, folder)


def _refuse(space: Iterable[str], fixed: Sequence[str]) -> None:
    """Raise a ConfigError for keys that are no settings to search, and for values that no best trial could be written with."""
    if deleted := next((one for one in fixed if one.startswith("~")), None):
        raise ConfigError(f"{deleted}: a search writes its best trial as values, so that none can be taken away; set another")
    for name in space:
        if name.lstrip("+") == "seed":
            raise ConfigError("seed: is chance and no setting, a search would find the luckiest; -m seed=0,1,2 runs several")
        if BESIDE.match(name):
            raise ConfigError(f"{name}: says where and how runs are carried out, which is not searched")


def _name(spec: Spec, what: dict[str, Any]) -> str:
    """Such as dll-cnn4-digits-1a2b3c: the same search has the same name, however many trials it has."""
    parts = [name for group, name in names(spec).items() if group not in what["space"]]
    return "-".join([*parts, sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:6]])


def _compare(study: optuna.Study, what: dict[str, Any]) -> None:
    """Note what a study searches; raise a ConfigError where it searched something else."""
    before = study.user_attrs.get(WHAT)
    if before is None:
        study.set_user_attr(WHAT, what)
    elif said := next((key for key in what if before.get(key) != what[key]), None):
        raise ConfigError(f"search.study_name: {study.study_name} searched another {said}; take another name")
