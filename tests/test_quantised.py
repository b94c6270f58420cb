"""Weights quantised after each epoch, against Algorithm 1 written out by hand in float64, step by step."""

import heapq
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl import config
from effdl.compression import contents, dequantise, encode, quantise
from effdl.compression.rates import codeword_bits, rates
from effdl.config import build, compose
from effdl.errors import ConfigError, Diverged
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.records.stacking import key
from effdl.training.decision_rule import DecisionRule
from effdl.training.optim import Sgd
from effdl.training.quantised import Quantised
from effdl.training.ranks import Ranks
from effdl.training.sync import matrices

EPOCHS, LR = 3, 0.05
LAYERS = ("linear1", "linear2", "output")


def by_hand(weights: Tensor, bits: int, low: float, high: float) -> Tensor:
    """Algorithm 1, Quantize, and Algorithm 2, line 4, as equations."""
    w = weights.double().numpy()
    index = np.minimum(np.floor(2**bits * (w - low) / (high - low)), 2**bits - 1)
    return torch.from_numpy(low + (high - low) * (index + 0.5) / 2**bits)


def entropy_by_hand(weights: Tensor, bits: int) -> float:
    counts, _ = np.histogram(weights.double().numpy(), bins=2**bits)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def rms(gradient: Tensor) -> float:
    return math.sqrt(float(gradient.square().mean()))


class Hand:
    """Backpropagation by torch alone in float64, whose weights become centres of bins after each epoch."""

    def __init__(self, how: Quantised) -> None:
        self.how, data, model = how, tiny.problem(), tiny.perceptron().double().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
        self.layers = dict(zip(LAYERS, (p for p in model.parameters() if p.dim() == 2), strict=True))
        self.bits: list[dict[str, int]] = []
        for epoch in range(EPOCHS):
            sums = {name: torch.zeros_like(w) for name, w in self.layers.items()}
            steps = 0
            for batch in data.train(epoch):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(batch.x), batch.y).backward()
                optimizer.step()
                steps += 1
                for name, w in self.layers.items():
                    assert w.grad is not None
                    sums[name] += w.grad
            self.after({name: total / steps for name, total in sums.items()})
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def after(self, gradients: dict[str, Tensor]) -> None:
        ends = {name: (float(w.min()), float(w.max())) for name, w in self.layers.items()}
        if self.how.ends == "network":
            lows, highs = zip(*ends.values(), strict=True)
            ends = dict.fromkeys(ends, (min(lows), max(highs)))
        found = {name: self.n(w, gradients[name]) for name, w in self.layers.items()}
        for name, w in self.layers.items():
            w.copy_(by_hand(w, found[name], *ends[name]))
        self.bits.append(found)

    def n(self, weights: Tensor, gradient: Tensor) -> int:
        if self.how.bits is not None:
            return self.how.bits
        if self.how.choose == "gradient":
            return math.ceil(math.log2(rms(gradient) + self.how.c0) + self.how.floor)
        return math.ceil(entropy_by_hand(weights, self.how.sample_bits) + self.how.floor)


def trained(how: Quantised | None, epochs: int = EPOCHS) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    run = Run(optimizer=Sgd(lr=LR, momentum=0.9, weight_decay=0.0), sync=how)
    network = Backprop(epochs=epochs).fit(tiny.problem(), tiny.perceptron().double(), run)
    return tiny.copied(network), run.lines


HOW = {
    "fixed": Quantised(bits=5),
    "one range": Quantised(bits=6, ends="network"),
    "by entropy": Quantised(fraction=1.0, sample_bits=7, floor=2, coder=None),
    "by gradient": Quantised(choose="gradient", floor=9, c0=0.01),
}


@pytest.mark.parametrize("name", HOW)
def test_it_is_algorithm_1_and_2_after_each_epoch(name: str) -> None:
    expected = Hand(HOW[name])
    weights, lines = trained(HOW[name])
    assert [{n: line[f"sync/bits/{n}"] for n in LAYERS} for line in lines] == expected.bits
    if HOW[name].bits is None:
        assert len({n for bits in expected.bits for n in bits.values()}) > 1  # they are chosen indeed
    torch.testing.assert_close(weights, expected.weights, rtol=1e-9, atol=1e-9)
    for layer, tensor in zip(LAYERS, (w for w in weights.values() if w.dim() == 2), strict=True):
        assert len(tensor.unique()) <= 2 ** lines[-1][f"sync/bits/{layer}"]


def test_packages_change_nothing_but_what_is_recorded_and_a_packet_reads_the_same_weights() -> None:
    weights, lines = trained(HOW["by entropy"])
    coded, more = trained(Quantised(fraction=1.0, sample_bits=7, floor=2, coder="huffman"))
    assert tiny.same(weights, coded)
    assert {k for k in more[-1] if k not in lines[-1]} == {f"sync/coded_bits{at}" for at in ("", *(f"/{n}" for n in LAYERS))}
    assert all(line["sync/coded_bits"] == pytest.approx(_mean(line, "coded_bits")) for line in more)


def _mean(line: dict[str, Any], number: str) -> float:
    sizes = dict(zip(LAYERS, (36 * 60, 60 * 40, 40 * 3), strict=True))
    return sum(sizes[n] * line[f"sync/{number}/{n}"] for n in LAYERS) / sum(sizes.values())


