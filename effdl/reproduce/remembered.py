"""The verdicts that a ledger gives, remembered by the content of all that goes into them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdl import config
from effdl.cache import installed, recall, remember
from effdl.errors import EffdlError
from effdl.reproduce import published
from effdl.reproduce.artefact import Declaration, built
from effdl.reproduce.claims import answered
from effdl.reproduce.ledger import ledger_path
from effdl.reproduce.tally import Told

if TYPE_CHECKING:
    from effdl.reproduce.judge import Judged

LIBRARIES = ("numpy", "pandas", "scipy", "scikit-learn", "torch")  # by which verdicts are worked out


@dataclass(frozen=True)
class Verdicts:
    """What a ledger says of an artefact.

    words: scale -> word -> how often; of scales that it has. said: scale -> [claim of a thesis, verdict in words], and told:
    each declared claim once.
    """

    words: Mapping[str, Mapping[str, int]]
    said: Mapping[str, list[list[str]]]
    told: list[Told]


def verdicts(declaration: Declaration, root: Path, digest: Callable[[Path], str] | None = None) -> Verdicts:
    """The verdicts on an artefact's published runs. Raises RecordError: a line was edited.

    digest: `digest_of_folder`, or one that remembers its answers, where many declarations of a folder are asked for at once.
    """
    key, claims = _key(declaration, root, digest or digest_of_folder), declaration.artefact.claims
    known = recall("verdicts", key)
    if known is None:
        known = _found(declaration, root)
        remember("verdicts", key, known)
    told = [
        Told(declaration, name, claims[name], scale, word, (places[0], places[1]), looked, fitted)
        for name, scale, word, places, looked, fitted in known["told"]
    ]
    return Verdicts(known["words"], known["said"], told)


def _found(declaration: Declaration, root: Path) -> dict[str, Any]:
    from effdl.reproduce import tally
    from effdl.reproduce.frame import frame
    from effdl.reproduce.judge import judged
    from effdl.reproduce.ledger import read
    from effdl.reproduce.wording import word_of

    lines, found = read(root, declaration.artefact.id), {}
    for scale in declaration.artefact.scales:
        here = [line for line in lines if line["scale"] == scale]
        found[scale] = judged(declaration, scale, frame(declaration, scale, here)) if here else []
    return {
        "words": {s: dict(Counter(word_of(one.verdict.word, one.claim.ours) for one in all_)) for s, all_ in found.items()},
        "said": {scale: [list(pair) for one in all_ for pair in _said(declaration, one)] for scale, all_ in found.items()},
        "told": [[t.name, t.scale, t.word, list(t.places), t.looked, t.fitted] for t in tally.tell(declaration, found)],
    }


def _said(declaration: Declaration, one: Judged) -> Iterator[tuple[str, str]]:
    where = ", ".join(declaration.label(axis, level) for axis, level in one.at.items())
    for name in answered(one.claim):
        yield name, f"{where}: {one.verdict.text}" if where else one.verdict.text


def _key(declaration: Declaration, root: Path, digest: Callable[[Path], str]) -> str:
    """Digests of the code, of all that is declared and printed, of data that a module beside may look at, and of the ledger."""
    ledger = ledger_path(root, declaration.artefact.id)
    of_ledger = hashlib.sha256(ledger.read_bytes()).hexdigest() if ledger.is_file() else ""
    of_files = [_code(), config.digest_of_configs(), *map(digest, (declaration.path.parent, published.PUBLISHED))]
    of_data = sorted(set(_data(declaration))) if declaration.module.is_file() else []
    return json.dumps([str(declaration.path), *of_files, *of_data, of_ledger, *map(installed, LIBRARIES)])


def _data(declaration: Declaration) -> Iterator[str]:
    from effdl.records.carry import fingerprint

    for cell in (cell for scale in declaration.artefact.scales for cell in declaration.all_cells(scale)):
        try:
            yield fingerprint(built(cell.name, cell.overrides).dataset)
        except EffdlError as error:
            yield str(error)


@cache
def _code() -> str:
    return digest_of_folder(Path(__file__).parents[1])


def digest_of_folder(folder: Path) -> str:
    """SHA-256 over path and content of every file below."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file()):
        digest.update(f"{path}\0".encode(errors="surrogateescape") + path.read_bytes() + b"\0")
    return digest.hexdigest()
