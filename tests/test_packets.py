"""Packets: any state dict comes back, and whatever else is sent is an error of one line."""

import hashlib
import math
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import environment
from torch import Tensor, nn

from effdl.compression import Layer, contents, decode, dynamic_bits, encode, weights
from effdl.compression.coders import CODERS
from effdl.compression.envelope import DIGEST, HEAD, sealed

MUTANTS = 100_000
RESEALED = 4  # one of so many is given checksums that fit, as by somebody who means harm


def state() -> dict[str, Tensor]:
    """Whatever a state dict may hold."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(40, 60, generator=generator)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "linear.weight": normal,
        "transposed": normal.t(),
        "half": normal.half(),
        "brain": normal.bfloat16(),
        "double": normal.double(),
        "bias": torch.randn(60, generator=generator),
        "constant": torch.full((50, 60), 0.1),
        "empty": torch.empty(0, 7),
        "one": torch.tensor([[3.5]]),
        "scalar": torch.tensor(2.5),
        "num_batches_tracked": torch.tensor(2**40 + 1),
        "counts": torch.arange(-500, 500).view(10, 100),
        "bytes": torch.arange(256, dtype=torch.uint8).view(2, 128),
        "mask": torch.arange(300).view(2, 150) % 3 == 0,
        "not a number": normal.clone().index_fill_(0, torch.tensor(3), math.nan),
        "infinite": normal.clone().index_fill_(1, torch.tensor(3), -math.inf),
        "beyond": torch.tensor([-1e308, 1e308], dtype=torch.float64).repeat(2, 150),
        "complex": torch.complex(normal, -normal).conj(),
        "": torch.randn(20, 20, generator=generator).requires_grad_(),
    }


QUANTISED = {"conv.weight", "linear.weight", "transposed", "half", "brain", "double", "constant", ""}


def bits_of(tensor: Tensor) -> bytes:
    data: bytes = tensor.detach().resolve_conj().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return data


@pytest.mark.parametrize("coder", ["auto", *CODERS])
def test_a_state_dict_comes_back(coder: str) -> None:
    given = state()
    found = decode(encode(given, 9, coder), like=given)
    assert list(found) == list(given) and set(weights(given)) == QUANTISED
    for name, tensor in given.items():
        assert found[name].shape == tensor.shape and found[name].dtype == tensor.dtype and found[name].is_contiguous()
        if name not in QUANTISED or name == "constant":
            assert bits_of(found[name]) == bits_of(tensor), name
        else:
            spread = float(tensor.detach().max() - tensor.detach().min())
            error = float((found[name].double() - tensor.detach().double()).abs().max())
            assert 0 < error <= spread / 2**10 + torch.finfo(tensor.dtype).eps * 4


def test_bits_are_those_of_algorithm_1_where_nothing_is_said() -> None:
    given = state()
    found = {layer.name: layer.bits for layer in contents(encode(given)) if layer.bits}
    assert found == {name: bits for name, bits in dynamic_bits(weights(given)).items() if name in found}
    assert set(found) == QUANTISED - {"constant"}


def test_what_is_not_named_is_sent_as_it_is() -> None:
    given = {"a": torch.randn(30, 30), "b": torch.randn(30, 30), "vector": torch.randn(1000)}
    packet = encode(given, {"a": 4, "vector": 5})
    assert [(one.name, one.kind != "raw", one.bits) for one in contents(packet)] == [
        ("a", True, 4),
        ("b", False, 0),
        ("vector", True, 5),
    ]
    assert torch.equal(decode(packet)["b"], given["b"])


def test_contents_say_what_each_layer_takes() -> None:
    given = {"weight": torch.randn(100, 100), "bias": torch.zeros(100)}
    packet = encode(given, 8, "ans")
    weight, bias = contents(packet)
    assert weight == Layer("weight", (100, 100), torch.float32, "ans", 8, weight.bytes) and bias.kind == "raw"
    assert len(packet) == weight.bytes + bias.bytes + HEAD.size + 4 + DIGEST
    assert contents(encode({})) == [] == list(decode(encode({})))


def test_a_constant_layer_is_small_however_large() -> None:
    packet = encode({"w": torch.full((1000, 1000), -0.0)}, 8)
    assert len(packet) < 1000 * 1000 / 256 + 100 and bits_of(decode(packet)["w"]) == bits_of(torch.full((1000, 1000), -0.0))


def test_a_network_goes_on_from_its_packet() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 10))
    other = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 10))
    other.load_state_dict(decode(encode(network.state_dict(), 16), like=other.state_dict()))
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(other.eval()(x), network.eval()(x), rtol=1e-3, atol=1e-3)


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "no coder": (lambda: encode({}, 8, "lzma"), "coder: one of auto, plain, huffman, ans, zstd, not 'lzma'"),
    "no layer": (lambda: encode(state(), {"w": 8}), "w: bits of a layer that is not there"),
    "integers": (lambda: encode(state(), {"counts": 8}), "counts: torch.int64 is not quantised, only floats are"),
    "no number": (
        lambda: encode(state(), {"not a number": 8}),
        "not a number: weights from nan to nan cannot be parted into bins; leave it out of bits",
    ),
    "too many bits": (lambda: encode(state(), 31), "conv.weight: weights are quantised to 1 to 30 bits, not 31"),
    "no bits": (lambda: encode(state(), 0), "conv.weight: weights are quantised to 1 to 30 bits, not 0"),
    "no tensor": (
        lambda: encode({"a\nb": "x"}),  # type: ignore[dict-item]
        "'a\\nb': no dense tensor with values, which is all that a packet holds",
    ),
    "no values": (lambda: encode({"w": torch.empty(3, device="meta")}), "w: no dense tensor with values, "),
    "sparse": (lambda: encode({"w": torch.eye(3).to_sparse()}), "w: no dense tensor with values, "),
    "a long name": (lambda: encode({"w" * 70_000: torch.ones(3)}), "w" * 80 + ": its name or its shape is too long"),
    "nothing": (lambda: decode(b""), "packet: not one of effdl's, or it ends too early"),
    "another file": (lambda: decode(b"PK" * 50), "packet: not one of effdl's, or it ends too early"),
    "cut": (lambda: decode(encode(state())[:-1]), "packet: more or fewer bytes than it says"),
    "longer": (lambda: decode(encode(state()) + b"x"), "packet: more or fewer bytes than it says"),
    "flipped": (
        lambda: decode(flipped(encode(state()))),
        "packet: damaged, its checksum is of other bytes; have it sent again",
    ),
    "newer": (
        lambda: decode(b"EFDC\x02\x00" + encode(state())[6:]),
        "packet: of version 2, this effdl reads up to 1; a newer effdl reads it",
    ),
    "a layer too many": (lambda: decode(encode({"a": torch.ones(2)}), like={}), "packet: a: a layer of one side alone"),
    "a layer too few": (lambda: decode(encode({}), like={"a": torch.ones(2)}), "packet: a: a layer of one side alone"),
    "another shape": (
        lambda: decode(encode({"a": torch.ones(2)}), like={"a": torch.ones(3)}),
        "packet: a: torch.float32 of (2,), here it is torch.float32 of (3,)",
    ),
    "another type": (
        lambda: decode(encode({"a": torch.ones(2)}), like={"a": torch.ones(2).half()}),
        "packet: a: torch.float32 of (2,), here it is torch.float16 of (2,)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    call, line = MISTAKES[mistake]
    with pytest.raises(ValueError) as told:
        call()
    assert str(told.value).startswith(line) and "\n" not in str(told.value)


def flipped(packet: bytes) -> bytes:
    return packet[:50] + bytes([packet[50] ^ 4]) + packet[51:]


def small(coder: str, bits: int, shape: tuple[int, ...] = (7, 9)) -> tuple[bytes, dict[str, Tensor]]:
    """A packet of the coder named, whatever were shorter, and what it holds."""
    given = {"w": torch.randn(*shape, generator=torch.Generator().manual_seed(bits)), "n": torch.tensor(5)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effdl.compression.content.packed_bytes", lambda *_: 10**6)
        patch.setattr("effdl.compression.content.raw", lambda tensor: bits_of(tensor) if tensor.numel() == 1 else bytes(10**6))
        packet = encode(given, {"w": bits}, coder)
    assert contents(packet)[0].kind == coder
    return packet, decode(packet)


def mutant(packet: bytes, draw: random.Random) -> bytes:
    """Bits flipped, bytes overwritten by extreme ones, cut, doubled or left out."""
    data, kind, at = bytearray(packet), draw.randrange(6), draw.randrange(len(packet))
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at:at] = draw.randbytes(draw.randrange(1, 9))
    elif kind == 2:
        del data[at : at + draw.randrange(1, 9)]
    elif kind == 3:
        data[at : at + 8] = draw.choice([b"\x00", b"\xff", b"\x7f"]) * draw.choice([1, 2, 4, 8])
    else:
        for _ in range(draw.choice([1, 1, 2, 8])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


class Fitting(int):
    """A checksum that every other one is equal to."""

    def __ne__(self, other: object) -> bool:
        return False


def test_a_hundred_thousand_mutants_are_errors_or_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With checksums that fit they may be other tensors too, of no more elements than their bytes can be of."""
    draw = random.Random(0)
    sent = [small(coder, bits) for coder in CODERS for bits in (3, 8, 12)]
    constant = encode({"c": torch.full((30, 40), 2.0), "e": torch.empty(0, 3)}, 8)
    sent.append((constant, decode(constant)))
    monkeypatch.setattr("effdl.compression.content._check", lambda levels: Fitting())
    ended = {"error": 0, "same": 0, "other": 0}
    for index in range(MUTANTS):
        packet, tensors = sent[index % len(sent)]
        changed, resealed = mutant(packet, draw), index % RESEALED == 0
        if resealed:
            changed = sealed(changed[HEAD.size : -DIGEST])
        found = outcome(changed)
        if isinstance(found, str):
            assert "\n" not in found and found.startswith("packet: ")
            ended["error"] += 1
        elif same(found, tensors):
            ended["same"] += 1
        else:
            assert resealed and sum(one.numel() for one in found.values()) <= 256 * len(changed)
            ended["other"] += 1
    assert sum(ended.values()) == MUTANTS and min(ended.values()) > 500, ended


