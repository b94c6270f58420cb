"""What averaging is foretold to take is what it takes on a link of 10 Mbit/s between two network namespaces."""

import runpy
import subprocess
import sys

import pytest
from command import ROOT, environment

from effdl.errors import EffdlError

SCRIPT = str(ROOT / "scripts" / "bench_links.py")


def left() -> list[str]:
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    return [name for name in there if name.startswith("effdl-")]


@pytest.mark.slow
def test_on_a_slow_link_it_takes_what_was_foretold() -> None:
    bench = runpy.run_path(SCRIPT)
    try:
        with bench["link"]("10Mbit"):
            pass
    except EffdlError as error:
        pytest.skip(f"no network namespaces with shaped links here: {error}")
    rows = bench["measure"]("10Mbit", ["784-392-50-10"], ["tensors", "zstd, 8 bits"], exchanges=3)
    assert [row["form"] for row in rows] == ["tensors", "zstd, 8 bits"] and left() == []
    for row in rows:
        assert 0.8 <= row["predicted_s"] / row["measured_s"] <= 1.25, row
    assert rows[0]["packet_bytes"] == 4 * (785 * 392 + 393 * 50 + 51 * 10) > 3 * rows[1]["packet_bytes"]


@pytest.mark.slow
def test_without_the_rights_it_is_refused_in_a_line() -> None:
    own = environment(PATH="/nowhere")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=own)
    assert done.returncode == 1
    assert done.stderr == "bench links: network namespaces need root, and ip and tc of iproute2\n"
