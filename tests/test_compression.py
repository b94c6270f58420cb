"""Quantised weights and how many bits they are given, against the equations of chapter 3 written out, and by properties."""

import doctest
import hashlib
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from command import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import effdl.compression
from effdl.compression import (
    bits_by_entropy,
    bits_by_gradient,
    decode,
    dequantise,
    dynamic_bits,
    encode,
    estimated_entropy,
    quantise,
    value_range,
)
from effdl.compression.bits import subset
from effdl.compression.coders import CODERS

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DRAWN = {
    "normal": lambda n, g: torch.randn(n, generator=g, dtype=torch.float64),
    "uniform": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64) - 0.3,
    "heavy tails": lambda n, g: torch.randn(n, generator=g, dtype=torch.float64).pow(5).clamp_(-6e4, 6e4),
    "two values": lambda n, g: (torch.rand(n, generator=g, dtype=torch.float64) < 0.1).double(),
    "far from zero": lambda n, g: 1000 + torch.randn(n, generator=g, dtype=torch.float64),
    "minute": lambda n, g: 1e-30 * torch.randn(n, generator=g, dtype=torch.float64),
}


def drawn(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return DRAWN[name](math.prod(shape), torch.Generator().manual_seed(seed)).to(dtype).view(shape)


def half_a_bin(weights: Tensor, bits: int) -> float:
    """And half a unit in the last place of the type, to which a centre is rounded, and the roundings of float64 on the way."""
    low, high = (float(end) for end in weights.aminmax())
    unit = torch.finfo(weights.dtype).eps * max(abs(low), abs(high)) + float(torch.finfo(weights.dtype).smallest_normal)
    return float((high - low) / 2**bits / 2 + unit / 2 + 2**-50 * max(abs(low), abs(high)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.sampled_from(FLOATS),
    st.sampled_from(sorted(DRAWN)),
    st.integers(1, 30),
    st.sampled_from(sorted(CODERS)),
    st.integers(0, 2**30),
)
def test_what_is_decoded_lies_within_half_a_bin(
    shape: list[int], dtype: torch.dtype, kind: str, bits: int, coder: str, seed: int
) -> None:
    weights = drawn(kind, tuple(shape), dtype, seed)
    packet = encode({"layer.weight": weights}, {"layer.weight": bits}, coder)
    found = decode(packet, like={"layer.weight": weights})["layer.weight"]
    assert found.dtype == dtype and found.shape == weights.shape
    assert float((found.double() - weights.double()).abs().max()) <= half_a_bin(weights, bits)


@pytest.mark.parametrize("bits", [1, 4, 8, 9, 12, 20])
def test_levels_and_centres_are_those_of_the_equations(bits: int) -> None:
    """⌊2^N (w − w_min) / (w_max − w_min)⌋, the last bin taking w_max, and w_min + (w_max − w_min)(i + 0.5) / 2^N, by NumPy."""
    weights = torch.randn(100_000, generator=torch.Generator().manual_seed(bits))
    w, found = weights.double().numpy(), quantise(weights, bits)
    levels = np.minimum(np.floor(2.0**bits * ((w - w.min()) / (w.max() - w.min()))), 2**bits - 1)
    np.testing.assert_array_equal(found.levels.numpy(), levels)
    centres = w.min() + (w.max() - w.min()) * ((levels + 0.5) / 2**bits)
    np.testing.assert_allclose(dequantise(found).numpy(), centres, rtol=3e-7, atol=1e-7)


def test_printed_ends_are_swapped_twice() -> None:
    """Algorithm 1 calls its Quantize, which counts down from its first end, with swapped ends: the decoder's i counts up."""
    weights = torch.tensor([-1.0, -0.9, 0.2, 3.0])
    first, second = 3.0, -1.0  # line 6 hands w_max over as w_min, and the other way round
    printed = [math.floor(2**3 * (second - w) / (second - first)) for w in weights.tolist()]
    assert quantise(weights, 3).levels.tolist() == [min(i, 7) for i in printed]


def test_one_range_for_all_layers_holds_each() -> None:
    layers = {"first": torch.randn(20, 30), "second": 0.1 * torch.randn(30, 10)}
    ends = value_range(layers.values())
    assert ends == (float(torch.cat([w.flatten() for w in layers.values()]).min()), float(layers["first"].max()))
    packet = encode(layers, 8, ends=dict.fromkeys(layers, ends))
    for name, found in decode(packet).items():
        assert float((found - layers[name]).abs().max()) <= (ends[1] - ends[0]) / 2**9 * (1 + 1e-5)
    with pytest.raises(ValueError, match="not within the range given"):
        quantise(layers["first"], 8, (-0.1, 0.1))


@pytest.mark.parametrize(
    ("weights", "bits", "entropy"),
    [
        (torch.arange(16.0), 4, 4.0),
        (torch.arange(16.0), 1, 1.0),
        (torch.tensor([0.0, 0.0, 0.0, 1.0]), 8, 2 - 0.75 * math.log2(3)),
        (torch.ones(5), 4, 0.0),
    ],
)
def test_entropy_by_hand(weights: Tensor, bits: int, entropy: float) -> None:
    assert estimated_entropy(weights, bits, fraction=1.0) == pytest.approx(entropy)


def test_three_percent_tell_the_entropy_and_a_bit_more_of_bins_a_bit_more() -> None:
    weights = torch.randn(300, 1000, generator=torch.Generator().manual_seed(1))
    for bits in (4, 6, 8):
        assert estimated_entropy(weights, bits, 0.03) == pytest.approx(estimated_entropy(weights, bits, 1.0), abs=0.05)
    steps = [estimated_entropy(weights, bits + 1, 1.0) - estimated_entropy(weights, bits, 1.0) for bits in (4, 5, 6)]
    assert steps == pytest.approx([1.0, 1.0, 1.0], abs=0.02)


def test_a_subset_has_no_weight_twice_and_depends_on_the_generator_alone() -> None:
    weights = torch.arange(10_001.0)
    found = subset(weights, 0.03)
    assert len(found) == math.ceil(0.03 * 10_001) == len(found.unique())
    assert torch.equal(found, subset(weights, 0.03))
    assert not torch.equal(found, subset(weights, 0.03, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(subset(weights, 1.0), weights)
    assert len(subset(weights[:500], 0.03)) == 15 and len(subset(weights[:500], 0.03, least=100)) == 100
    assert len(subset(weights[:500], 0.03, least=1000)) == 500
    often = torch.stack([subset(torch.arange(10.0), 0.1, generator=torch.Generator().manual_seed(s)) for s in range(2000)])
    assert torch.bincount(often.flatten().int(), minlength=10).tolist() == pytest.approx([200] * 10, abs=60)  # 4.5 deviations


def test_bits_by_entropy_and_by_gradient() -> None:
    assert [bits_by_entropy(3.2, 5, rounding) for rounding in ("ceil", "round", "floor")] == [9, 8, 8]
    assert bits_by_entropy(0.0, 6) == 6 and bits_by_entropy(4.0, 6) == 10
    assert bits_by_entropy(0.0, -3) == 1 and bits_by_entropy(24.0, 20) == 30
    assert [bits_by_gradient(rms, 5) for rms in (0.0, 1.0, 3.0, 4.0)] == [5, 6, 7, 8]
    assert bits_by_gradient(0.0, 5, c0=0.25) == 3  # below the floor, which is why c0 is 1
    with pytest.raises(ValueError, match="no logarithm"):
        bits_by_gradient(-1, 5)
    with pytest.raises(ValueError, match="no number of bits"):
        bits_by_entropy(math.nan)
    with pytest.raises(ValueError, match="rounding is one of ceil, round, floor"):
        bits_by_entropy(1, 5, "up")  # type: ignore[arg-type]


def test_each_layer_has_its_own_bits() -> None:
    spike = torch.zeros(50, 100).index_fill_(0, torch.tensor(7), 1.0)
    layers = {"flat": torch.linspace(0, 1, 5000).view(50, 100), "peaked": spike}
    assert dynamic_bits(layers, floor=5, fraction=1.0) == {"flat": 9, "peaked": 6}  # entropies 4 and 0.14
    assert dynamic_bits(layers, floor=5, fraction=1.0, rounding="round") == {"flat": 9, "peaked": 5}


@pytest.mark.parametrize("ends", [(math.nan, 1.0), (1.0, 1.0), (-1e308, 1e308)])
def test_what_cannot_be_parted_is_an_error(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="cannot be parted"):
        quantise(torch.tensor([1.0]), 8, ends)


def test_another_process_decodes_the_same_bits(tmp_path: Path) -> None:
    """With other threads and another hash seed, all coders, types and numbers of bits."""
    states = [
        {f"{kind}.{index}": drawn(kind, (61, 53), dtype, index) for index, dtype in enumerate(FLOATS)} for kind in sorted(DRAWN)
    ]
    told = list[str]()
    for index, state in enumerate(states):
        for coder in CODERS:
            packet = encode(state, 5 + 2 * index, coder)
            (tmp_path / f"{len(told):03}").write_bytes(packet)
            told.append(digest(decode(packet)))
    program = "import sys; from test_compression import read; read(sys.argv[1])"
    paths = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
    kept = [path for path in sys.path if "site-packages" not in path]
    own = environment(OMP_NUM_THREADS="2", PYTHONHASHSEED="5", PYTHONPATH=":".join([paths, *kept]))
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.split() == told and len(set(told)) == len(states)  # all coders to the same


def test_examples_say_what_is() -> None:
    modules = [import_module(f"effdl.compression.{name}") for name in ("bits", "quantisation", "packet", "lossless")]
    ended = [doctest.testmod(module) for module in modules]
    assert all(one.attempted and not one.failed for one in ended)
    shown = [getattr(effdl.compression, name) for name in effdl.compression.__all__]
    assert all(">>>" in (one.__doc__ or "") for one in shown if not isinstance(one, type))


def digest(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(w.view(torch.uint8).numpy().tobytes() for w in state.values())).hexdigest()


def read(folder: str) -> None:
    for path in sorted(Path(folder).iterdir()):
        print(digest(decode(path.read_bytes())))