def outcome(packet: bytes) -> dict[str, Tensor] | str:
    """What is in a packet, or the line that says why there is nothing."""
    try:
        return decode(packet)
    except ValueError as error:
        return str(error)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == other.dtype and first[name].shape == other.shape and bits_of(first[name]) == bits_of(other)
        for name, other in second.items()
    )


def layer(shape: tuple[int, ...], kind: int, content: bytes, dtype: int = 0, claimed: int | None = None) -> bytes:
    """One layer as the form says it, of whatever is claimed."""
    size = len(content) if claimed is None else claimed
    return b"\x01\x00w" + struct.pack(f"<BBB{len(shape)}QQ", dtype, kind, len(shape), *shape, size) + content


def levels(coder: int, above: int, rest: bytes, bits: int = 8) -> bytes:
    return struct.pack("<ddIBBB", 0.0, 1.0, 0, bits, coder, above) + rest


def table(lengths: bytes) -> bytes:
    found = zlib.compress(lengths)
    return struct.pack("<H", len(found)) + found


def frame_of(size: int) -> bytes:
    """A Zstandard frame that says that it holds so many bytes."""
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x01\x00\x00"
    return struct.pack("<I", len(frame)) + frame


HUGE = 2**40
HOSTILE = {
    "a huge constant": layer((HUGE,), 1, bytes(4)),
    "huge and raw": layer((HUGE,), 0, bytes(4)),
    "content beyond the end": layer((4,), 0, bytes(4), claimed=HUGE),
    "dimensions that overflow": layer((2**63, 2**63, 2), 1, bytes(4)),
    "nothing of many dimensions": layer((2**63, 0, 2**63), 0, b""),
    "plain numbers of no bytes": layer((256 * 40,), 2, levels(0, 0, bytes(17))),
    "huge levels": layer((HUGE,), 2, levels(1, 8, table(bytes([8] * 256)) + bytes(100))),
    "more codes than bits": layer((2000,), 2, levels(1, 8, table(bytes([8] * 256)) + bytes(100))),
    "long lanes": layer((64,), 2, levels(1, 8, table(bytes([8] * 256)) + b"\xff\xff\x00\x02\x00\x00\x00" + bytes(99))),
    "words beyond": layer((64,), 2, levels(1, 8, table(bytes([8] * 256)) + b"\x80\x00\x00\xff\xff\xff\xff" + bytes(99))),
    "a table that grows": layer((64,), 2, levels(1, 8, table(bytes(2**26)) + bytes(99))),
    "a code of one symbol": layer((64,), 2, levels(1, 8, table(bytes([1] + [0] * 255)) + bytes(99))),
    "a code that is too long": layer((64,), 2, levels(1, 8, table(bytes([60] * 256)) + bytes(99))),
    "shares of more than all": layer((64,), 2, levels(2, 8, table(b"\xff" * 512) + bytes(99))),
    "a frame that grows": layer((256 * 20,), 2, levels(3, 8, frame_of(HUGE) + bytes(30))),
    "a frame of a little less": layer((256 * 20,), 2, levels(3, 8, frame_of(256 * 20) + bytes(30))),
    "no coder": layer((4,), 2, levels(9, 8, bytes(99))),
    "no bits": layer((4,), 2, levels(0, 0, bytes(99), bits=0)),
    "more bits than there are": layer((4,), 2, levels(0, 0, bytes(99), bits=200)),
    "levels of integers": layer((4,), 2, levels(0, 0, bytes(4)), dtype=4),
    "no type": layer((4,), 0, bytes(16), dtype=99),
    "no kind": layer((4,), 7, bytes(16)),
    "neither true nor false": layer((4,), 0, b"\x00\x01\x02\x03", dtype=9),
    "a layer twice": layer((1,), 0, bytes(4)) + layer((1,), 0, bytes(4)),
}


