"""Environments over the one in use: its packages, with a few others in their place; made once for all processes of tests."""

import fcntl
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PLUGINS = ("joblib-launcher", "submitit-launcher", "optuna-sweeper")
HYDRA_1_4 = ("hydra-core==1.4.0rc3", *(f"hydra-{one}==1.4.0rc3" for one in PLUGINS))
OPTUNA_2 = ("hydra-optuna-sweeper==1.3.0",)  # the official sweeper of Hydra 1.3, which allows no newer Optuna


def python_with(packages: tuple[str, ...], factory: pytest.TempPathFactory) -> str:
    """The interpreter of such an environment; skips where no index of packages can be reached, but for CI."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    place = shared / packages[0].translate({ord(c): "_" for c in "=.*"})
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = place / "bin" / "python"
        if not (place / "made").exists():
            _make(place, packages)
    return str(python)


def _make(place: Path, packages: tuple[str, ...]) -> None:
    venv.create(place, with_pip=True, clear=True)
    python = place / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    )
    below = [one for one in sys.path if one.endswith("site-packages")]
    Path(found.stdout.strip(), "below.pth").write_text("\n".join(below) + "\n")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(packages)}, which pip cannot install here")
    assert done.returncode == 0, done.stderr
    (place / "made").touch()
