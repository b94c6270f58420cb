"""The main job on real data: layer-wise learning, backprop, and backprop with checkpointing on handwritten digits.

`make demo` runs it: three methods × three seeds of a small CNN, then one table; exit code 1 if a row misses 95%. `make readme`
writes the same table, without times, into the README.
"""

import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console as RichConsole
from rich.table import Table

from effdl.config import build, compose
from effdl.errors import EffdlError
from effdl.records.execute import execute
from effdl.records.report import Console, duration, size

METHODS = {  # full backprop; the same with activations recomputed block by block; deep layer-wise learning
    "backprop": ["method=backprop"],
    "checkpointed": ["method=backprop", "method.checkpoint=block"],
    "DLL": ["method=dll"],
}
SEEDS = (0, 1, 2, 3, 4)
FLOOR = 0.95
ROOT = Path("results")
README = Path(__file__).parents[1] / "README.md"
NOTE = """\
Means over {n} seeds, ± their standard deviation. Memory: the peak of bytes alive in a training step at batch size 64, counted
as the thesis does: weights, gradients, momentum and activations of what is being trained, and the feednet below it; share: of
full backprop's. Resident: with what lies in memory beside it, the layers not yet reached and the outputs kept between
epochs (method.keep_features_mib=0 recomputes those instead). Checkpointed: backprop that recomputes activations. Passes:
training epochs over all layers + forward passes for kept outputs."""


def main() -> int:
    begin = time.perf_counter()
    composed = {name: build(compose(overrides)) for name, overrides in METHODS.items()}
    cells = [(name, seed) for name in METHODS for seed in SEEDS]
    specs = [replace(composed[name], seed=seed) for name, seed in cells]
    with Console(len(specs)) as console:
        results = execute(specs, ROOT, os.cpu_count() or 1, console)
    for result in results:
        if result["status"] != "finished":
            print(f"effdl: {result['name']}: {result['status']}: {result['reason']}", file=sys.stderr)
            return 1
    runs = pd.DataFrame([{"method": name, **r["summary"]} for (name, _), r in zip(cells, results, strict=True)])
    table = summarise(runs)
    note = NOTE.format(n=len(SEEDS))
    if "--readme" in sys.argv:
        write_readme(table.drop(columns="wall"), note)
        return 0
    show(table, note)
    print(f"Records: {ROOT / 'runs'}/<run_id>/ (config, metrics by epoch, network).")
    print(f"All in {duration(time.perf_counter() - begin)}.")
    missed = runs.groupby("method")["test/acc"].mean().loc[lambda accuracy: accuracy < FLOOR]
    for name, accuracy in missed.items():
        print(f"effdl: {name}: test accuracy {accuracy:.1%} is below {FLOOR:.0%}", file=sys.stderr)
    return int(len(missed) > 0)


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method, ready to print; spread is the standard deviation over seeds."""
    full = runs.loc[runs["method"] == "backprop", "memory/accounted_peak_bytes"].max()
    rows = []
    for name in METHODS:
        group = runs[runs["method"] == name]
        accuracy, peak = 100 * group["test/acc"], group["memory/accounted_peak_bytes"].max()
        rows.append(
            {
                "method": name,
                "test acc %": f"{accuracy.mean():.2f} ± {accuracy.std():.2f}",
                "memory": size(peak),
                "share": f"{peak / full:.0%}",
                "resident": size(group["memory/resident_peak_bytes"].max()),
                "wall": f"{group['time/wall_s'].mean():.1f} s",
                "passes": f"{group['data/train_passes'].iloc[0]} + {group['data/feature_passes'].iloc[0]}",
            }
        )
    return pd.DataFrame(rows)


def show(table: pd.DataFrame, note: str) -> None:
    shown = Table(title="Three convolutions, 1,200 handwritten digits to train on", box=box.SIMPLE_HEAD)
    for column in table.columns:
        shown.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        shown.add_row(*map(str, row))
    RichConsole(highlight=False).print(shown)
    print(note)


def write_readme(table: pd.DataFrame, note: str) -> None:
    """Replace what stands between the README's markers."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n\n" + note
    block = f"<!-- demo -->\n{text}\n<!-- /demo -->"
    README.write_text(re.sub(r"<!-- demo -->.*<!-- /demo -->", lambda _: block, README.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffdlError as error:
        print(f"effdl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("effdl: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
