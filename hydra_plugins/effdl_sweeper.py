"""Hydra's sweeper `effdl_search`, which `search=optuna` takes: hands a multirun's spaces to effdl's own search."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf


@dataclass
class SweeperConf:
    """The keys of Hydra's own Optuna sweeper; those that are set stand before `search`.

    Dictionaries are empty where they are not set: OmegaConf stumbles over a key below None.
    """

    _target_: str = "hydra_plugins.effdl_sweeper.EffdlSweeper"
    _recursive_: bool = False
    sampler: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    search_space: dict[str, Any] = field(default_factory=dict)
    custom_search_space: str | None = None
    n_trials: int | None = None
    n_jobs: int | None = None
    direction: Any = None
    max_failure_rate: float | None = None
    storage: str | None = None
    study_name: str | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="effdl_search", node=SweeperConf, provider="effdl")


class EffdlSweeper(Sweeper):
    def __init__(self, **settings: Any) -> None:
        plain = {name: OmegaConf.to_container(one) if isinstance(one, DictConfig) else one for name, one in settings.items()}
        self.settings = {name: one for name, one in plain.items() if one not in (None, {})}

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Nothing: what is asked for is composed without what is searched."""

    def sweep(self, arguments: list[str]) -> None:
        from effdl import cli

        cli.search(arguments, self.settings)
