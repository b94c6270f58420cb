"""Results in Markdown, from the ledger alone: each block between its markers is written anew, its picture too."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from effdl.errors import ConfigError, RecordError
from effdl.reproduce import artefact, figure, ledger
from effdl.reproduce.frame import frame
from effdl.reproduce.report import command, heading, moved, summary

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
    to_root = Path(os.path.relpath(root.resolve(), page.parent.resolve())).as_posix()
    return BLOCK.sub(lambda match: _block(match["name"], match["scale"], root, to_root), text)


def _block(name: str, scale: str, root: Path, to_root: str) -> str:
    declaration = artefact.load(name)
    lines = [line for line in ledger.read(root, name) if line["scale"] == scale]
    if not lines:
        raise RecordError(f"{name}: the ledger has nothing at scale {scale}; effdl publish {name} --scale {scale}")
    runs = frame(declaration, scale, lines)
    content = [
        f"<!-- results: {name} {scale} -->",
        f"### {heading(declaration)}, scale *{scale}*",
        f"{declaration.scale(scale).about} Made by `{command(declaration, scale)}`; `effdl report {name}` says more.",
        moved(declaration, scale, lines),
        summary(declaration, scale, runs, folded=True).replace("\n## ", "\n#### "),
    ]
    if declaration.artefact.picture:
        picture = figure.write(declaration, scale, runs, root / "ledger")
        content.append(f"![{name}, scale {scale}]({to_root}/{picture.relative_to(root).as_posix()})")
    content.append("<!-- /results -->")
    return "\n\n".join(part for part in content if part)
