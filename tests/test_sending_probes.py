"""Probes of weights as they would be sent: answers by NumPy, by hand, and by an independent Huffman code."""

import json
import zlib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from looks import look
from numpy.typing import NDArray
from safetensors.torch import load_file
from test_compression_coders import by_heap
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.compression import quantise
from effdl.compression.bits import subset
from effdl.compression.content import from_levels
from effdl.config import build, compose
from effdl.datasets.problem import Problem
from effdl.probes.bit_rate import BitRate
from effdl.probes.lossless import Lossless
from effdl.probes.probe import measured
from effdl.probes.quantised import Quantised
from effdl.probes.weight_entropy import WeightEntropy, weight_entropy
from effdl.records.carry import build_network, carry_out, open_problem
from effdl.training.look import Look

KINDS = ("plain", "huffman")
NUMBERS = ("bits", "raw_bits", "entropy", "codeword_bits", "coded_bits")


def levels(w: Tensor, bits: int, ends: tuple[float, float] | None = None) -> NDArray[np.int64]:
    """⌊2^N (w − w_min) / (w_max − w_min)⌋, the largest weight in the last bin."""
    x = w.detach().double().numpy().ravel()
    low, high = ends or (x.min(), x.max())
    found: NDArray[np.int64] = np.minimum(np.floor(2**bits * (x - low) / (high - low)), 2**bits - 1).astype(int)
    return found


def centres(w: Tensor, bits: int, ends: tuple[float, float] | None = None) -> Tensor:
    low, high = ends or (float(w.min()), float(w.max()))
    values = low + (high - low) * (levels(w, bits, ends) + 0.5) / 2**bits
    return torch.from_numpy(values).reshape(w.shape).to(w.dtype)


def entropy(w: NDArray[np.int64]) -> float:
    share = np.unique(w, return_counts=True)[1] / len(w)
    return float(-(share * np.log2(share)).sum())


