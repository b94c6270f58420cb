"""Settings of Hydra's own Optuna sweeper as those of our search, so that a config of `hydra.sweeper` carries over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from effdl.errors import ConfigError
from effdl.search.setting import Cmaes, Grid, Random, Sampler, Tpe

KEY = "hydra.sweeper"
SAMPLERS: dict[str, type[Sampler]] = {
    "TPESampler": Tpe,
    "RandomSampler": Random,
    "CmaEsSampler": Cmaes,
    "GridSampler": Grid,
}
# What that sweeper has by default where ours differs or has no such setting; any other value would be lost.
THEIRS: dict[str, Any] = {
    "multivariate": False,
    "consider_prior": True,
    "prior_weight": 1.0,
    "consider_magic_clip": True,
    "consider_endpoints": False,
    "warn_independent_sampling": True,
    "x0": None,
    "independent_sampler": None,
    "consider_pruned_trials": False,
    "restart_strategy": None,
    "inc_popsize": 2,
    "use_separable_cma": False,
    "source_trials": None,
    "_partial_": True,
}


def carried_over(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Optuna` by name, from what is set under hydra.sweeper.

    ``max_failure_rate`` is checked and left out: it is of the answer. Raises ConfigError where something would be lost.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if isinstance(given.get("direction"), list):
        raise ConfigError(f"{KEY}.direction: one score chooses, minimized or maximized; several are not searched at once")
    if given.pop("custom_search_space", None) is not None:
        raise ConfigError(f"{KEY}.custom_search_space: is code; write the space under params, as interval, range or choice")
    rate = given.pop("max_failure_rate", 0.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise ConfigError(f"{KEY}.max_failure_rate: a share of trials, from 0 to 1, not {rate!r}")
    spaces = given.pop("search_space", None)
    if spaces is not None:
        given["params"] = {**{name: _text(name, told) for name, told in spaces.items()}, **given.get("params", {})}
    if "sampler" in given:
        given |= _sampler(given.pop("sampler"))
    return given


def _sampler(node: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(node)
    name = str(values.pop("_target_", "")).rpartition(".")[2]
    if name not in SAMPLERS:
        raise ConfigError(f"{KEY}.sampler._target_: {name}: not one of {', '.join(SAMPLERS)}")
    cls = SAMPLERS[name]
    seed = values.pop("seed", None)
    known = {one.name for one in fields(cls)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known and (key not in THEIRS or THEIRS[key] != value):
            choice = f"search/sampler={cls.snake_name()}"
            raise ConfigError(f"{KEY}.sampler.{key}: {choice} has no such setting; it has {', '.join(sorted(known)) or 'none'}")
    kept = {key: THEIRS[key] for key in known if key in THEIRS} | {key: values[key] for key in known if key in values}
    try:
        made = cls(**kept)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{KEY}.sampler.{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
    return {"sampler": made, **({} if seed is None else {"seed": seed})}


def _text(name: str, told: Any) -> Any:
    """One entry of search_space as params have it."""
    key = f"{KEY}.search_space.{name}"
    if not isinstance(told, Mapping):
        raise ConfigError(f"{key}: {told!r} is no type with low and high, or choices")
    kind = told.get("type")
    if kind == "categorical":
        return list(told.get("choices") or ())
    if kind not in ("float", "int"):
        raise ConfigError(f"{key}.type: float, int or categorical, not {kind!r}")
    low, high, step = told.get("low"), told.get("high"), told.get("step")
    if low is None or high is None:
        raise ConfigError(f"{key}: needs low and high")
    number = int if kind == "int" else float
    if step is not None:
        return f"range({number(low)},{number(high)},{number(step)})"
    text = f"interval({number(low)},{number(high)})"
    text = f"tag(log,{text})" if told.get("log") else text
    return f"int({text})" if kind == "int" else text
