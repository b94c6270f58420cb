"""What a search is: how many trials, by which score, in which storage, proposed and stopped by what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal
from warnings import catch_warnings, simplefilter

from pydantic import Field

from effdl.errors import ConfigError
from effdl.setting import Count, Positive, Setting, Size, Switch, setting

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Space = Mapping[str, "BaseDistribution"]
MOST_OF_A_GRID = 100_000  # combinations


class Search(Setting, ABC):
    """Which runs there are, chosen by the scores of those before."""

    @abstractmethod
    def most(self, space: Space) -> int:
        """How many trials a search of this space has in all. Raises ConfigError."""


class Sampler(Setting, ABC):
    """Proposes a trial's values from those before it."""

    @abstractmethod
    def make(self, space: Space, seed: int, number: int, value: int = 0) -> BaseSampler:
        """Optuna's sampler for one value of one trial: a trial that is cut off has the values that it would have had.

        Args:
            seed: of the search.
            number: of the trial.
            value: the value's place in the space.

        Raises:
            ConfigError: the sampler cannot search this space.
        """


class Pruner(Setting, ABC):
    """Stops trials early that seem worse than others."""

    @abstractmethod
    def make(self) -> BasePruner: ...


def _drawn(seed: int, *counters: int) -> int:
    from effdl.rng import seed_for

    return seed_for(seed, "search", *counters) % 2**32


@setting
class Tpe(Sampler):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), as Optuna has it, after so many trials at random."""

    n_startup_trials: Size = 10
    n_ei_candidates: Count = 24
    multivariate: Switch = True

    def make(self, space: Space, seed: int, number: int, value: int = 0) -> BaseSampler:
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import TPESampler

        settings = {name: getattr(self, name) for name in ("n_startup_trials", "n_ei_candidates", "multivariate")}
        with catch_warnings():
            simplefilter("ignore", ExperimentalWarning)  # of multivariate, in Optuna 4
            return TPESampler(seed=_drawn(seed, number, value), **settings)


@setting
class Random(Sampler):
    """Independent draws."""

    def make(self, space: Space, seed: int, number: int, value: int = 0) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=_drawn(seed, number, value))


@setting
class Cmaes(Sampler):
    """CMA-ES (Hansen 2016), as Optuna has it; for numbers, of which it needs two or more.

    sigma0: the first step, null for a sixth of the least range.
    """

    n_startup_trials: Count = 1
    sigma0: Positive | None = None

    def make(self, space: Space, seed: int, number: int, value: int = 0) -> BaseSampler:
        from optuna.distributions import CategoricalDistribution
        from optuna.samplers import CmaEsSampler

        numbers = [name for name, found in space.items() if not isinstance(found, CategoricalDistribution)]
        if len(numbers) < 2:
            raise ConfigError("search/sampler=cmaes: needs two ranges of numbers or more; search/sampler=tpe takes any space")
        return CmaEsSampler(
            seed=_drawn(seed, number, value),
            n_startup_trials=self.n_startup_trials,
            sigma0=self.sigma0,
            warn_independent_sampling=False,
        )


@setting
class Grid(Sampler):
    """Every combination once, in a random order: of choices, and of ranges with a step."""

    def make(self, space: Space, seed: int, number: int, value: int = 0) -> BaseSampler:
        from optuna.samplers import GridSampler

        return GridSampler({name: self._points(name, found) for name, found in space.items()}, seed=_drawn(seed))

    def size(self, space: Space) -> int:
        """How many points there are. Raises ConfigError."""
        total = 1
        for name, found in space.items():
            total *= len(self._points(name, found))
            if total > MOST_OF_A_GRID:
                raise ConfigError(f"search/sampler=grid: over {MOST_OF_A_GRID:,} points; search/sampler=random draws some")
        return total

    def _points(self, name: str, found: BaseDistribution) -> list[Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if isinstance(found, CategoricalDistribution):
            return list(found.choices)
        if isinstance(found, IntDistribution) and not found.log:
            return list(range(found.low, found.high + 1, found.step))
        if isinstance(found, FloatDistribution) and found.step is not None:
            low, high, step = (Decimal(str(number)) for number in (found.low, found.high, found.step))
            return [float(low + i * step) for i in range(int((high - low) // step) + 1)]
        raise ConfigError(f"{name}: an interval has no grid; take choice(...) or range(start,stop,step)")


@setting
class Median(Pruner):
    """Stops a trial whose best score so far is worse than the median of the earlier trials' scores after as many epochs."""

    n_startup_trials: Size = 5
    n_warmup_steps: Size = 0
    interval_steps: Count = 1

    def make(self) -> BasePruner:
        from optuna.pruners import MedianPruner

        return MedianPruner(self.n_startup_trials, self.n_warmup_steps, self.interval_steps)


@setting
class Hyperband(Pruner):
    """Successive halving with several budgets (Li et al. 2018), which are counted in epochs, over all segments.

    max_resource: null for those of the first trial that ends.
    """

    min_resource: Count = 1
    max_resource: Count | None = None
    reduction_factor: Annotated[int, Field(strict=True, ge=2)] = 3

    def make(self) -> BasePruner:
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(self.min_resource, self.max_resource or "auto", self.reduction_factor)


@setting
class Optuna(Search):
    """A search by Optuna (Akiba et al. 2019) for the best score on validation samples; test numbers play no part in it.

    metric: of a run's summary. By default the score that chooses: accuracy on validation samples, or their squared error where
        there are no classes.
    direction: null takes "maximize" for accuracies, "minimize" for all else.
    n_trials: in all, those of earlier calls included; a grid has at most as many as it has points.
    n_jobs: trials at once; null takes as many as `workers` says. With several the values of TPE and CMA-ES depend on which
        trial ends first.
    storage: null keeps a journal beside the search's results; else any URL that Optuna takes, such as sqlite:///trials.db or
        postgresql://...
    study_name: null names it by what is searched, so that the same command goes on with the same search.
    seed: of what the sampler draws.
    params: the space by key, beside that of the command line: {optimizer.lr: "tag(log, interval(1e-4, 1))"}.
    """

    sampler: Any = Tpe()
    pruner: Any = None
    metric: str | None = None
    direction: Literal["maximize", "minimize"] | None = None
    n_trials: Count = 20
    n_jobs: Count | None = None
    storage: str | None = None
    study_name: Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")] | None = None
    seed: Size = 0
    params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric.startswith(("test/", "best_test", "last_test")):
            raise ValueError(f"search.metric: {self.metric} is of the test split, which may choose nothing; take one of val/")

    def most(self, space: Space) -> int:
        return min(self.n_trials, self.sampler.size(space)) if isinstance(self.sampler, Grid) else self.n_trials
