"""Names of files and folders that do not come through a shell, which would have put a home folder in the place of `~`."""

from pathlib import Path

from effdl.errors import ConfigError, shown


def at_home(name: str | Path, key: str) -> Path:
    """The path; a ``~`` or ``~user`` that it begins with is a home folder. Raises a ConfigError where there is none."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise ConfigError(f"{key}: there is no home folder for {shown(name)}: set HOME, or write the path out") from None
