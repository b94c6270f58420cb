"""What chapter 3's figures measure, against answers known by hand; and what they declare."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_chapter_4 import looks, measured, module

from effdl.reproduce import artefact, published
from effdl.reproduce.claims import answered

FIGURES = ("fig-3.1", "fig-3.2", "fig-3.3", "fig-3.4", "fig-3.5")


def row(cell: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"cell": cell, **dict(part.split("=") for part in cell.split(",")), "seed": seed, **more}


def test_the_least_width_that_is_enough() -> None:
    enough = module("fig-3.1").enough
    assert enough({2: 0.5, 3: 0.98, 4: 0.97, 5: 0.9791, 6: 0.981, 32: 0.98}) == 5
    assert enough({2: 0.9791, 8: 0.98, 32: 0.98}) == 2 and enough({2: 0.9789, 8: 0.98, 32: 0.98}) == 8
    assert enough({8: 0.9, 32: 0.98}) == 32 and math.isnan(enough({8: 0.98}))


def test_accuracies_of_figure_3_1_are_those_of_their_reading() -> None:
    series = {f"quantised/{n}/test/acc": looks(value, first=3) for n, value in ((2, 0.5), (8, 0.9795))}
    rows = [
        *(row(f"reading=after,width={n}", series=series, **{"test/acc": 0.98}) for n in (2, 8, 32)),
        *(row(f"reading=during,width={n}", series={}, **{"test/acc": v}) for n, v in ((2, 0.9), (8, 0.97), (32, 0.98))),
        row("reading=after,width=32,initialisation=xavier", series={}, **{"test/acc": 0.9}),
    ]
    runs = measured("fig-3.1", rows)
    assert runs["accuracy"].tolist() == [0.5, 0.9795, 0.98, 0.9, 0.97, 0.98, 0.9]
    assert runs["enough"].tolist() == [8, 8, 8, 32, 32, 32, 32]


def test_correlation_is_pearsons_over_the_epochs_of_training() -> None:
    g, h = [0.5, 0.4, 0.3, 0.25], [3.0, 2.0, 2.5, 1.0]
    series = {
        f"gradient_rms/weights/{layer}": looks(9.0, *(k * x for x in g)) for layer, k in (("linear1", 0.1), ("linear2", 0.5))
    }
    series |= {"gradient_rms/weights/output": looks(9.0, *g)}
    series |= {
        f"weight_entropy/{bits}/{layer}": looks(0.0, *h) for bits in (4, 8) for layer in ("linear1", "linear2", "output")
    }
    found = measured("fig-3.2", [row("network=mlp", series=series)]).iloc[0]
    x, y = np.log2(np.array(g) + 1), np.array(h)
    by_hand = ((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std())
    assert found["correlation_output"] == pytest.approx(by_hand)
    assert found["correlation_least"] == min(found[f"correlation_{layer}"] for layer in ("linear1", "linear2", "output"))
    assert found["largest_fall"] == pytest.approx(0.5) and found["largest_step"] == pytest.approx(0.5)
    assert math.isnan(module("fig-3.2").correlation(pd.Series([1.0, 1.0]), pd.Series([1.0, 2.0])))


def test_entropies_of_figure_3_3() -> None:
    series = {}
    for bits in (4, 6, 8, 10):
        for layer, less in (("linear1", 1.0), ("linear2", 1.5), ("output", 2.0)):
            series[f"weight_entropy/{bits}/{layer}"] = looks(bits, bits - less, bits - less - 0.25)
            for fraction, error in (("0.01", 0.2), ("0.03", 0.05), ("0.1", 0.0)):
                off = error if layer != "output" else 4 * error
                series[f"weight_entropy/{bits}/{fraction}/{layer}"] = looks(
                    bits - off, bits - less - off, bits - less - 0.25 - off
                )
    found = measured("fig-3.3", [row("network=mlp", series=series)]).iloc[0]
    assert found["shift"] == pytest.approx(1) and found["above_bits"] == 0
    assert found["largest_change"] == -0.25
    assert (found["least_fraction_linear1"], found["least_fraction_output"], found["least_fraction"]) == (0.03, 0.1, 0.1)
    assert found["error_output"] == pytest.approx(0.2)


def test_figure_3_4_compares_runs_of_one_seed() -> None:
    series = {
        "test/acc": looks(0.9, 0.95, 0.97, 0.96, first=1),
        "quantised/c6m4/test/acc": looks(0.9, 0.97, 0.96, 0.95, first=1),
        "quantised/10/test/acc": looks(0.9, 0.9, 0.97, 0.96, first=1),
        "bit_rate/c6m4/codeword_bits": looks(99.0, 4.0, 3.0, 5.0, 4.0),
    }
    during = {"test/acc": looks(0.9, 0.9, 0.9, 0.98, first=1), "sync/codeword_bits": looks(4.0, 4.0, 4.0, 4.0, first=1)}
    rows = [row(f"reading=after,setting={name}", series=series) for name in ("baseline", "c6m4", "fixed10")]
    rows += [row("reading=during,setting=baseline", series=series), row("reading=during,setting=c6m4", series=during)]
    runs = measured("fig-3.4", rows).set_index("cell")
    after, other = runs.loc["reading=after,setting=c6m4"], runs.loc["reading=during,setting=c6m4"]
    assert (after["accuracy"], after["peak"], after["peak_epoch"], after["later"]) == (0.95, 0.97, 2, -1)
    assert after["reduction"] == pytest.approx(32 / 4 * 3 / 2) and math.isnan(other["reduction"])
    assert (other["accuracy"], other["highest_at"]) == (0.98, 4)
    assert math.isnan(other["peak_epoch"]) and math.isnan(other["later"]), "still rising when training ended: no peak"
    assert after["best_m"] == 0 and other["best_m"] == 4  # 0.96 of the fixed width; 0.98
    assert runs.loc["reading=after,setting=baseline", "reduction"] == 1


def test_rates_of_figure_3_5_are_means_over_the_epochs_of_training() -> None:
    keys = ("bits", "codeword_bits", "entropy", "raw_bits", "coded_bits")
    series = {f"bit_rate/c5m4/{key}": looks(50.0, 8.0 - i, 6.0 - i) for i, key in enumerate(keys)}
    series |= {"bit_rate/8/raw_bits": looks(8.0, 8.0, 8.08)}
    series |= {f"lossless/{how}/{layer}": looks(1.0, first=2) for how in ("lzw", "deflate") for layer in ("linear1", "linear2")}
    series |= {f"lossless/{how}/output": looks(1.5, first=2) for how in ("lzw", "deflate")}
    found = measured("fig-3.5", [row("reading=after,setting=c5m4", series=series)]).iloc[0]
    assert [found[name] for name in ("raw", "coded", "bound", "raw_packet", "coded_packet")] == [7, 6, 5, 4, 3]
    assert (found["raw_ratio"], found["coded_ratio"], found["side"]) == pytest.approx((32 / 7, 32 / 6, -0.5))
    assert found["saved_by_8"] == pytest.approx(1 - 8.04 / 32)
    assert found["lzw"] == pytest.approx((784 * 392 + 392 * 50 + 1.5 * 500) / (784 * 392 + 392 * 50 + 500))


def test_the_gap_of_rates_by_decay_is_that_after_the_last_epoch() -> None:
    series = {"bit_rate/c5m4/bits": looks(9.0, 8.0, 7.0), "bit_rate/c5m4/codeword_bits": looks(9.0, 6.0, 4.5)}
    found = measured("rates-by-decay", [row("decay=0.01", series=series), row("decay=0", series={})])
    assert [found.iloc[0][name] for name in ("raw", "coded", "gap")] == [7, 4.5, 2.5]
    assert found.iloc[1][["raw", "coded", "gap"]].isna().all()


def test_what_newer_networks_gain_is_told_against_their_own_accuracy() -> None:
    series = {"val/acc": looks(0.5, 0.8, first=1), "quantised/8/acc": looks(0.79, first=2)}
    series |= {"bit_rate/8/entropy": looks(7.5, 7.0, 6.0), "bit_rate/8/coded_bits": looks(8.0, 7.0)}
    series |= {"bit_rate/c5m4/coded_bits": looks(8.0, 6.5)}
    found = measured("carries-over", [row("network=cnn4", series=series)]).iloc[0]
    assert found["gain_8"] == pytest.approx(-0.01) and found["change"] == -1.5 and found["over_8"] == pytest.approx(-0.5)


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_cells_of_a_figure_share_one_search_and_the_baselines_runs(scale: str) -> None:
    for name, axis, baseline in (("fig-3.1", "width", "32"), ("fig-3.4", "setting", "baseline")):
        cells = {cell.name: cell for cell in artefact.load(name).cells(scale)}
        plain = [cell for cell in cells.values() if set(cell.at) == {"reading", axis}]
        assert len({cell.search.name for cell in plain if cell.search}) == 1 and all(cell.search for cell in plain)
        after, during = (cells[f"reading={reading},{axis}={baseline}"] for reading in ("after", "during"))
        ids = [
            {(spec.seed, spec.sync, spec.probe) for spec in artefact.specs(c, ["optimizer.lr=0.1"])} for c in (after, during)
        ]
        assert ids[0] == ids[1] and all(sync is None for _, sync, _ in ids[0])


def test_every_claim_of_the_chapter_is_answered_once_or_is_a_setting() -> None:
    claims = [claim for name in FIGURES for claim in artefact.load(name).artefact.claims.values()]
    named = [name for claim in claims for name in answered(claim)]
    printed = {name: line for name, line in published.claims().items() if name.startswith("ch3.")}
    settings = {f"ch3.recommended_{name}" for name in ("F", "M", "c")}
    assert set(printed) - set(named) == settings
    assert len(named) == len({*named})