@pytest.mark.parametrize("bits", [3, 8, 12])
def test_rates_are_those_of_independent_codes_and_of_the_packet(bits: int) -> None:
    weights = torch.randn(60, 50, generator=torch.Generator().manual_seed(bits))
    quantised = quantise(weights, bits)
    found = rates(weights, quantised, dequantise(quantised), "huffman")
    assert found.bits == bits and found.raw == bits + 8 * (8 + 8 + 4 + 3) / 3000
    counts = quantised.levels.int().reshape(-1).bincount()
    p = counts[counts > 0].double() / 3000
    assert found.entropy == pytest.approx(float(-(p * p.log2()).sum()), abs=1e-9)
    above = min(bits, 10)
    symbols = (quantised.levels.int() >> (bits - above)).reshape(-1).bincount()
    assert found.codewords == pytest.approx(_huffman(symbols.tolist()) / 3000 + bits - above, abs=0.01)
    (layer,) = contents(encode({"w": weights}, bits, "huffman"))
    assert found.coded == 8 * (layer.bytes - (2 + 1 + 3 + 2 * 8 + 8)) / 3000  # without name, type, shape and length
    difference = (weights.double() - by_hand(weights, bits, float(weights.min()), float(weights.max()))).norm()
    assert found.error == pytest.approx(float(difference / weights.double().norm()), rel=1e-4)


def _huffman(counts: list[int]) -> int:
    """Bits of all code words: each merge of the two rarest adds what both come to."""
    heap, total = [count for count in counts if count], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


def test_code_words_of_a_single_level_have_no_bits() -> None:
    assert codeword_bits(quantise(torch.zeros(300), 4, (0.0, 1.0))) == 0.0


def test_of_segments_each_sends_its_own_layers() -> None:
    run = Run(optimizer=Sgd(lr=LR), sync=Quantised(bits=4))
    Segmentwise(epochs=1).fit(tiny.problem(), tiny.chain(), run)
    layers = [{k.split("/")[2] for k in line if k.startswith("sync/bits/")} for line in run.lines]
    assert [{n for n in found if n.startswith("conv")} for found in layers] == [{f"conv{i + 1}"} for i in range(3)]
    assert all(any(n.startswith("output") for n in found) for found in layers)


def test_a_layer_that_is_constant_stays_and_one_with_a_nan_is_the_runs_end() -> None:
    model = tiny.perceptron()
    rule = DecisionRule(model.blocks, model.head, SoftmaxCe())
    layers = matrices(rule)
    assert tuple(layers) == LAYERS
    before = layers["linear2"].detach().clone()
    with torch.no_grad():
        layers["linear1"].fill_(0.25)
        layers["output"][0, 0] = float("nan")
    syncing = Quantised(bits=2).begin(rule, torch.optim.SGD(rule.parameters()), Ranks(), lambda epoch: epoch)
    syncing.end_epoch(0)
    assert bool((layers["linear1"] == 0.25).all()) and len(layers["linear2"].unique()) == 4
    assert not torch.equal(before, layers["linear2"]) and {k for k in syncing.told if "bits/" in k} > {"sync/bits/linear2"}
    assert "sync/bits/linear1" not in syncing.told and "sync/bits/output" not in syncing.told
    with pytest.raises(Diverged):
        Backprop(epochs=1).fit(tiny.problem(), tiny.perceptron(), Run(optimizer=Sgd(lr=1e30), sync=Quantised(bits=2)))


# --- as a config

QUICK = ("method=backprop", "arch=mlp", "arch.hidden=[9]", "dataset=digits", "method.epochs=3")


def test_without_a_choice_no_run_has_another_name_and_with_one_it_has() -> None:
    plain, chosen = build(compose([*QUICK])), build(compose([*QUICK, "sync=quantised"]))
    assert "sync" not in config.identity(plain, "data") and plain == build(compose([*QUICK, "sync=none"]))
    assert config.identity(chosen, "data")["sync"] == {"class": "Quantised", "version": 1}


def test_a_run_that_goes_on_ends_in_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = build(compose([*QUICK, "sync=quantised", "sync.fraction=0.5"]))
    alone = tiny.carry_out(spec, tmp_path / "alone")["summary"]
    again = tiny.resumed(spec, tmp_path / "resumed", monkeypatch, 1, 2)["summary"]
    assert alone["sync/coded_bits"] > alone["sync/codeword_bits"] >= alone["sync/entropy"] > 0
    assert {k: v for k, v in alone.items() if "time" not in k and "process" not in k} == {
        k: v for k, v in again.items() if "time" not in k and "process" not in k
    }


def test_what_looks_at_the_end_of_epochs_alone_is_stacked() -> None:
    hows = {"": True, "sync.bits=8": True, "sync.choose=gradient": False}
    for more, stacks in hows.items():
        spec = build(compose([*QUICK, "sync=quantised", *filter(None, [more])]))
        assert (key(spec) is not None) == stacks


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("sync.bits=31",), r"^sync\.bits: .* 30"),
        (("sync.fraction=0",), r"^sync\.fraction: "),
        (("sync.choose=chance",), r"^sync\.choose: .*'entropy' or 'gradient'"),
        (("sync.coder=lzw",), r"^sync\.coder: "),
        (("method=elm", "objective=linear_mse"), r"^sync: Elm sends no weights, leave it out or say sync=none$"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(more: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(compose(["arch=mlp", "arch.hidden=[9]", "dataset=digits", "method=backprop", "sync=quantised", *more]))
