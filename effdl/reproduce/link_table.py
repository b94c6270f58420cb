"""Exchanges of weights on links between workers: what was measured beside what was predicted, in a file and as a page's tables.

The file, results/ledger/links.json, is a list of lines with a checksum each, as the ledger's are. Of a link, a number of
workers, a network and a form of packets a line holds ``packet_bytes``, ``encode_s``, ``decode_s``, ``latency_s``, ``mean_s``
and ``own_bytes_per_s`` (see `costs.exchange`; null for infinite), ``predicted_s``, which follows from them, ``measured_s``,
seconds of each exchange, of which there are none where it is predicted only, and the ``provenance`` of the measurement. `make
links` writes it.
"""

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effdl.errors import RecordError
from effdl.records.links import seconds
from effdl.reproduce.lines import canonical, checksum
from effdl.reproduce.wording import markdown

BLOCK = re.compile(r"(?P<start><!-- links -->).*?(?P<end><!-- /links -->)", re.DOTALL)
OFF = 0.20  # as far as a prediction may be from the median of what was measured, as a share of it (issue and page say so)
NOT_MEASURED = "Not measured yet: `make links`, as root, on a quiet machine."
PLACE = ("link", "workers", "network", "form")
Line = dict[str, Any]


def path(root: Path) -> Path:
    return root / "ledger" / "links.json"


def read(root: Path) -> list[Line]:
    """The lines of a results folder, in their order; none where nothing was kept. Raises RecordError where one was edited."""
    file = path(root)
    try:
        lines = json.loads(file.read_text()) if file.is_file() else []
        intact = [line.pop("checksum") == checksum(line) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RecordError(f"{file}: is no list of links; restore the file with git, or measure again") from None
    for number, found in enumerate(intact, 1):
        if not found:
            raise RecordError(f"{file}, line {number}: was edited, its checksum differs; restore it with git, or measure again")
    return list(lines)


def write(root: Path, lines: Sequence[Line]) -> Path:
    """Put them in the place of those that are there."""
    from effdl.records.store import write_atomically

    file = path(root)
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [canonical({**line, "checksum": checksum(line)}) for line in lines]
    write_atomically(file, ("[\n" + ",\n".join(texts) + "\n]\n").encode())
    return file


def ratio(line: Line) -> float | None:
    """What was predicted over the median of what was measured; None where nothing was."""
    return line["predicted_s"] / statistics.median(line["measured_s"]) if line["measured_s"] else None


def holds(line: Line) -> bool | None:
    """Whether the prediction is within `OFF` of the median; None where it is a prediction only."""
    found = ratio(line)
    return None if found is None else abs(found - 1) <= OFF


def shown(page: str, root: Path) -> str:
    """A page's text with each block ``<!-- links --> ... <!-- /links -->`` made anew from the file."""
    if not BLOCK.search(page):
        return page
    content = tables(read(root))
    return BLOCK.sub(lambda match: f"{match['start']}\n\n{content}\n\n{match['end']}", page)


def tables(lines: Sequence[Line]) -> str:
    """How many predictions hold and which do not, an exchange by link and form, and every line by itself, folded."""
    if not lines:
        return NOT_MEASURED
    rows = markdown(HEADER, [_row(line) for line in lines])
    folded = f"<details><summary>Every measurement, and every prediction</summary>\n\n{rows}\n\n</details>"
    return "\n\n".join([*_checked(lines), *_by_link(lines), folded, *_origins(lines)])


HEADER = (
    *("link", "workers", "network", "packets", "bytes", "predicted", "measured, median", "min to max", "n", "ratio"),
    f"within {OFF:.0%}",
)


def _row(line: Line) -> list[str]:
    place = [str(line[key]) for key in PLACE]
    told = [*place, f"{line['packet_bytes']:,}", seconds(line["predicted_s"])]
    found = ratio(line)
    if found is None:
        return [*told, "*predicted only*", "", "0", "", ""]
    taken = line["measured_s"]
    spread = f"{seconds(min(taken))} to {seconds(max(taken))}"
    return [
        *told,
        seconds(statistics.median(taken)),
        spread,
        str(len(taken)),
        f"{found:.2f}",
        "yes" if holds(line) else "**no**",
    ]


def _checked(lines: Sequence[Line]) -> Iterator[str]:
    """How often a prediction was near enough, and each place where it was not."""
    measured = [line for line in lines if line["measured_s"]]
    near = sum(bool(holds(line)) for line in measured)
    said = f"Of {len(measured)} exchanges that were measured, {near} take what was predicted within {OFF:.0%}"
    misses = [
        f"{', '.join(map(_place, PLACE, (line[key] for key in PLACE)))} ({ratio(line):.2f})"
        for line in measured
        if not holds(line)
    ]
    yield f"{said}; the others, with predicted over measured: {'; '.join(misses)}." if misses else f"{said}."


def _place(key: str, level: Any) -> str:
    return f"{level} workers" if key == "workers" else str(level)


def _by_link(lines: Sequence[Line]) -> Iterator[str]:
    """Of each network, seconds of an exchange by link and form."""
    forms = list(dict.fromkeys(line["form"] for line in lines))
    at: Mapping[tuple[Any, ...], Line] = {tuple(line[key] for key in PLACE): line for line in lines}
    for network in dict.fromkeys(line["network"] for line in lines):
        places = dict.fromkeys((line["link"], line["workers"]) for line in lines if line["network"] == network)
        rows = [[*map(str, place), *_across([at.get((*place, network, form)) for form in forms])] for place in places]
        yield f"An exchange of {network}, medians; the quickest of a row is bold, and *what is predicted only* slanted:"
        yield markdown(["link", "workers", *forms], rows)


def _across(lines: Sequence[Line | None]) -> list[str]:
    """A link's cells; the quickest form is bold, and what was not measured slanted."""
    taken = [_taken(line) if line else None for line in lines]
    least = min(value for value in taken if value is not None)
    cells = []
    for line, value in zip(lines, taken, strict=True):
        text = "" if value is None else seconds(value)
        text = f"**{text}**" if value == least else text
        cells.append(f"*{text}*" if line and not line["measured_s"] else text)
    return cells


def _taken(line: Line) -> float:
    return float(statistics.median(line["measured_s"]) if line["measured_s"] else line["predicted_s"])


def _origins(lines: Sequence[Line]) -> Iterator[str]:
    """Where and from which commit it was measured, once for each that there is."""
    told: dict[str, list[str]] = {}
    for line in lines:
        told.setdefault(_origin(line["provenance"]), []).append(line["link"])
    for origin, links in told.items():
        which = f"{', '.join(dict.fromkeys(links))}: measured" if len(told) > 1 else "Measured"
        yield f"{which} {origin}."


def _origin(provenance: Mapping[str, Any]) -> str:
    commit, changed = (provenance["commit"] or "none")[:10], " with changes" if provenance["dirty"] else ""
    return (
        f"from commit {commit}{changed}, on {provenance['processor']}, {provenance['cpus']} CPUs, torch {provenance['torch']}"
    )
