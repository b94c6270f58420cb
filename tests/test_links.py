"""What averaging is foretold to take is what it takes on a link of 10 Mbit/s between two network namespaces."""

import math
import runpy
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, environment

from effdl.errors import EffdlError
from effdl.reproduce import link_table

SCRIPT = str(ROOT / "scripts" / "bench_links.py")


def left() -> list[str]:
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    return [name for name in there if name.startswith("effdl-")]


@pytest.mark.slow
@pytest.mark.alone
def test_on_a_slow_link_it_takes_what_was_foretold() -> None:
    bench = runpy.run_path(SCRIPT)
    try:
        with bench["link"]("10Mbit"):
            pass
    except EffdlError as error:
        pytest.skip(f"no network namespaces with shaped links here: {error}")
    rows = bench["measure"]("10Mbit", ["784-392-50-10"], ["tensors", "zstd, 8 bits"], exchanges=5)
    assert [row["form"] for row in rows] == ["tensors", "zstd, 8 bits"] and left() == []
    for row in rows:
        assert len(row["measured_s"]) == 5 and 0.8 <= row["predicted_s"] / statistics.median(row["measured_s"]) <= 1.25, row
    assert rows[0]["packet_bytes"] == 4 * (785 * 392 + 393 * 50 + 51 * 10) > 3 * rows[1]["packet_bytes"]


@pytest.mark.slow
def test_without_the_rights_it_is_refused_in_a_line() -> None:
    own = environment(PATH="/nowhere")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=own)
    assert done.returncode == 1
    assert done.stderr == "bench links: network namespaces need root, and ip and tc of iproute2\n"


# --- what is not measured


def line(rate: str, form: str, encode_s: float) -> dict[str, Any]:
    place = {"link": rate, "workers": 2, "network": "784-1000-200-10", "form": form, "measured_s": [0.5]}
    coded = {"packet_bytes": 1_000_000, "encode_s": encode_s, "decode_s": 0.002, "latency_s": 0.004, "mean_s": 0.001}
    return {**place, **coded, "own_bytes_per_s": None, "predicted_s": 0.5, "provenance": {"commit": "then"}}


def test_faster_links_and_more_workers_are_foretold_from_coding_on_all_links() -> None:
    measured = [line(rate, "zstd, 8 bits", encode_s) for rate, encode_s in (("10Mbit", 0.1), ("100Mbit", 0.2), ("1Gbit", 0.9))]
    own, frames = 5e8, 1538 / 1448
    told = runpy.run_path(SCRIPT)["foretold"](measured, own, {"commit": "now"})
    assert [(one["link"], one["workers"]) for one in told] == [
        ("10Gbit", 2),
        *((rate, 8) for rate in ("10Mbit", "100Mbit", "1Gbit", "10Gbit")),
    ]
    for one in told:
        assert one["measured_s"] == [] and one["provenance"] == {"commit": "now"}
        others = one["workers"] - 1
        byte_s = {"10Mbit": 8e-7, "100Mbit": 8e-8, "1Gbit": 8e-9, "10Gbit": 0}[one["link"]] * frames or 1 / own
        expected = 0.2 + 0.004 + others * 1_000_008 * byte_s + one["workers"] * 0.003
        assert math.isclose(one["predicted_s"], expected, rel_tol=1e-9), one
    assert not [one for one in runpy.run_path(SCRIPT)["foretold"](measured, 5e9, {}) if one["workers"] == 2], (
        "it can be measured"
    )


def test_a_link_that_is_measured_again_takes_the_place_of_what_was_kept_of_it(tmp_path: Path) -> None:
    keep = runpy.run_path(SCRIPT)["keep"]
    keep(tmp_path, [line("1Gbit", "zstd, 8 bits", 0.1), line("1Gbit", "float16", 0.1)], 5e8)
    keep(tmp_path, [line("10Mbit", "zstd, 8 bits", 0.2)], 5e8)
    keep(tmp_path, [line("1Gbit", "zstd, 8 bits", 0.4)], 5e8)
    kept = [one for one in link_table.read(tmp_path) if one["measured_s"]]
    assert [(one["link"], one["encode_s"]) for one in kept] == [("10Mbit", 0.2), ("1Gbit", 0.4)]
    told = [one for one in link_table.read(tmp_path) if not one["measured_s"]]
    assert {one["form"] for one in told} == {"zstd, 8 bits"} and {one["encode_s"] for one in told} == {
        statistics.median((0.2, 0.4))
    }
