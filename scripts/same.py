"""Are this tree's numbers those of another commit, bit for bit? `make same BASE=main` runs a few cases with both.

A case is a run of the default digits problem; what is compared is every metric but what the machine says (times, the process's
memory), and the digest of the weights. Where the base cannot carry a case out, that is said, and it does not count.

`python scripts/same.py main cut off` takes the cases alone in whose line these words stand.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from effdl.records.process import of_the_machine

DROPOUTS = ("method.input_dropout=0.5", "method.gradient_dropout=0.5")
SOME_FEATURES = "method.keep_features_mib=3"  # those of cnn4's two middle blocks do not fit


@dataclass(frozen=True)
class Case:
    """overrides: of the command line. processes: that train together. stops: saves after which the run is cut off and begun
    again."""

    overrides: tuple[str, ...]
    processes: int = 1
    stops: tuple[int, ...] = ()

    def __str__(self) -> str:
        marks = [f"by {self.processes} processes"] * (self.processes > 1) + [f"cut off at save {at}" for at in self.stops]
        return " ".join([*self.overrides, *([f"({', '.join(marks)})"] if marks else [])])


CASES = [
    Case(("method=backprop", "method.epochs=2")),
    Case(("method=backprop", "method.checkpoint=block", "arch=vgg13_bn", "dataset.train_limit=128", "method.epochs=1")),
    Case(("method=dll", "method.epochs=2", *DROPOUTS, "optimizer=adamw")),
    Case(("method=dll", "method/decision=down_conv", "method.epochs=2", "method.keep_features_mib=0")),
    Case(("method=dll", "method.epochs=2", SOME_FEATURES, "method.segment_size=2", "method.choose=last")),
    Case(("method=dll", "method.epochs=[3,6]", "method.patience=1", "optimizer.lr=0.2")),
    Case(("method=dll", "filter=random_subset", "filter.share=0.4", "method.epochs=2")),
    Case(("method=dll", "augment=standard", "method.epochs=2", "optimizer/schedule=multi_step")),
    Case(("method=dll", "augment=cutout", "augment.cutout=4", "filter=random_subset", "method.epochs=2", "probe=stable_rank")),
    Case(("method=dll", "hardware.precision=bf16", "method.epochs=2", SOME_FEATURES)),
    Case(("method=dll", "method.epochs=3", *DROPOUTS, SOME_FEATURES, "optimizer=adamw"), stops=(1, 5)),
    Case(("method=backprop", "method.epochs=3", "augment=standard"), stops=(2,)),
    Case(("method=dll", "method.epochs=2", *DROPOUTS, "filter=random_subset"), processes=2),
    Case(("dataset=sine", "objective=linear_mse", "arch=mlp", "method.epochs=2", "optimizer.lr=0.01")),
    Case(("method=platonic", "arch=mlp", "arch.hidden=[50,40]")),
]

# A run in a process that ends as abruptly as a kill at its n-th save, with a checkpoint of each.
CUT_OFF = """
import os, sys
from pathlib import Path
from effdl import config
from effdl.records.carry import carry_out
from effdl.records.run import Run
save, saves = Run.save, []
def counted(self, state):
    self._saved_at = float("-inf")
    save(self, state)
    saves.append(1)
    if len(saves) == int(sys.argv[1]):
        os._exit(9)
Run.save = counted
carry_out(config.build(config.compose(sys.argv[3:])), Path(sys.argv[2]))
"""


def numbers(tree: Path, results: Path, case: Case) -> dict[str, Any] | str:
    """Everything a run reports but its times, its process and its name; or why it reports nothing."""
    threads = () if case.processes > 1 else ("hardware.threads=1",)
    overrides = [*case.overrides, *threads]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={case.processes}"]
    command = [
        *(launcher if case.processes > 1 else ()),
        "run.py",
        *(("hardware=ddp",) if case.processes > 1 else ()),
        *overrides,
    ]
    for stop in case.stops:
        if _run(tree, "-c", CUT_OFF, str(stop), str(results), *overrides).returncode != 9:
            return f"was not cut off at save {stop}"
    done = _run(tree, *command)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    run = json.loads(done.stdout.splitlines()[-1])
    lines = [json.loads(line) for line in (Path(run["path"]) / "metrics.jsonl").read_text().splitlines()]
    keep = [{k: v for k, v in part.items() if not of_the_machine(k)} for part in (run["summary"], *lines)]
    return {"summary": keep[0], "metrics": keep[1:]}


def _run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    where = {"PYTHONPATH": str(tree), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=tree, env=where, capture_output=True, text=True, check=False)


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The first key that is not alike."""
    for place, (a, b) in enumerate(
        zip([ours["summary"], *ours["metrics"]], [theirs["summary"], *theirs["metrics"]], strict=False)
    ):
        for key in {**b, **a}:
            if a.get(key) != b.get(key):
                return f"{key}{f' of line {place}' if place else ''}: {b.get(key)} is now {a.get(key)}"
    return "another number of lines"


def main() -> int:
    base = sys.argv[1] if len(sys.argv) > 1 else "main"
    chosen = [case for case in CASES if all(word in str(case) for word in sys.argv[2:])]
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        other, number = Path(folder) / "base", count()
        subprocess.run(["git", "-C", str(here), "worktree", "add", "--quiet", "--detach", str(other), base], check=True)
        try:
            moved = 0
            for case in chosen:
                ours, theirs = (numbers(tree, Path(folder) / str(next(number)), case) for tree in (here, other))
                if isinstance(theirs, str):
                    print(f"new   {case} ({base} says: {theirs})", flush=True)
                elif isinstance(ours, str):
                    print(f"FAILS {case}: {ours}", flush=True)
                else:
                    said = f": {difference(ours, theirs)}" if ours != theirs else ""
                    print("MOVED" if said else "same ", f"{case}{said}", flush=True)
                moved += isinstance(theirs, dict) and ours != theirs
        finally:
            subprocess.run(["git", "-C", str(here), "worktree", "remove", "--force", str(other)], check=True)
    return moved


if __name__ == "__main__":
    sys.exit(main())
