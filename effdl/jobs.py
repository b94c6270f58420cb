"""Jobs of a multirun that Hydra's other launchers and sweepers carry out: what each leaves, what the parent gathers of it.

A job is one run in a process of the launcher's, on any machine that sees the folders.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdl.config import Spec
from effdl.errors import ConfigError

RESULT = "run.json"  # what a job leaves in its folder
MISSING = "missing"  # the status of a job that left none
UNSHOWN = ("trace", "exit_code", "job", "overrides")  # keys of results that are of no JSON line
SLURM = ("sbatch", "srun")  # its commands that submitit calls
Times = Mapping[Path, int]


@dataclass(frozen=True)
class Wanted:
    """What a sweeper wants of runs: one score in each of these directions; () where it has none of its own."""

    directions: tuple[str, ...] = ()

    def check(self, spec: Spec) -> None:
        """Raise a ConfigError where the sweeper would search for the worst."""
        from effdl.records import score

        name = score.metric(spec)
        better = score.direction(name)
        if any(one != better for one in self.directions) or len(self.directions) > 1:
            asked = ",".join(self.directions)
            raise ConfigError(f"hydra.sweeper.direction: {asked}, but runs have one score, {name}; say {better}")

    def of(self, spec: Spec, result: Mapping[str, Any]) -> float:
        """The score. Raises EffdlError where the run did not end."""
        from effdl.records import score

        return score.score(spec, result)


@dataclass(frozen=True)
class Job:
    """The job that this process works on. folder: its own. number: its place in the sweep. wanted: None without a score."""

    folder: Path
    number: int
    overrides: tuple[str, ...]
    wanted: Wanted | None

    def leave(self, result: Mapping[str, Any]) -> None:
        from effdl.records.store import write_json

        kept = {key: value for key, value in result.items() if key not in UNSHOWN}
        write_json(self.folder / RESULT, {"job": self.number, "overrides": list(self.overrides), **kept})


def check_launcher(name: str) -> None:
    """Raise a ConfigError where a launcher cannot start jobs from this machine."""
    if name == "submitit_slurm" and (lacking := [command for command in SLURM if shutil.which(command) is None]):
        is_or_are = "is" if len(lacking) == 1 else "are"
        raise ConfigError(
            f"hydra/launcher={name}: needs a Slurm cluster, whose {' and '.join(lacking)} {is_or_are} not in PATH: start "
            "it on a machine from which you submit jobs; without Slurm hydra/launcher=submitit_local or hydra/launcher=joblib "
            "shares the runs out here"
        )


def left(sweep: Path) -> Times:
    """Where jobs left results below a sweep's folder, and when."""
    return {path: path.stat().st_mtime_ns for path in sweep.rglob(RESULT)}


def gather(sweep: Path, before: Times, asked: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The results of a sweep's jobs in their order, and of each that was asked for and left none, that it is missing.

    Args:
        before: what an earlier sweep left in the same folder.
        asked: what varies in each job, as far as it is known.
    """
    found = {told["job"]: told for path, when in left(sweep).items() if before.get(path) != when and (told := _read(path))}
    missing = {number: _missing(label) for number, label in enumerate(asked) if number not in found}
    return [told for _, told in sorted({**found, **missing}.items())]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_bytes())
    except ValueError:
        return None
    return told if isinstance(told, dict) and "job" in told and "status" in told else None


def _missing(label: str) -> dict[str, Any]:
    return {"name": label, "status": MISSING, "reason": "its job was killed, or is still at work"}


def shown(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results as JSON lines have them."""
    return [{key: value for key, value in result.items() if key not in UNSHOWN} for result in results]
