"""Where a run computes."""

from typing import Literal

import torch

from effdl.errors import HardwareError
from effdl.setting import Count, Setting, setting


@setting
class Hardware(Setting):
    """Device and CPU threads; threads null takes all cores for a lone run and one for each run of a sweep."""

    device: Literal["cpu", "cuda"] = "cpu"
    threads: Count | None = None

    def open(self, threads: int | None = None) -> torch.device:
        """The device, ready; ``threads`` is used where the setting leaves them open. Raises HardwareError."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise HardwareError("hardware.device=cuda: no CUDA device on this machine; hardware=cpu runs without one")
        if count := self.threads or threads:
            torch.set_num_threads(count)
        return torch.device(self.device)
