"""Hydra's launcher `effdl`: hands a multirun to effdl's own executor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig


@dataclass
class LauncherConf:
    _target_: str = "hydra_plugins.effdl_launcher.EffdlLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="effdl", node=LauncherConf, provider="effdl")


class EffdlLauncher(Launcher):
    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        from effdl import cli

        self.loader, self.config = hydra_context.config_loader, config
        cli.begin_sweep(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from effdl import cli

        composed = [self.loader.load_sweep_config(self.config, list(o)) for o in job_overrides]
        results = cli.sweep(composed)
        return [
            JobReturn(overrides=o, cfg=c, status=JobStatus.COMPLETED, _return_value=r.get("summary", {}).get("val/acc"))
            for o, c, r in zip(job_overrides, composed, results, strict=True)
        ]
