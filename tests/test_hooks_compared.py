"""Hooks that are compared send what closed forms say, all by the same count, and train the same network from the same start."""

import json
import runpy
import subprocess
import sys
from math import prod
from typing import Any

import pytest
from command import ROOT, environment

SCRIPT = str(ROOT / "scripts" / "bench_hooks.py")
BENCH = runpy.run_path(SCRIPT)
STEPS = 14
MATRICES = [(16, 25), (32, 16 * 25), (128, 32 * 2 * 2), (10, 128)]  # of 8×8 images, as rows and columns
BIASES = sum(rows for rows, _ in MATRICES)
RAW = 4 * (sum(map(prod, MATRICES)) + BIASES)
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    answer = tmp_path_factory.mktemp("hooks") / "found.json"
    command = [sys.executable, SCRIPT, "--dataset", "digits", "--steps", str(STEPS), "--seeds", "1", "--write", str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(answer.read_text())
    assert all(row["hook"] in done.stdout for row in rows)
    return {row["hook"]: row for row in rows}


def settled(row: dict[str, Any]) -> int:
    """Bytes of the last step, which are those of all ranks."""
    ranks = [bytes_[-1] for bytes_ in row["bytes"]]
    assert len(ranks) == 2 and len(set(ranks)) == 1
    return int(ranks[0])


def test_all_that_the_issue_names_are_compared(found: Found) -> None:
    assert {"none", "fp16", "bf16", "PowerSGD, rank 1", "PowerSGD, rank 2", "plain, 8 bits"} < set(found)
    assert set(found) == set(BENCH["HOOKS"])


def test_dense_hooks_send_what_their_numbers_take(found: Found) -> None:
    for name, expected in (("none", RAW), ("fp16", RAW // 2), ("bf16", RAW // 2)):
        assert found[name]["bytes"] == [[expected] * STEPS] * 2  # of two ranks each sends all of it once


@pytest.mark.parametrize("rank", [1, 2])
def test_powersgd_sends_two_thin_matrices_for_each_that_is_large(rank: int, found: Found) -> None:
    thin = [rank * (n + m) if 2 * rank * (n + m) < n * m else n * m for n, m in MATRICES]
    first, last = BENCH["START"], STEPS - BENCH["START"]
    expected = [RAW] * first + [4 * (sum(thin) + BIASES)] * last
    assert found[f"PowerSGD, rank {rank}"]["bytes"] == [expected] * 2 and min(first, last) > 0


def test_packets_are_counted_as_their_hook_counts_them(found: Found) -> None:
    for name, how in BENCH["HOOKS"].items():
        assert (found[name]["sent"] is None) == (not isinstance(how, dict))
        if isinstance(how, dict):
            assert [sum(bytes_) for bytes_ in found[name]["bytes"]] == found[name]["sent"]
    plain = settled(found["plain, 8 bits"])
    assert plain == found["plain, 8 bits"]["bytes"][0][0], "it depends on no values"
    least = sum(map(prod, MATRICES)) + 4 * BIASES
    assert least < plain < least + 2000 < RAW / 2  # beside the levels, ranges and names
    assert max(settled(found[name]) for name in ("auto, 8 bits", "auto, 4 bits", "auto, 6 bits, share 0.05")) < plain


def test_all_begin_alike_and_ranks_end_alike(found: Found) -> None:
    assert len({row["first_loss"] for row in found.values()}) == 1
    for row in found.values():
        assert row["ranks_agree"] and 0 < row["loss"] < row["first_loss"] + 0.5
    assert found["fp16"]["loss"] == pytest.approx(found["none"]["loss"], rel=0.02)
    coded = {found[f"{coder}, 8 bits"]["weights_sum"] for coder in ("plain", "huffman", "auto")}
    others = [row["weights_sum"] for name, row in found.items() if not name.endswith(", 8 bits")]
    assert len(coded) == 1 and len(coded | set(others)) == 1 + len(others) == len(found) - 2  # coding loses nothing more
