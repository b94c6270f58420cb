"""`effdl compress` as its users call it: a table of layers, what a link would save, errors of one line."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from effdl import commands
from effdl.compression import dequantise, quantise
from effdl.compression.summary import told
from effdl.errors import ConfigError
from effdl.records.links import bits_per_second

BIASES = 392 + 50 + 10


def effdl(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        commands.main([str(one) for one in arguments])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


@pytest.fixture
def network(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The text's network, in run/network.safetensors, with weights that are normal."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(784, 392), nn.Tanh(), nn.Linear(392, 50), nn.Tanh(), nn.Linear(50, 10))
    state = {name: torch.randn_like(tensor) * 0.05 for name, tensor in layers.state_dict().items()}
    state["steps"] = torch.tensor(7)
    (tmp_path / "run").mkdir()
    save_file(state, tmp_path / "run" / "network.safetensors")
    return state


def test_a_table_of_layers(network: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = effdl(capsys, "compress", tmp_path / "run", "--bits", 8, "--coder", "huffman")
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0].split()[:6] == ["layer", "parameters", "kind", "N", "entropy", "bits"]
    assert {line.split()[0] for line in lines[1:9]} == {*network, "all"}
    assert lines[9].startswith("1.25 MiB as they are, ") and " by lzw and " in lines[10]
    assert lines[11].startswith("it pays on links below ") and lines[11].endswith("--link 100Mbit says what it saves on one")


def test_its_numbers_are_those_of_the_weights(
    network: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run" / "network.safetensors"
    code, out, _ = effdl(capsys, "compress", file, "--bits", 8, "--coder", "ans", "--link", "2.5Mbit", "--json")
    found = json.loads(out)
    layers = {one["name"]: one for one in found["layers"]}
    weight = network["0.weight"]
    quantised = quantise(weight, 8)
    share = torch.bincount(quantised.levels.flatten()).double() / weight.numel()
    entropy = -float((share[share > 0] * share[share > 0].log2()).sum())
    error = dequantise(quantised).double() - weight.double()
    assert code == 0 and layers["0.weight"]["bound"] == pytest.approx(entropy)
    assert entropy < layers["0.weight"]["bits"] < entropy + 0.05 and layers["0.weight"]["raw_bits"] == 32
    assert layers["0.weight"]["max_error"] == pytest.approx(float(error.abs().max()))
    assert layers["0.weight"]["rms_error"] == pytest.approx(float(error.norm() / weight.double().norm()))
    assert layers["0.bias"]["kind"] == layers["steps"]["kind"] == "raw" and layers["0.bias"]["max_error"] == 0
    parameters = 784 * 392 + 392 * 50 + 500 + BIASES + 1
    assert layers["all"]["parameters"] == parameters and found["raw_bytes"] == 4 * (parameters - 1) + 8
    assert found["packet_bytes"] == pytest.approx(layers["all"]["bits"] * parameters / 8, abs=50)
    coding = found["encode_s"] + found["decode_s"]
    assert found["as_they_are_s"] == pytest.approx(8 * found["raw_bytes"] / 2.5e6)
    assert found["as_a_packet_s"] == pytest.approx(8 * found["packet_bytes"] / 2.5e6 + coding)
    assert found["break_even_bits_per_s"] == pytest.approx(8 * (found["raw_bytes"] - found["packet_bytes"]) / coding)


def test_a_link_too_fast_to_pay(network: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = {}
    for link in ("10kbit", "900Gbit"):
        last[link] = effdl(capsys, "compress", tmp_path / "run", "--link", link)[1].splitlines()[-1]
    assert last["10kbit"].startswith("on 10 kbit/s: ") and last["10kbit"].endswith(" times as fast")
    assert last["900Gbit"].startswith("on 900 Gbit/s: ") and last["900Gbit"].endswith(", which does not pay")


MISTAKES = {
    "no file": (
        "none.safetensors",
        3,
        "none.safetensors: no such file; name a .safetensors file, or the folder of a finished run",
    ),
    "an empty folder": ("empty", 3, "empty/network.safetensors: no such file; "),
    "another file": ("text.safetensors", 3, "text.safetensors: no .safetensors file, or a damaged one ("),
    "no coder": ("run --coder lzma", 2, "coder: one of auto, plain, huffman, ans, zstd, not 'lzma'"),
    "no rate": ("run --link fast", 2, "--link fast: a rate such as 100Mbit or 1Gbit"),
    "bytes": ("run --link 100MB", 2, "--link 100MB: a rate such as 100Mbit or 1Gbit"),
    "no link": ("run --link 0Mbit", 2, "--link 0Mbit: a rate such as 100Mbit or 1Gbit"),
    "no bits": ("run --bits 0", 2, "--bits: a whole number from 1, not '0'"),
    "many bits": ("run --bits 31", 2, "0.weight: weights are quantised to 1 to 30 bits, not 31"),
    "no number": ("nan.safetensors", 0, ""),
    "nothing": ("", 2, "compress: needs a .safetensors file, or the folder of a finished run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    mistake: str,
    network: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"w": torch.full((20, 20), math.nan), "empty": torch.empty(0)}, tmp_path / "nan.safetensors")
    arguments, code, line = MISTAKES[mistake]
    ended, out, err = effdl(capsys, "compress", *arguments.split())
    assert ended == code and err.count("\n") == (1 if code else 0) and err.startswith(f"effdl: {line}" if code else "")
    assert bool(out) == (code == 0)


def test_rates() -> None:
    rates = {"100Mbit": 1e8, "1Gbit": 1e9, "2.5Gbit/s": 2.5e9, "56kbit": 56e3, "9600bit": 9600.0}
    assert {text: bits_per_second(text) for text in rates} == rates
    for text in ("", "Mbit", "-1Mbit", "1e9", "1 Gbit", "1Tbit"):
        with pytest.raises(ConfigError, match="a rate such as 100Mbit or 1Gbit"):
            bits_per_second(text)


def test_nothing_to_tell_of_a_file_without_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"empty": torch.empty(0, 3)}, tmp_path / "empty.safetensors")
    code, out, _ = effdl(capsys, "compress", tmp_path / "empty.safetensors")
    assert code == 0 and "all" not in out and out.splitlines()[-1] == "it pays on no link" and told([], {}, {}) == []


def test_how_far_it_is_is_shown(
    network: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After three seconds on a slow machine, here at once."""
    monkeypatch.setattr("effdl.records.tracking.QUIET_S", 0.001)
    _, _, err = effdl(capsys, "compress", tmp_path / "run", "--coder", "ans")
    assert "effdl: compressing layer " in err and "/7, " in err