def wide() -> BlockChain:
    """Matrices of 36 · 20, 20 · 16 and 16 · 3 weights."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh()), nn.Sequential(nn.Linear(20, 16), nn.Tanh())]
    return BlockChain(blocks, nn.Linear(16, 3), tiny.chain().input)


def matrix(model: BlockChain, block: int) -> nn.Linear:
    """Of `wide`."""
    (found,) = (part for part in model.blocks[block].modules() if isinstance(part, nn.Linear))
    return found


def shown(model: BlockChain, problem: Problem) -> Look:
    """As the engine shows it, which calls the input block before."""
    found = look(model, problem)
    assert found.learning is not None
    return replace(found, learning=replace(found.learning, local=BlockChain(model.blocks, model.head, nn.Identity())))


def test_entropy_of_a_part_of_the_weights_is_numpys() -> None:
    w = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    some = subset(w, 0.1).double().numpy()
    assert len(some) == 120
    counts = np.histogram(some, 2**4, (float(w.min()), float(w.max())))[0] / 120
    by_hand = -(counts[counts > 0] * np.log2(counts[counts > 0])).sum()
    assert weight_entropy(w, 4, 0.1) == pytest.approx(by_hand, rel=1e-12)
    found = measured(WeightEntropy(bits=(4,), fractions=(0.1, 1.0)), look(wide(), tiny.problem()), 0)
    assert [*found] == [f"4/{part}{layer}" for part in ("0.1/", "") for layer in ("0", "1", "output")]


def test_rates_are_means_over_layers_by_their_weights() -> None:
    model = wide()
    weights = {name: matrix(model, i).weight.detach() for i, name in enumerate(("0", "1"))} | {
        "output": model.head.weight.detach()
    }
    found = measured(BitRate(bits=(6,), dynamic=("c2m3",), fraction=1.0), look(model, tiny.problem()), 0)
    bits = {name: int(np.ceil(entropy(levels(w, 3)) + 2)) for name, w in weights.items()}
    for setting, n in (("6", dict.fromkeys(weights, 6)), ("c2m3", bits)):
        of_each = {name: levels(w, n[name]) for name, w in weights.items()}
        assert {name: found[f"{setting}/bits/{name}"] for name in weights} == n
        assert found[f"{setting}/bits"] == pytest.approx((720 * n["0"] + 320 * n["1"] + 48 * n["output"]) / 1088)
        bound = sum(len(one) * entropy(one) for one in of_each.values())
        assert found[f"{setting}/entropy"] == pytest.approx(bound / 1088)
        codes = sum(by_heap(np.unique(one, return_counts=True)[1].tolist()) for one in of_each.values())
        assert found[f"{setting}/codeword_bits"] == pytest.approx(codes / 1088)
        packages = {kind: sum(len(from_levels(quantise(w, n[name]), kind)[1]) for name, w in weights.items()) for kind in KINDS}
        told = [found[f"{setting}/{number}"] for number in ("raw_bits", "coded_bits")]
        assert told == pytest.approx([8 * packages[kind] / 1088 for kind in KINDS])
    assert found["6/entropy"] <= found["6/codeword_bits"] <= found["6/bits"] < found["6/raw_bits"]


def test_they_are_what_a_run_records_that_goes_on_from_its_quantised_weights(tmp_path: Path) -> None:
    """After one epoch both see the same weights."""
    small = ["arch=mlp", "arch.hidden=[20]", "method=backprop", "method.epochs=1", "dataset.val_size=200"]
    after = [*small, "probe=bit_rate", "probe.bit_rate.bits=[5]", "probe.bit_rate.dynamic=[]"]
    for name, chosen in (("after", after), ("during", [*small, "sync=quantised", "sync.bits=5"])):
        carry_out(build(compose(chosen)), tmp_path / name)
    lines = {name: recorded(next((tmp_path / name / "runs").iterdir())) for name in ("after", "during")}
    seen = next(line for line in lines["after"] if line["epoch"] == 0 and "bit_rate/5/bits" in line)
    sent = next(line for line in lines["during"] if "sync/bits" in line)
    numbers = [f"{key}{layer}" for key in NUMBERS for layer in ("", "/linear1", "/output")]
    assert {key: seen[f"bit_rate/5/{key}"] for key in numbers} == pytest.approx({key: sent[f"sync/{key}"] for key in numbers})


@pytest.mark.parametrize("ends", ["layer", "network"])
def test_a_quantised_network_has_its_weights_at_the_centres_of_bins(ends: Any) -> None:
    model, problem = wide(), tiny.problem()
    before = deepcopy(model.state_dict())
    layers = [matrix(model, 0), matrix(model, 1), model.head]
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    both = (min(w.min().item() for w in weights), max(w.max().item() for w in weights)) if ends == "network" else None
    probe = Quantised(bits=(1, 2), dynamic=("c1m2", "c2m2"), fraction=1.0, ends=ends)
    found, val = measured(probe, shown(model, problem), 0), problem.val_tensors()

    def accuracy(bits: list[int]) -> float:
        x = model.input(val.x).flatten(1)
        for layer, n in zip((m for m in layers if isinstance(m, nn.Linear)), bits, strict=True):
            z = x @ centres(layer.weight, n, both).T + layer.bias
            x = z.tanh()
        return float((z.argmax(1) == val.y).double().mean())

    with torch.no_grad():
        for name, floor in (("c1m2", 1), ("c2m2", 2)):
            assert found[f"{name}/acc"] == accuracy([int(np.ceil(entropy(levels(w, 2, both)) + floor)) for w in weights])
        assert [found["1/acc"], found["2/acc"]] == [accuracy([1, 1, 1]), accuracy([2, 2, 2])]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_settings_of_equal_bits_are_one_network() -> None:
    probe = Quantised(bits=(4,), dynamic=("c3m1", "c2m1", "c4m1"), fraction=1.0)
    assert [names for names, _ in probe.networks(shown(wide(), tiny.problem()))] == [["4", "c3m1"], ["c2m1"], ["c4m1"]]


def test_the_test_split_is_the_runs_and_training_is_not_touched(tmp_path: Path) -> None:
    small = ["arch=mlp", "arch.hidden=[20]", "method=backprop", "method.epochs=2", "dataset.val_size=200"]
    plain = carry_out(build(compose(small)), tmp_path)["summary"]
    spec = build(compose([*small, "probe=quantised", "probe.quantised.bits=[2]", "probe.quantised.dynamic=[]"]))
    probed = carry_out(spec, tmp_path)["summary"]
    assert probed["network/sha256"] == plain["network/sha256"] and probed["test/acc"] == plain["test/acc"]
    (folder,) = [path for path in (tmp_path / "runs").iterdir() if "quantised" in (path / "metrics.jsonl").read_text()]
    rows = [line for line in recorded(folder) if "quantised/2/test/acc" in line]
    assert [row["epoch"] for row in rows] == [0, 1]
    train, test = spec.dataset.load()
    network = build_network(spec, open_problem(spec, train, test), torch.device("cpu")).eval()
    network.load_state_dict(load_file(folder / "network.safetensors"))
    with torch.no_grad():
        for layer in (m for m in network.modules() if isinstance(m, nn.Linear)):
            layer.weight.copy_(centres(layer.weight, 2))
        (batch,) = test.gather([torch.arange(len(test))])
        by_hand = float((network(batch.x).argmax(1) == batch.y).double().mean())
    assert rows[-1]["quantised/2/test/acc"] == pytest.approx(by_hand, abs=1e-6)
    for policy, epochs in (("segment", [1]), ("run", [])):
        carry_out(build(compose([*small, "probe=quantised", f"test_every={policy}"])), tmp_path / policy)
        (folder,) = (tmp_path / policy / "runs").iterdir()
        lines = recorded(folder)
        assert [line["epoch"] for line in lines if "quantised/8/test/acc" in line] == epochs
        assert len([line for line in lines if "quantised/8/acc" in line]) == 2


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_is_compressed_without_loss_is_the_floats_own_bytes() -> None:
    model = wide()
    found = measured(Lossless(most=1000), look(model, tiny.problem()), 0)
    data = matrix(model, 0).weight.detach().numpy().tobytes()[:1000]
    assert found["deflate/0"] == len(zlib.compress(data)) / 1000 and 0.9 < found["lzw/0"] < 1.6
    assert {*found} == {f"{how}/{layer}" for how in ("lzw", "deflate") for layer in ("0", "1", "output")}
