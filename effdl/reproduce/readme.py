"""Results in Markdown, from the ledger alone: each block between its markers is written anew, its picture too."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effdl.errors import ConfigError, RecordError
from effdl.reproduce import artefact, figure, ledger
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import Judged, judged
from effdl.reproduce.report import command, heading, moved, summary
from effdl.reproduce.runs import Runs
from effdl.reproduce.wording import by_chance, corrected

CHANCE = re.compile(r"(?P<start><!-- chance -->).*?(?P<end><!-- /chance -->)", re.DOTALL)
BLOCK = re.compile(r"<!-- results: (?P<name>\S+) (?P<scale>\S+) -->.*?<!-- /results -->", re.DOTALL)


def pages(repository: Path) -> Iterator[Path]:
    """The README, and those of the experiments that have results."""
    yield repository / "README.md"
    yield from (page for page in sorted(repository.glob("experiments/*/README.md")) if BLOCK.search(page.read_text()))


def rewrite(page: Path, root: Path) -> str:
    """A page's text with every block ``<!-- results: table-6.1 small -->`` ... ``<!-- /results -->`` made anew.

    Args:
        root: the results folder; pictures are written beside its ledger, and linked to from where the page lies.

    Raises:
        ConfigError: a block names an artefact or scale that is not declared, or none is there.
        RecordError: the ledger has nothing of it, or was edited.
    """
    text = page.read_text()
    if not BLOCK.search(text):
        raise ConfigError(f"{page.name}: has no block <!-- results: artefact scale --> ... <!-- /results -->")
    blocks = {(match["name"], match["scale"]): _read(match["name"], match["scale"], root) for match in BLOCK.finditer(text)}
    family = corrected([judged(block.declaration, block.scale, block.runs) for block in blocks.values()])
    found = dict(zip(blocks, family, strict=True))
    to_root = Path(os.path.relpath(root.resolve(), page.parent.resolve())).as_posix()
    chance = by_chance([one for found in family for one in found], "on this page")
    text = CHANCE.sub(lambda match: "\n\n".join(filter(None, [match["start"], chance, match["end"]])), text)
    return BLOCK.sub(lambda m: _block(blocks[m["name"], m["scale"]], found[m["name"], m["scale"]], root, to_root), text)


@dataclass(frozen=True)
class Block:
    """An artefact at a scale, with what the ledger has of it."""

    declaration: Declaration
    scale: str
    lines: list[ledger.Line]
    runs: Runs


def _read(name: str, scale: str, root: Path) -> Block:
    declaration = artefact.load(name)
    lines = [line for line in ledger.read(root, name) if line["scale"] == scale]
    if not lines:
        raise RecordError(f"{name}: the ledger has nothing at scale {scale}; effdl publish {name} --scale {scale}")
    return Block(declaration, scale, lines, frame(declaration, scale, lines))


def _block(block: Block, found: list[Judged], root: Path, to_root: str) -> str:
    declaration, scale, lines, runs = block.declaration, block.scale, block.lines, block.runs
    name = declaration.artefact.id
    content = [
        f"<!-- results: {name} {scale} -->",
        f"### {heading(declaration)}, scale *{scale}*",
        f"{declaration.scale(scale).about} Made by `{command(declaration, scale)}`; `effdl report {name}` says more.",
        moved(declaration, scale, lines),
        summary(declaration, scale, runs, found, folded=True).replace("\n## ", "\n#### "),
    ]
    if declaration.artefact.picture:
        picture = figure.write(declaration, scale, runs, root / "ledger")
        content.append(f"![{name}, scale {scale}]({to_root}/{picture.relative_to(root).as_posix()})")
    content.append("<!-- /results -->")
    return "\n\n".join(part for part in content if part)
