"""The one command: `python run.py method=dll arch=cnn4`; see `python run.py --help`."""

import hydra
from omegaconf import DictConfig

from effdl import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(config: DictConfig) -> None:
    cli.run(config)


if __name__ == "__main__":
    cli.main(main)
