"""The cost that is printed before a run, against what the run then took. Alone on the machine, so in the slow tier."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MNIST = Path(os.environ.get("EFFDL_DATA", "data")) / "MNIST" / "raw"
needs_mnist = pytest.mark.skipif(
    not MNIST.is_dir(), reason="no MNIST: set EFFDL_DATA to a folder that holds it, or run once with dataset.download=true"
)
PAIRS = {
    "cnn4-digits": ["arch=cnn4", "dataset=digits", "method.epochs=20"],
    "mlp-mnist": ["arch=mlp", "dataset=mnist", "dataset.train_limit=20000", "method=backprop", "method.epochs=5"],
    "vgg13_bn-mnist": [
        "arch=vgg13_bn",
        "dataset=mnist",
        "dataset.train_limit=640",
        "dataset.val_size=128",
        "method.epochs=2",
        "test_every=run",
    ],
}
UNITS = {"s": 1, "min": 60, "h": 3600}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("name", [pytest.param(name, marks=[needs_mnist] if "mnist" in name else []) for name in PAIRS])
def test_printed_cost_is_within_three_times_of_what_it_took(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "run.py", *PAIRS[name], f"results={tmp_path / 'results'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = re.search(r"about ([0-9.]+) (s|min|h) on this machine", done.stderr)
    assert printed, done.stderr
    estimate = float(printed[1]) * UNITS[printed[2]]
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    took = sum(summary.get(f"time/{part}_s", 0.0) for part in ("train", "feed", "eval", "test"))
    assert took / 3 < estimate < took * 3, f"printed {estimate:.1f} s, took {took:.1f} s"
