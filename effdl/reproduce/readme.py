"""Results in Markdown, from the ledger alone: each block between its markers is written anew, its picture too."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from effdl.errors import ConfigError, RecordError
from effdl.reproduce import artefact, figure, ledger, link_table
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import judged
from effdl.reproduce.overview import Shown, overview
from effdl.reproduce.palette import in_few_colours
from effdl.reproduce.quoted import NUMBER, quoted
from effdl.reproduce.report import command, heading, moved, summary
from effdl.reproduce.runs import Runs
from effdl.reproduce.tally import counts, counts_text, tell
from effdl.reproduce.wording import by_chance, corrected

OVERVIEW = re.compile(
    r"(?P<start><!-- overview(?:, with (?P<also>[^>]*?) of (?P<on>\S+))? -->).*?(?P<end><!-- /overview -->)", re.DOTALL
)
WAITING = re.compile(r"^<!-- no results yet: (?P<name>\S+) (?P<scale>\S+) -->$", re.MULTILINE)
BLOCK = re.compile(r"<!-- results: (?P<name>\S+) (?P<scale>\S+) -->.*?<!-- /results -->", re.DOTALL)


def pages(repository: Path) -> Iterator[Path]:
    """The README, those of the experiments that have results, and documents that quote numbers."""
    yield repository / "README.md"
    yield from (page for page in sorted(repository.glob("docs/*.md")) if NUMBER.search(page.read_text()))
    yield from (page for page in sorted(repository.glob("experiments/*/README.md")) if _has_results(page.read_text()))


def _has_results(text: str) -> bool:
    return any(block.search(text) for block in (BLOCK, link_table.BLOCK))


def rewrite(page: Path, root: Path) -> str:
    """A page's text with every block ``<!-- results: table-6.1 small -->`` ... ``<!-- /results -->`` made anew, and the first
    screen, ``<!-- overview -->`` ... ``<!-- /overview -->``, where it has one, which ``<!-- overview, with table-6.1 small,
    table-6.2 small of ../../README.md -->`` lets tell of what another page shows; links' tables, see `link_table`; and each
    number that its text quotes, see `quoted`. A place that has no numbers yet is ``<!-- no results yet: table-6.1 small -->``.

    Args:
        root: the results folder; pictures are written beside its ledger, and linked to from where the page lies.

    Raises:
        ConfigError: a block names an artefact or scale that is not declared, or none is there.
        RecordError: the ledger has nothing of it, or was edited.
    """
    text = page.read_text()
    if not (_has_results(text) or NUMBER.search(text)):
        raise ConfigError(f"{page.name}: has no block <!-- results: artefact scale --> ... <!-- /results -->")
    here = [(match["name"], match["scale"]) for match in BLOCK.finditer(text)]
    elsewhere = _elsewhere(text)
    read = {key: _read(*key, root) for key in (*elsewhere, *here)}
    family = corrected([judged(declaration, scale, runs) for (_, scale), (declaration, _, runs) in read.items()])
    lines = {key: lines for key, (_, lines, _) in read.items()}
    page_of = {
        key: Shown(declaration, key[1], runs, found, elsewhere.get(key, ""))
        for (key, (declaration, _, runs)), found in zip(read.items(), family, strict=True)
    }
    to_root = Path(os.path.relpath(root.resolve(), page.parent.resolve())).as_posix()
    has_first_screen = OVERVIEW.search(text) is not None
    found_here = {name for name, _ in read}
    waiting = [artefact.load(match["name"]) for match in WAITING.finditer(text) if match["name"] not in found_here]
    screen = overview(list(page_of.values()), waiting) if page_of or waiting else ""
    text = OVERVIEW.sub(lambda match: "\n\n".join([match["start"], screen, match["end"]]), text)

    def block(match: re.Match[str]) -> str:
        key = (match["name"], match["scale"])
        return _block(page_of[key], lines[key], root, to_root, folded=has_first_screen)

    return quoted(link_table.shown(BLOCK.sub(block, text), root), root)


def _elsewhere(text: str) -> dict[tuple[str, str], str]:
    """(artefact, scale) -> the page that shows it, of those that the first screen tells of beside the page's own."""
    match = OVERVIEW.search(text)
    if match is None or match["also"] is None:
        return {}
    pairs = [one.split() for one in match["also"].split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ConfigError(f"overview, with {match['also']}: say an artefact and a scale each, with a comma between")
    return {(pair[0], pair[1]): match["on"] for pair in pairs}


def _read(name: str, scale: str, root: Path) -> tuple[Declaration, list[ledger.Line], Runs]:
    declaration = artefact.load(name)
    lines = [line for line in ledger.read(root, name) if line["scale"] == scale]
    if not lines:
        raise RecordError(f"{name}: the ledger has nothing at scale {scale}; effdl publish {name} --scale {scale}")
    return declaration, lines, frame(declaration, scale, lines)


def _block(shown: Shown, lines: list[ledger.Line], root: Path, to_root: str, folded: bool) -> str:
    """An artefact's heading, table, claims and picture. folded: tables open on a click, as on a page with a first screen."""
    declaration, scale = shown.declaration, shown.scale
    name = declaration.artefact.id
    tables = summary(declaration, scale, shown.runs, shown.found, folded=True).replace("\n## ", "\n#### ")
    opened = f"<details><summary>{'; '.join(counts_text(counts(tell(declaration, {scale: shown.found})))) or 'Table'}</summary>"
    content = [
        f"<!-- results: {name} {scale} -->",
        f'<a id="{name}"></a>',
        f"### {heading(declaration)}, scale *{scale}*",
        f"{declaration.scale(scale).about} Made by `{command(declaration, scale)}`; `effdl report {name}` says more.",
        moved(declaration, scale, lines),
        f"{opened}\n\n{tables}\n\n</details>" if folded else tables,
        "" if folded else by_chance(shown.found, "in this table and its claims"),
    ]
    if declaration.artefact.picture:
        picture = in_few_colours(figure.write(declaration, scale, shown.runs, root / "ledger"))
        content.append(f"![{name}, scale {scale}]({to_root}/{picture.relative_to(root).as_posix()})")
    content.append("<!-- /results -->")
    return "\n\n".join(part for part in content if part)
