"""Are this tree's numbers those of another commit, bit for bit? `make same BASE=main` runs a few cases with both.

A case is a run of the default digits problem; what is compared is every metric but what the machine says (times, the process's
memory), and the digest of the weights.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from effdl.records.process import of_the_machine

CASES = [
    ["method=backprop", "method.epochs=2"],
    ["method=backprop", "method.checkpoint=block", "arch=vgg13_bn", "dataset.train_limit=128", "method.epochs=1"],
    ["method=dll", "method.epochs=2", "method.input_dropout=0.5", "method.gradient_dropout=0.5", "optimizer=adamw"],
    ["method=dll", "method/decision=down_conv", "method.epochs=2", "method.keep_features_mib=0"],
    ["dataset=sine", "objective=linear_mse", "arch=mlp", "method.epochs=2", "optimizer.lr=0.01"],
]


def numbers(tree: Path, results: Path, case: list[str]) -> dict[str, Any]:
    """Everything a run reports but its times, its process and its name."""
    command = [sys.executable, "run.py", *case, "hardware.threads=1", f"results={results}"]
    done = subprocess.run(command, cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed in {tree}: {done.stderr.strip()}")
    run = json.loads(done.stdout.splitlines()[-1])
    lines = [json.loads(line) for line in (Path(run["path"]) / "metrics.jsonl").read_text().splitlines()]
    keep = [{k: v for k, v in part.items() if not of_the_machine(k)} for part in (run["summary"], *lines)]
    return {"summary": keep[0], "metrics": keep[1:]}


def main() -> int:
    base = sys.argv[1] if len(sys.argv) > 1 else "main"
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "base"
        subprocess.run(["git", "-C", str(here), "worktree", "add", "--quiet", "--detach", str(other), base], check=True)
        try:
            moved = 0
            for i, case in enumerate(CASES):
                same = numbers(here, Path(folder) / f"ours{i}", case) == numbers(other, Path(folder) / f"base{i}", case)
                print("same " if same else "MOVED", " ".join(case), flush=True)
                moved += not same
        finally:
            subprocess.run(["git", "-C", str(here), "worktree", "remove", "--force", str(other)], check=True)
    return moved


if __name__ == "__main__":
    sys.exit(main())
