"""`effdl compress`: what a packet would make of a file of weights, and what sending it would save."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file

from effdl.compression import contents, decode, encode, weights
from effdl.compression.content import raw
from effdl.compression.lossless import deflate, lzw
from effdl.compression.summary import Told, told
from effdl.errors import ConfigError, DataError, one_line, shown
from effdl.records.links import rate, seconds
from effdl.records.report import Track, duration, size

T = TypeVar("T")
NETWORK = "network.safetensors"
CONTROL_BYTES = 2**18  # of the largest layer, for what is slow and told for comparison alone
SHORT_S = 1.0


@dataclass(frozen=True)
class Compressed:
    """What became of one file.

    layers: one by one, and all together at the end.
    raw_bytes, packet_bytes: of all tensors, and of the packet.
    encode_s, decode_s: measured here.
    lossless: bytes of LZW and deflate over the bytes of raw floats that they were given, those of the largest layer.
    """

    layers: list[Told]
    raw_bytes: int
    packet_bytes: int
    encode_s: float
    decode_s: float
    lossless: dict[str, float]

    @property
    def break_even(self) -> float:
        """The link, in bits a second, on which a packet takes as long as the tensors as they are; it pays on slower ones."""
        return 8 * (self.raw_bytes - self.packet_bytes) / (self.encode_s + self.decode_s)

    def seconds(self, link: float) -> tuple[float, float]:
        """How long the tensors take as they are, and as a packet, encoded before and decoded afterwards."""
        packet = 8 * self.packet_bytes / link + self.encode_s + self.decode_s
        return 8 * self.raw_bytes / link, packet


def load(what: str) -> dict[str, Any]:
    """The tensors of a .safetensors file, or of a finished run's folder. Raises DataError."""
    path = Path(what)
    path = path / NETWORK if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{shown(path)}: no such file; name a .safetensors file, or the folder of a finished run")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{shown(path)}: no .safetensors file, or a damaged one ({one_line(error)[:100]})") from None


def compress(state: dict[str, Any], bits: int | None, coder: str, track: Track) -> Compressed:
    """Raises ConfigError where the coder is none, or lacks its package."""

    def watch(parts: Iterable[T], total: int, doing: str) -> Iterable[T]:
        return track(parts, doing, total)

    try:
        packet, encode_s = _timed(lambda: encode(state, bits, coder, watch=watch))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    decoded, decode_s = _timed(lambda: decode(packet, like=state, watch=watch))
    layers = told(contents(packet), state, decoded)
    raw_bytes = sum(tensor.nbytes for tensor in state.values())
    return Compressed(layers, raw_bytes, len(packet), encode_s, decode_s, _lossless(state))


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and its seconds: of a second call where the first one's own beginnings could be most of them."""
    begun = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - begun
    if seconds < SHORT_S:
        begun = time.perf_counter()
        found = call()
        seconds = min(seconds, time.perf_counter() - begun)
    return found, seconds


def _lossless(state: dict[str, Any]) -> dict[str, float]:
    """What the text sets aside (§3.1), for comparison; nothing where there are no weights."""
    if not (there := weights(state)):
        return {}
    data = raw(max(there.values(), key=lambda tensor: tensor.numel()))[:CONTROL_BYTES]
    return {"lzw": len(lzw(data)) / len(data), "deflate": len(deflate(data)) / len(data)}


def to_json(found: Compressed, link: float | None) -> dict[str, Any]:
    answer: dict[str, Any] = {**asdict(found), "break_even_bits_per_s": found.break_even}
    if link is not None:
        answer["link_bits_per_s"] = link
        answer["as_they_are_s"], answer["as_a_packet_s"] = found.seconds(link)
    return answer


def text(found: Compressed, link: float | None) -> str:
    rows = [("layer", "parameters", "kind", "N", "entropy", "bits", "ratio", "rms error", "largest")]
    for one in found.layers:
        bound = "" if one.bound is None else f"{one.bound:.2f}"
        error = (f"{100 * one.rms_error:.3g}%", f"{one.max_error:.2g}") if one.max_error else ("0", "0")
        levels = str(one.levels) if one.levels else ""
        measures = (bound, f"{one.bits:.2f}", f"{one.ratio:.2f}", *error)
        rows.append((shown(one.name), f"{one.parameters:,}", one.kind, levels, *measures))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *_told(found, link)])


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return [row[0].ljust(widths[0]), cells[1], row[2].ljust(widths[2]), *cells[3:]]


def _told(found: Compressed, link: float | None) -> list[str]:
    took = f"encoded in {duration(found.encode_s)}, decoded in {duration(found.decode_s)} here"
    lines = [f"{size(found.raw_bytes)} as they are, {size(found.packet_bytes)} as a packet; {took}"]
    if found.lossless:
        shares = " and ".join(f"{100 * share:.0f}% by {name}" for name, share in found.lossless.items())
        lines.append(f"for comparison, floats without loss: {shares} of the largest layer's first 256 KiB at most")
    if link is None:
        below = f"links below {rate(found.break_even)}; --link 100Mbit says what it saves on one"
        return [*lines, f"it pays on {below if found.break_even > 0 else 'no link'}"]
    plain, packet = found.seconds(link)
    verdict = f"{plain / packet:.3g} times as fast" if packet < plain else "which does not pay"
    lines.append(f"on {rate(link)}: {seconds(plain)} as they are, {seconds(packet)} as a packet, {verdict}")
    return lines
