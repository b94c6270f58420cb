"""What weight decay does to bits a parameter, raw and coded, at c = 5, M = 4."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from effdl.reproduce.series import Series, curve

KEYS = {"raw": "bit_rate/c5m4/bits", "coded": "bit_rate/c5m4/codeword_bits"}


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds raw and coded after the last epoch, and gap, the former less the latter."""
    return runs.join(pd.DataFrame([of_run(one) for one in runs.get("series", [None] * len(runs))], index=runs.index))


def of_run(series: Series | None) -> dict[str, float]:
    found = {rate: points[-1][1] if (points := curve(series, key)) else float("nan") for rate, key in KEYS.items()}
    return found | {"gap": found["raw"] - found["coded"]}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Raw bits dashed and coded ones solid over epochs, by weight decay; means over runs."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for i, decay in enumerate(declaration.artefact.axes["decay"]):
        own = runs[(runs["cell"] == f"decay={decay}") & (runs["status"] == "finished")]
        for rate, style in zip(KEYS, ("--", "-"), strict=True):
            of_runs = [pd.Series(dict(curve(series, KEYS[rate])), dtype=float) for series in own.get("series", [])]
            if of_runs:
                means = pd.concat(of_runs, axis=1).mean(axis=1)
                label = f"{rate}, decay {declaration.label('decay', decay)} (n {len(own)})"
                axes.plot(means.index, means, style, color=f"C{i}", label=label)
    axes.set(xlabel="epochs", ylabel="bits a parameter", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_lines():
        figure.legend(frameon=False, fontsize=6, loc="outside right")
    return figure