def hostile(name: str) -> bytes:
    body = HOSTILE[name]
    return sealed(struct.pack("<I", 2 if "twice" in name else 1) + body)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_packet_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"^packet: ") as told:
        decode(hostile(name))
    assert "\n" not in str(told.value)
    for other in ("too many layers", "a name that is no text"):
        body = struct.pack("<I", 2**32 - 1) if "layers" in other else struct.pack("<IH", 1, 2) + b"\xff\xfe" + bytes(40)
        with pytest.raises(ValueError, match=r"^packet: "):
            decode(sealed(body))


def test_memory_is_bounded_by_what_bytes_can_decode_to(tmp_path: Path) -> None:
    """Hostile packets take nothing to speak of; a packet of 16 MiB of weights a few times as much, whatever its coder."""
    for index, name in enumerate(HOSTILE):
        (tmp_path / f"{index:02}").write_bytes(hostile(name))
    own = environment(PYTHONPATH=":".join([str(Path(__file__).parents[1]), *(p for p in sys.path if "site-packages" not in p)]))
    done = subprocess.run([sys.executable, "-c", MEASURED, tmp_path], env=own, capture_output=True, text=True, check=True)
    small, *large = (int(line) for line in done.stdout.split())
    assert small < 8 * 2**20 and len(large) == len(CODERS)
    assert max(large) < 5 * 16 * 2**20, done.stdout


MEASURED = """
import sys
from pathlib import Path
import torch
from effdl.compression import decode, encode
from effdl.compression.coders import CODERS

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

def reset():
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    return peak()

weights = {"w": torch.randn(2048, 2048)}
packets = [encode(weights, 8, coder) for coder in CODERS]
del weights
for packet in packets:
    decode(encode({"w": torch.randn(300, 300)}, 8))
hostile = [path.read_bytes() for path in Path(sys.argv[1]).iterdir()]
before = reset()
for packet in hostile:
    try:
        decode(packet)
    except ValueError:
        pass
print(peak() - before)
for packet in packets:
    before = reset()
    decode(packet)
    print(peak() - before)
"""


def test_packets_of_today_are_read_tomorrow() -> None:
    """Bytes as version 1 wrote them, and what they hold: who changes the form gives it another version."""
    golden = Path(__file__).parent / "packets.txt"
    for line in golden.read_text().splitlines():
        packet, digest = line.split()
        found = decode(bytes.fromhex(packet))
        assert hashlib.sha256(b"".join(bits_of(tensor) for tensor in found.values())).hexdigest() == digest
