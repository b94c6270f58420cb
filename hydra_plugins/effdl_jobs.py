"""Hydra's callback that tells effdl where a sweep and each job of another launcher have their folders, and what is wanted."""

from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf


def wanted(hydra: DictConfig) -> Any:
    """What the chosen sweeper wants of runs, None where it is Hydra's own, which looks at no score."""
    from effdl.jobs import Wanted

    if hydra.runtime.choices["hydra/sweeper"] == "basic":
        return None
    found = OmegaConf.select(hydra.sweeper, "direction")
    directions = found if OmegaConf.is_list(found) else [found] if found is not None else []
    return Wanted(tuple(str(getattr(one, "name", one)) for one in directions))


class Jobs(Callback):
    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from effdl import cli

        launcher = config.hydra.runtime.choices["hydra/launcher"]
        cli.begin_sweep(config.hydra.sweep.dir, None if launcher == "effdl" else launcher)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        from effdl import cli

        hydra = config.hydra
        if hydra.mode == RunMode.MULTIRUN:
            overrides = OmegaConf.to_container(hydra.overrides.task)
            cli.begin_job(hydra.runtime.output_dir, hydra.job.num, overrides, wanted(hydra))
