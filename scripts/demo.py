"""The main job on real data: layer-wise learning, backprop, and backprop with checkpointing on handwritten digits.

`make demo` runs it: three methods × three seeds of a small CNN, then one table. Exit code 1 if a row misses 95%.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console as RichConsole
from rich.table import Table

from effdl.config import build, compose
from effdl.errors import EffdlError
from effdl.records.execute import execute
from effdl.records.report import Console, duration, size

METHODS = {
    "backprop": ["method=backprop"],
    "backprop, checkpointing": ["method=backprop", "method.checkpoint=block"],
    "layer-wise (DLL)": ["method=dll"],
}
SEEDS = (0, 1, 2)
FLOOR = 0.95


def main() -> int:
    begin = time.perf_counter()
    root = Path("results")
    composed = {name: build(compose(overrides)) for name, overrides in METHODS.items()}
    cells = [(name, seed) for name in METHODS for seed in SEEDS]
    from dataclasses import replace

    specs = [replace(composed[name], seed=seed) for name, seed in cells]
    with Console(len(specs)) as console:
        results = execute(specs, root, os.cpu_count() or 1, console)
    runs = pd.DataFrame(
        [{"method": name, **result, **result.get("summary", {})} for (name, _), result in zip(cells, results, strict=True)]
    )
    if (bad := runs[runs["status"] != "finished"]).size:
        print(f"effdl: {bad.iloc[0]['name']}: {bad.iloc[0]['status']}: {bad.iloc[0].get('reason')}", file=sys.stderr)
        return 1
    show(runs)
    out = RichConsole(soft_wrap=True, highlight=False)
    out.print(
        f"Records: {root / 'runs'}/<run_id>/ (spec, metrics by epoch, network). Total {duration(time.perf_counter() - begin)}."
    )
    missed = [name for name, group in runs.groupby("method") if group["test/acc"].mean() < FLOOR]
    for name in missed:
        print(f"effdl: {name} missed {FLOOR:.0%}", file=sys.stderr)
    return bool(missed)


def show(runs: pd.DataFrame) -> None:
    """One row a method; spread is the standard deviation over seeds."""
    table = Table(title="CNN with 3 convolutions on scikit-learn's handwritten digits, 1,200 training images")
    for column in ("method", "test accuracy", "peak training memory", "of backprop", "training time", "data passes"):
        table.add_column(column, justify="left" if column == "method" else "right")
    full = runs.loc[runs["method"] == "backprop", "memory/accounted_peak_bytes"].max()
    for name in METHODS:
        group: Any = runs[runs["method"] == name]
        accuracy = 100 * group["test/acc"]
        peak = group["memory/accounted_peak_bytes"].max()
        passes = f"{group['data/train_passes'].iloc[0]} + {group['data/feature_passes'].iloc[0]}"
        table.add_row(
            name,
            f"{accuracy.mean():.2f} ± {accuracy.std():.2f} % (n={len(group)})",
            size(peak),
            f"{peak / full:.0%}",
            f"{group['time/train_s'].mean():.1f} s",
            passes,
        )
    RichConsole().print(table)
    kept = size(runs.loc[runs["method"] == "layer-wise (DLL)", "memory/kept_features_bytes"].max())
    print(
        "± is the standard deviation over seeds. Memory: bytes alive at the worst moment of a training step at batch size 64,"
    )
    print(f"counted, feednet included; outputs of trained layers kept between epochs ({kept}) can be switched off")
    print("(method.keep_features_mib=0). Data passes: training epochs over all layers + forward passes for kept outputs.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffdlError as error:
        print(f"effdl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("effdl: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
