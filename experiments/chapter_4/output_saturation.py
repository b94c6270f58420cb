"""What is measured of saturation: how many outputs have no error left, look by look."""

import pandas as pd
from matplotlib.figure import Figure

from effdl.reproduce.series import Series, curve, lists

NEAR = 0.01  # of 0; deltas of softmax lie between −1 and 1


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Adds saturated and saturated_at_half, the share of outputs whose delta is within a hundredth of 0 after the last epoch
    and after half of them, growth between the two, and delta_rms after the last."""
    series = list(runs.get("series", [None] * len(runs)))
    return runs.join(pd.DataFrame([numbers(one) for one in series], index=runs.index))


def numbers(series: Series | None) -> dict[str, float]:
    by_epoch, rms = shares(series), curve(series, "output_deltas/rms")
    nan = float("nan")
    if not by_epoch:
        return dict.fromkeys(("saturated", "saturated_at_half", "growth", "delta_rms"), nan)
    last = max(by_epoch)
    found = {"saturated": by_epoch[last], "saturated_at_half": by_epoch.get(last // 2, nan)}
    return {**found, "growth": found["saturated"] - found["saturated_at_half"], "delta_rms": rms[-1][1]}


def shares(series: Series | None) -> dict[int, float]:
    """By epochs behind: of deltas the share in bins whose middle is within a hundredth of 0."""
    low, high, count = (lists(series, f"output_deltas/{name}") for name in ("low", "high", "count"))
    near = {epoch: abs(low[epoch] + high[epoch]) / 2 <= NEAR for epoch in count}
    return {epoch: float(count[epoch][near[epoch]].sum() / count[epoch].sum()) for epoch in count}


def draw(declaration, scale: str, runs: pd.DataFrame) -> Figure:
    """Each run's share of saturated outputs over epochs."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for i, network in enumerate(declaration.artefact.axes["network"]):
        own = runs[(runs["cell"] == f"network={network}") & (runs["status"] == "finished")]
        for n, series in enumerate(own.get("series", [])):
            found = shares(series)
            label = f"{declaration.label('network', network)} (n {len(own)})" if n == 0 else None
            axes.plot(list(found), [100 * share for share in found.values()], color=f"C{i}", label=label)
    axes.set(xlabel="epochs", ylabel="outputs with a delta within 0.01 (percent)")
    if axes.get_lines():
        axes.legend(frameon=False, fontsize=7)
    return figure
