"""What made a run's numbers but is no part of its identity: commit, machine, versions, and the source of users' own classes."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from effdl import config
from effdl.setting import Setting


@lru_cache(maxsize=1)
def provenance() -> dict[str, Any]:
    """What is the same for all runs of this process."""
    home = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str | None:
        try:
            # No lock on the index, which a killed run would leave behind: git would then refuse the user's next commit.
            command = ["git", "--no-optional-locks", "-C", str(home), *args]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
            return None
        return done.stdout.strip()

    ours = git("rev-parse", "--show-toplevel") == str(home)  # not a checkout around an installed package
    return {
        "commit": git("rev-parse", "HEAD") if ours else None,
        "dirty": bool(git("status", "--porcelain")) if ours else None,
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        **_arithmetic(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _arithmetic() -> dict[str, Any]:
    """What the last bits of single precision depend on: processor, the vector extension that torch's kernels use, and BLAS."""
    models = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = next((line.partition(":")[2].strip() for line in models if line.startswith("model name")), platform.processor())
    built = torch.__config__.show()
    blas = next(
        filter(None, (re.search(pattern, built) for pattern in (r"(Math Kernel Library Version \S+)", r"BLAS_INFO=(\w+)"))),
        None,
    )
    return {
        "processor": named,
        "vector": torch.backends.cpu.get_cpu_capability(),
        "blas": blas.group(1).replace("Math Kernel Library Version", "MKL") if blas else None,
    }


def sources(spec: config.Spec) -> dict[str, str]:
    """module -> SHA-256 of its file, of each class outside the package that a Spec's numbers depend on."""
    bases = (base for setting in config.all_settings(spec) for base in type(setting).__mro__)
    names = {base.__module__ for base in bases if issubclass(base, Setting) and not base.__module__.startswith("effdl.")}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items() if file}


def other_source(spec: config.Spec, stored: Mapping[str, Any] | None) -> str | None:
    """How the source of users' own classes differs from what a record's provenance holds, in words; None where it does not."""
    ours = sources(spec)
    if not ours or stored is None:
        return None
    theirs = stored.get("sources")
    if theirs is None:
        return f"its record is older than digests of sources, and does not tell whether {' and '.join(ours)} was another"
    changed = [name for name, digest in ours.items() if theirs.get(name) != digest]
    return f"the source of {' and '.join(changed)} has changed since" if changed else None
