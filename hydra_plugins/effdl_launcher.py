"""Hydra's launcher `effdl`: hands a multirun to effdl's own executor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from effdl import cli
        from hydra_plugins.effdl_jobs import wanted

        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # in which sweepers write what they found
        composed = [self.loader.load_sweep_config(self.config, list(o)) for o in job_overrides]
        scores = cli.sweep(composed, wanted(self.config.hydra))
        return [_returned(*one) for one in zip(job_overrides, composed, scores, strict=True)]


def _returned(overrides: Sequence[str], config: DictConfig, score: Any) -> JobReturn:
    status = JobStatus.FAILED if isinstance(score, Exception) else JobStatus.COMPLETED
    return JobReturn(overrides=overrides, cfg=config, status=status, _return_value=score)
