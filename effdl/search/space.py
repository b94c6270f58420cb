"""What is searched: the override grammar that Hydra's own Optuna sweeper takes, as Optuna's distributions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from effdl.errors import ConfigError


def read(arguments: Sequence[str], params: Mapping[str, Any] | None = None) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The space by key, and the overrides that all trials share.

    interval(a,b) is a range of real numbers, int(interval(a,b)) one of whole numbers; range(a,b,step) has steps and, unlike in
    a plain sweep, its end, as in Hydra's Optuna sweeper; choice(a,b) and a,b are choices; tag(log,...) searches the logarithm.

    Args:
        params: more of the same by key, behind which ``arguments`` stand.

    Raises:
        ConfigError: not in that grammar, or nothing to search.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    written = [f"{key}={_written(value)}" for key, value in (params or {}).items()]
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides([*written, *arguments]):
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            space[key] = _distribution(key, override)
        else:
            fixed[key] = str(override.input_line)
    if not space:
        raise ConfigError("search: nothing is searched; say what, as in 'optimizer.lr=tag(log,interval(1e-4,1))'")
    return space, list(fixed.values())


def shown(params: Mapping[str, Any], short: bool = False) -> list[str]:
    """Values that a trial had as overrides; short: for people, to four digits."""
    four = {name: float(f"{value:.4g}") if short and isinstance(value, float) else value for name, value in params.items()}
    return [f"{name}={_shown(value)}" for name, value in four.items()]


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if _is_list(value):
        return ",".join(f"[{_written(one)}]" if _is_list(one) else _written(one) for one in value)
    return _shown(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _distribution(key: str, override: Any) -> BaseDistribution:
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value)
        if isinstance(value, RangeSweep) and not value.shuffle:
            return _range(value)
        value.shuffle = False  # the order of choices says nothing, and must be the same when the search goes on
        if override.is_choice_sweep() or isinstance(value, RangeSweep):
            return CategoricalDistribution(list(_choices(override)))
    except ValueError as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from None
    except HydraException:  # glob(...) asks for what only a launcher has
        pass
    raise ConfigError(
        f"{key}: cannot be searched; take interval(a,b), range(a,b,step), choice(a,b,...), with tag(log,...) or not"
    )


def _choices(override: Any) -> Iterator[str]:
    from hydra.core.override_parser.types import Transformer

    seen: set[str] = set()
    for one in override.sweep_iterator(transformer=Transformer.encode):
        if (text := _shown(one)) not in seen:
            seen.add(text)
            yield text


def _interval(value: Any) -> BaseDistribution:
    log = "log" in value.tags
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=log)
    return FloatDistribution(float(value.start), float(value.end), log=log)


def _range(value: Any) -> BaseDistribution:
    numbers = (value.start, value.stop, value.step)
    steps = math.floor((value.stop - value.start) / value.step + 1e-9)
    high = value.start + steps * value.step
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(value.start, high, step=value.step)
    return FloatDistribution(float(value.start), float(high), step=float(value.step))


def suggest(trial: Trial, name: str, found: BaseDistribution) -> Any:
    """The trial's value, which stays where it has one."""
    if isinstance(found, IntDistribution):
        return trial.suggest_int(name, found.low, found.high, step=found.step, log=found.log)
    if isinstance(found, FloatDistribution):
        return trial.suggest_float(name, found.low, found.high, step=found.step, log=found.log)
    assert isinstance(found, CategoricalDistribution)
    return trial.suggest_categorical(name, found.choices)
