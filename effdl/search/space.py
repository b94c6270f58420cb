"""What is searched: the override grammar that Hydra's own Optuna sweeper takes, as Optuna's distributions."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from effdl.config import GROUPS, grammar
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
    written = [f"{key}={_written(value)}" for key, value in (params or {}).items()]
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for key, text, swept in grammar.read([*written, *arguments]):
        space.pop(key, None)
        fixed.pop(key, None)
        if swept is None:
            fixed[key] = text
        else:
            space[key] = _distribution(key, swept)
    if not space:
        raise ConfigError("search: nothing is searched; say what, as in 'optimizer.lr=tag(log,interval(1e-4,1))'")
    return space, list(fixed.values())


def first_choices(space: Mapping[str, BaseDistribution]) -> list[str]:
    """The first choice of each group that is searched, as overrides: some keys are of choices alone."""
    searched = {key: found for key, found in space.items() if key in GROUPS and isinstance(found, CategoricalDistribution)}
    return [f"{key}={found.choices[0]}" for key, found in searched.items()]


def shown(params: Mapping[str, Any], short: bool = False) -> list[str]:
    """Values that a trial had as overrides; short: for people, to four digits."""
    four = {name: float(f"{value:.4g}") if short and isinstance(value, float) else value for name, value in params.items()}
    return [f"{name}={grammar.written(value)}" for name, value in four.items()]


def suggest(trial: Trial, name: str, found: BaseDistribution) -> Any:
    """The trial's value, which stays where it has one."""
    if isinstance(found, IntDistribution):
        return trial.suggest_int(name, found.low, found.high, step=found.step, log=found.log)
    if isinstance(found, FloatDistribution):
        return trial.suggest_float(name, found.low, found.high, step=found.step, log=found.log)
    assert isinstance(found, CategoricalDistribution)
    return trial.suggest_categorical(name, found.choices)


def _written(value: Any) -> str:
    """A value of a YAML as an override; a list is of choices."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ",".join(f"[{_written(one)}]" if isinstance(one, list | tuple) else _written(one) for one in value)
    return grammar.written(value)


def _distribution(key: str, swept: grammar.Interval | grammar.Steps | grammar.Choices) -> BaseDistribution:
    try:
        if isinstance(swept, grammar.Choices):
            return CategoricalDistribution(swept.values)
        if isinstance(swept, grammar.Steps):
            return _steps(swept)
        if isinstance(swept.low, int) and isinstance(swept.high, int):
            return IntDistribution(swept.low, swept.high, log=swept.log)
        return FloatDistribution(float(swept.low), float(swept.high), log=swept.log)
    except ValueError as error:
        raise ConfigError(f"{key}: {_advice(swept) or ' '.join(str(error).split())}") from None


def _advice(swept: grammar.Interval | grammar.Steps | grammar.Choices) -> str | None:
    """What is wrong with a range, and how it is written."""
    if isinstance(swept, grammar.Interval) and swept.low > swept.high:
        return f"its low end {swept.low:g} lies above its high end {swept.high:g}; write interval({swept.high:g},{swept.low:g})"
    if isinstance(swept, grammar.Interval) and swept.log and swept.low <= 0:
        return f"a logarithm needs a low end above 0, not {swept.low:g}, such as 1e-6"
    return None


def _steps(swept: grammar.Steps) -> BaseDistribution:
    """Up to the last step that is within; in decimals, as it is written: three steps of 0.3 are 0.9, and not a bit less."""
    start, stop, step = (Decimal(str(number)) for number in (swept.start, swept.stop, swept.step))
    high = start + (stop - start) // step * step
    if all(isinstance(number, int) for number in (swept.start, swept.stop, swept.step)):
        return IntDistribution(int(start), int(high), step=int(step))
    return FloatDistribution(float(start), float(high), step=float(step))
