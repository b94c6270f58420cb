"""What averaging would take of a run's time, as people read it: every form of what is sent, beside tensors as they are."""

from typing import Any

from effdl.records.links import rate, seconds
from effdl.records.report import size

COLUMNS = ("form", "packet", "encode", "decode", "exchange", "of the time", "pays", "exchange", "training")


def text(overrides: str, found: Any) -> str:
    """One plan of `records.exchanging`."""
    how = found.exchange
    rows = [COLUMNS, *(_row(form, found) for form in found.forms)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [_aligned(row, widths) for row in rows]
    head = f"{overrides}: {how.workers} workers, {rate(how.link)} each"
    return "\n".join([head, *_of_what(found), "", *lines, "", *_ending(found)])


def _of_what(found: Any) -> list[str]:
    how = found.exchange
    whose = f", those of segment {found.segment} of {found.segments}, the largest" if found.segments > 1 else ""
    held = f"changes of {found.changed} steps from the drawn weights" if found.changed else "the weights"
    every = f"every {how.every} steps" if how.every > 1 else "every step"
    lines = [
        f"{found.weights:,} weights{whose}, averaged {every}. Lossy forms hold {held}; exact ones, weights.",
        f"Measured here: packets, coding, and a step of {found.samples} samples ({seconds(how.step_s)}), by one process alone.",
    ]
    if found.predicted:
        lines.append(f"Predicted: {' and '.join(found.predicted)}, of which this machine measures nothing.")
    return lines


def _row(form: str, found: Any) -> tuple[str, ...]:
    one = found.of(form)
    name = f"{'* ' if form == found.chosen else '  '}{form}"
    if form.startswith("auto") and found.auto is not None:
        name += f" (takes {found.auto})"
    times = [one["encode_s"], one["decode_s"], one["exchange_s"]]
    plain = found.forms[form] is found.plain
    beside = ("", "", "") if plain else ("yes" if one["pays"] else "no", _times(one, "exchange"), _times(one, "training"))
    return (name, size(one["packet_bytes"]), *map(seconds, times), f"{one['share']:.1%}", *beside)


def _times(one: dict[str, Any], what: str) -> str:
    return f"× {one[f'{what}_times_as_fast']:.2f}"


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip()


def _ending(found: Any) -> list[str]:
    """Whether the chosen form pays, on which links, and which would be the fastest."""
    lines, best = [], min(found.forms, key=lambda form: float(found.of(form)["exchange_s"]))
    if found.forms[found.chosen] is not found.plain:
        one = found.of(found.chosen)
        lines.append(f"{found.chosen} {'pays' if one['pays'] else 'does not pay'}: {_fast(one)} as with tensors as they are.")
        lines.append(f"It pays {_where(one['break_even_bits_per_s'])}.")
    if best != found.chosen:
        lines.append(f"The fastest here is {best}: {_fast(found.of(best))}.")
    return lines


def _fast(one: dict[str, Any]) -> str:
    return f"training is {one['training_times_as_fast']:.3g} times as fast"


def _where(limit: float) -> str:
    if not limit:
        return "on no link"
    return "on every link" if limit == float("inf") else f"on links below {rate(limit)}"
