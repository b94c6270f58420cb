"""The one command: `python run.py method=dll arch=cnn4`; see `python run.py --help`."""

import hydra
from omegaconf import DictConfig

from effdl import cli, config


@hydra.main(config_path="configs", config_name="config", **config.VERSION_BASE, **config.WHITELIST)
def main(composed: DictConfig) -> float | None:
    return cli.job(composed)


if __name__ == "__main__":
    cli.main(main)
