"""What averaging is foretold to take, against equations worked out by hand, and `effdl plan --link` as its users call it."""

import json
import math
from typing import Any

import pytest
import torch

from effdl import commands, config
from effdl.compression import encode
from effdl.costs.exchange import FRAMED, Coded, Exchange, loopback, mean_seconds, measured
from effdl.records.exchanging import exchanging
from effdl.training.ranks import SWAP_HEAD
from effdl.training.wire import Wire

MLP = ("dataset=digits", "arch=mlp", "arch.hidden=[60,30]", "method=backprop", "sync=averaging", "sync.every=4")
WEIGHTS = 64 * 60 + 60 + 60 * 30 + 30 + 30 * 10 + 10
FORMS = ["tensors", "lossless", "float16", "bfloat16", "plain, 8 bits", "huffman", "zstd", "auto"]
MEGABYTE = Coded(10**6 - SWAP_HEAD, encode_s=0.5, decode_s=0.25)
HALF_OF_IT = Coded(10**6 // 2 - SWAP_HEAD, encode_s=1.0, decode_s=0.5)
LINK = 8e6 * FRAMED  # a megabyte of content a second


def test_by_hand() -> None:
    how = Exchange(3, LINK, latency_s=0.25, mean_s=0.125, every=10, step_s=0.1)
    assert how.transfer_s(MEGABYTE.packet_bytes) == pytest.approx(0.25 + 2.0)  # to two others
    assert how.seconds(MEGABYTE) == pytest.approx(0.5 + 2.25 + 3 * (0.25 + 0.125))
    assert how.share(MEGABYTE) == pytest.approx(3.875 / 4.875)
    assert how.seconds(HALF_OF_IT) == pytest.approx(1.0 + 1.25 + 3 * (0.5 + 0.125))
    assert how.times_as_fast(HALF_OF_IT, MEGABYTE) == pytest.approx(4.875 / 5.125)


def test_a_fast_link_moves_no_more_than_a_processor_does() -> None:
    assert Exchange(2, 1e15, own=2e6).transfer_s(MEGABYTE.packet_bytes) == pytest.approx(0.5)
    assert Exchange(2, LINK, own=2e6).transfer_s(MEGABYTE.packet_bytes) == pytest.approx(1.0)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_on_the_link_of_break_even_both_take_as_long(workers: int) -> None:
    link = Exchange(workers, LINK).break_even(HALF_OF_IT, MEGABYTE)
    # Half a megabyte less to each other, for half a second more and a quarter more of each packet
    assert link == pytest.approx(LINK * 0.5 * (workers - 1) / (0.5 + 0.25 * workers))
    at = Exchange(workers, link, latency_s=0.3, mean_s=0.1)
    assert at.seconds(HALF_OF_IT) == pytest.approx(at.seconds(MEGABYTE))
    slower, faster = Exchange(workers, link / 2), Exchange(workers, link * 2)
    assert slower.seconds(HALF_OF_IT) < slower.seconds(MEGABYTE) and faster.seconds(HALF_OF_IT) > faster.seconds(MEGABYTE)


def test_no_break_even() -> None:
    how = Exchange(2, LINK)
    assert how.break_even(MEGABYTE, HALF_OF_IT) == how.break_even(MEGABYTE, MEGABYTE) == 0
    assert how.break_even(Coded(10, 0.5, 0.25), MEGABYTE) == math.inf


def test_a_form_is_measured_on_the_tensors() -> None:
    tensors = {"w": torch.randn(300, 200), "b": torch.randn(300)}
    found = measured(Wire("huffman", 6), tensors, budget=0.01)
    assert found.packet_bytes == len(encode(tensors, 6, "huffman")) and 0 < found.decode_s < 5 and 0 < found.encode_s < 5
    assert 0 < mean_seconds(tensors, budget=0.01) < 1
    assert measured(Wire("tensors"), tensors, budget=0.01).packet_bytes == 4 * (300 * 200 + 300)


def test_what_the_loopback_moves_is_more_than_a_disk_and_less_than_memory() -> None:
    found = loopback()
    assert 2e7 < found.bytes_per_s < 1e11 and 1e-6 < found.latency_s < 1


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        commands.main(["plan", *arguments])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    spec = config.build(config.compose([*MLP, "sync.form=huffman", "sync.bits=6", "hardware.threads=1"]))
    told: dict[str, Any] = json.loads(json.dumps(exchanging(spec, 1e7, 4).to_json()))
    return told


def test_its_numbers_are_those_of_the_model_and_its_batches(found: dict[str, Any]) -> None:
    forms = found["forms"]
    assert list(forms) == [f"{form}, 6 bits" if form in FORMS[5:] else form for form in FORMS]
    assert [form for form, one in forms.items() if one["chosen"]] == ["huffman, 6 bits"] == [found["chosen"]]
    assert found["weights"] == WEIGHTS and forms["tensors"]["packet_bytes"] == 4 * WEIGHTS
    batch = config.build(config.compose([*MLP])).dataset.facts().batch_size
    assert found["samples"] == batch // 4 and found["every"] == found["changed"] == 4 and found["step_s"] > 0
    half = 2 * WEIGHTS
    assert half < forms["float16"]["packet_bytes"] == forms["bfloat16"]["packet_bytes"] < half + 1000
    assert forms["huffman, 6 bits"]["packet_bytes"] < forms["plain, 8 bits"]["packet_bytes"] < half
    for one in forms.values():
        way = 3 * (one["packet_bytes"] + 8) * 8 * FRAMED / 1e7
        assert one["transfer_s"] == pytest.approx(found["latency_s"] + way) and 0 < found["latency_s"] < 1
        beside = 4 * found["mean_s"] + one["encode_s"] + 4 * one["decode_s"]
        assert one["exchange_s"] == pytest.approx(one["transfer_s"] + beside)
        assert one["share"] == pytest.approx(one["exchange_s"] / (one["exchange_s"] + 4 * found["step_s"]))
        assert one["pays"] == (one["exchange_s"] < forms["tensors"]["exchange_s"])
        assert one["break_even_bits_per_s"] is None or one["break_even_bits_per_s"] >= 0
    assert found["predicted"] == ["4 workers"] and found["auto"] in ("zstd", "huffman", "ans", "plain")


def test_a_table_of_forms_of_the_largest_segment(capsys: pytest.CaptureFixture[str]) -> None:
    layerwise = [one.replace("backprop", "dll") for one in MLP]
    code, out, err = plan(capsys, *layerwise, "sync.sends=weights", "--link", "10kbit", "--workers", "2")
    lines = out.splitlines()
    assert code == 0 and err.startswith("effdl: ") and lines[0].endswith(": 2 workers, 10 kbit/s each")
    assert ", those of segment 1 of " in lines[1] and lines[1].endswith("Lossy forms hold the weights; exact ones, weights.")
    assert "Predicted" not in out and [line.split(" ", 2)[:2] for line in lines if line.startswith("* ")] == [["*", "lossless"]]
    assert lines[-3].startswith("lossless does not pay: ") and lines[-2] == "It pays on no link."
    assert lines[-1].startswith("The fastest here is ") and " times as fast." in lines[-1]


MISTAKES = {
    "no link": ((*MLP, "--link", "fast", "--workers", "8"), "--link fast: a rate such as 100Mbit or 1Gbit"),
    "one": (
        (*MLP, "--link", "1Gbit", "--workers", "1"),
        "--workers: of several, such as --workers 8, each on a link of its own",
    ),
    "how many": ((*MLP, "--link", "1Gbit"), "--workers: of several, such as --workers 8"),
    "zero": ((*MLP, "--link", "1Gbit", "--workers", "0"), "--workers: a whole number from 1, not '0'"),
    "no averaging": (
        ("arch=mlp", "--link", "1Gbit", "--workers", "8"),
        "--link: says what averaging takes, which is sync=averaging",
    ),
    "an artefact": (("demo", "--link", "1Gbit", "--workers", "8"), "--link: belongs to the overrides of one run with"),
    "a sweep": ((*MLP, "--link", "1Gbit", "--workers", "8", "-m", "seed=0,1"), "--link: belongs to the overrides of one run"),
    "no steps": (
        ("arch=mlp", "method=elm", "sync=averaging", "--link", "1Gbit", "--workers", "8"),
        "sync: Elm sends no weights",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, said = MISTAKES[mistake]
    code, out, err = plan(capsys, *arguments)
    (line,) = (line for line in err.splitlines() if not line.startswith(("effdl: trying ", "effdl: checking ")))
    assert code == 2 and out == "" and line.startswith(f"effdl: {said}")
