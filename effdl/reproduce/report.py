"""An artefact as Markdown: published numbers beside ours, claims with their verdicts, and how ours differs in set-up."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from effdl.reproduce import choices, declared, published, searched
from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.floors import said
from effdl.reproduce.frame import beside, frame
from effdl.reproduce.judge import Judged, judged
from effdl.reproduce.ledger import Line, made_anew
from effdl.reproduce.runs import Runs
from effdl.reproduce.tables import details, memory, pooled, table
from effdl.reproduce.wording import by_chance, claims_table, corrected, legend, markdown, name_of, word_of

NOTATION = (
    "± is the standard deviation over seeds, n their number, [ ] a 95% interval: Student's t for means over seeds, Clopper and "
    "Pearson's for shares of runs and, where nothing is drawn, of test samples."
)
REPEATED = (
    " Where nothing is drawn, recorded runs differ by the order of samples alone, which is rounding: an interval reaches over "
    "those of all of them, so that no verdict depends on which one is taken."
)


MANY = 4  # of names that a page need not list
SEARCHED = ["cells", "searched", "what it took", "best", "its score"]


def report(declaration: Declaration, scale: str, lines: Sequence[Line]) -> str:
    """The whole report; a pure function of declaration and ledger lines."""
    runs = frame(declaration, scale, lines)
    here = [line for line in lines if line["scale"] == scale]
    (found,) = corrected([judged(declaration, scale, runs)])
    sections = [
        f"# {heading(declaration)}\n\n{declaration.artefact.source}",
        f"Scale *{scale}*: {declaration.scale(scale).about}\n\n`{command(declaration, scale)}`",
        summary(declaration, scale, runs, found),
        by_chance(found, "in this report"),
        section("Each cell", details(declaration, scale, runs) if declaration.artefact.columns else ""),
        section("Other choices where the text says nothing", choices.compared(declaration, scale, runs)),
        section("How ours differs from the thesis", "\n".join(_differences(declaration, scale))),
        section("What the text leaves open", "\n".join(_assumptions(declaration, runs))),
        section("Provenance", "\n".join(_provenance(declaration, scale, here))),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def verdicts(declaration: Declaration, scale: str, lines: Sequence[Line]) -> dict[str, Any]:
    """The verdicts alone, as JSON values; a bound that is infinite is null."""
    (found,) = corrected([judged(declaration, scale, frame(declaration, scale, lines))])
    claims = [
        {
            "claim": one.name,
            **one.at,
            "verdict": word_of(one.verdict.word, one.claim.ours),
            "why": one.verdict.why,
            "over": list(one.over),
            "declared_after_first_looks": one.looked,
            "p": one.verdict.p,
            "survives_holm": one.survives,
            "paired": one.verdict.paired,
            **({k: _finite(v) for k, v in asdict(one.verdict.interval).items()} if one.verdict.interval else {}),
            "bounds": [_finite(bound) for bound in one.bounds],
        }
        for one in found
    ]
    return {"artefact": declaration.artefact.id, "scale": scale, "claims": claims}


def _finite(value: float | str | None) -> float | str | None:
    return value if value is None or isinstance(value, str) or math.isfinite(value) else None


def summary(declaration: Declaration, scale: str, runs: Runs, found: Sequence[Judged], folded: bool = False) -> str:
    """The table as the thesis prints it with ours beside it, and the claims.

    found: what `judged` says, corrected over the family that the reader sees. folded: as on a page, where rows under other
    choices than ours fold away, in HTML, and the details are not shown but those of memory.
    """
    module = beside(declaration)
    remarks = module.remarks(declaration, runs) if module is not None and hasattr(module, "remarks") else ()
    notes = "\n".join(f"- {note}" for note in (*remarks, *declaration.artefact.notes))
    others = table(declaration, scale, runs, found, own=False) if folded else ""
    title = "<summary>Under other choices, where the text says nothing</summary>"
    own = [cell for cell in declaration.cells(scale) if cell.search is not None]
    asked = list(searched.rows(own, lambda cell: _label(declaration, cell), runs.attrs["searches"]))
    by_level = table(declaration, scale, runs, found, own=True if folded else None)
    together = pooled(declaration, scale, runs, own=True if folded else None)
    if together:
        by_level = f"<details><summary>Each by itself</summary>\n\n{by_level}\n\n</details>" if folded else by_level
    parts = [
        together,
        by_level,
        f"<details>{title}\n\n{others}\n\n</details>" if others else "",
        NOTATION + (REPEATED if any(one.verdict.interval and one.verdict.interval.moved for one in found) else ""),
        legend(declaration, found),
        section("Claims", claims_table(declaration, found)),
        section("Memory", memory(declaration, scale, runs) if folded else ""),
        section("What was searched first", markdown(SEARCHED, asked) if asked else ""),
        section("Is the baseline finished?", "\n".join(f"- {line}" for line in said(declaration, scale, runs))),
        notes,
    ]
    return "\n\n".join(part for part in parts if part)


def _label(declaration: Declaration, cell: Cell) -> str:
    return ", ".join(declaration.label(axis, level) for axis, level in cell.at.items())


def heading(declaration: Declaration) -> str:
    """Such as "Table 6.1: First DLL accuracies"; of what stands in no thesis its title alone."""
    name = name_of(declaration)
    return name if name == declaration.title else f"{name}: {declaration.title}"


def command(declaration: Declaration, scale: str) -> str:
    """What makes the artefact's numbers anew."""
    by_rule = declaration.artefact.id in published.artefacts() or declaration.artefact.id.startswith("claims-")
    return (
        f"make {declaration.artefact.id} SCALE={scale}" if by_rule else f"effdl run {declaration.artefact.id} --scale {scale}"
    )


def section(title: str, content: str) -> str:
    """The content under its heading, nothing where there is none."""
    return f"## {title}\n\n{content}" if content else ""


def _differences(declaration: Declaration, scale: str) -> Iterator[str]:
    """Every setting that is not as at paper scale, and in which cells."""
    if "paper" not in declaration.artefact.scales or scale == "paper":
        return
    printed = {cell.name: cell.set for cell in declaration.cells("paper")}
    moved: dict[tuple[str, str, str], list[Cell]] = {}
    cells = [cell for cell in declaration.cells(scale) if cell.name in printed]
    for cell in cells:
        for key in {**cell.set, **printed[cell.name]}:
            then, now = printed[cell.name].get(key, "its default"), cell.set.get(key, "its default")
            if then != now:
                moved.setdefault((key, _plain(then), _plain(now)), []).append(cell)
    for (key, then, now), where in moved.items():
        yield f"- `{key}`: {now} instead of {then} ({_where(declaration, where, cells)})"


def _where(declaration: Declaration, some: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """The cells in few words: the levels of each axis that they do not have all of."""
    words = []
    for axis in declaration.artefact.axes:
        levels, all_levels = (list(dict.fromkeys(cell.at[axis] for cell in part)) for part in (some, cells))
        if levels != all_levels:
            words.append(" and ".join(declaration.label(axis, level) for level in levels))
    return ", ".join(words) or "everywhere"


def _assumptions(declaration: Declaration, runs: Runs) -> Iterator[str]:
    for name, assumption in declaration.artefact.assumptions.items():
        ran = set(runs[name].dropna()) if name in runs else set()
        first, *_ = (choice.label for choice in assumption.choices.values())
        others = [choice.label for key, choice in assumption.choices.items() if key in ran]
        yield f"- {assumption.why} Ours: {first}." + (f" Also run, in part: {'; '.join(others)}." if others else "")


def _provenance(declaration: Declaration, scale: str, lines: Sequence[Line]) -> Iterator[str]:
    """Commits, versions, machine, time; and claims that were not yet declared, or otherwise, when the runs began."""
    ran = [line for line in lines if line["runs"]]
    for text in sorted({_machine(line["provenance"]) for line in ran}):
        yield f"- {text}"
    if any(line["declaration"]["commit"] is None for line in ran):
        yield "- **That claims and floors stood fixed before these runs is in no commit.**"
    if warning := moved(declaration, scale, ran):
        yield f"- {warning}"
    for commit in sorted({line["declaration"]["commit"] for line in ran if line["declaration"]["commit"]}):
        rest = "All else of cells, claims and floors" if warning else "Cells, claims and floors"
        yield f"- {rest} stood fixed in commit {commit[:10]}, before these runs."
    for text in made_anew(declaration, ran):
        yield f"- Made anew: {text}."
    once = {run["run_id"]: run["times"].get("time/wall_s", 0.0) for line in ran for run in line["runs"]}  # cells may share runs
    if ran:
        yield f"- {len(once)} runs, {math.fsum(once.values()) / 60:.0f} minutes of run time in all."


def moved(declaration: Declaration, scale: str, lines: Sequence[Line]) -> str:
    """A warning that names what was declared or changed after the runs of these lines, and of which cells unless of all; empty
    where all stands."""
    known = [line for line in lines if line["runs"] and line["declaration"]["commit"]]
    found = {id(line): declared.moved(declaration, scale, line["declaration"]) for line in known}
    older = [line for line in known if found[id(line)]]
    names = sorted({name for of_line in found.values() for name in of_line})
    cells = list(dict.fromkeys(line["cell"] for line in older))
    of_cells = "" if len(older) == len(known) else f" of {_few(cells)}"
    of_cells += "" if any(line["draws"] for line in older) else ", which draw nothing"
    of_settings = [name for name in names if name.startswith(declared.CELL)]
    told = [*([_few(of_settings)] if of_settings else []), *(name for name in names if name not in of_settings)]
    return f"**Declared or changed after the runs{of_cells}: {', '.join(told)}.**" if names else ""


def _few(names: Sequence[str]) -> str:
    """All of them, or, of many, the first and how many more."""
    return ", ".join(names) if len(names) <= MANY else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _machine(provenance: Mapping[str, object]) -> str:
    told = [provenance.get(key) for key in ("machine", "processor", "vector", "blas")]  # older runs did not note all of it
    where = provenance["gpu"] or f"{provenance['cpus']} CPU cores ({', '.join(str(one) for one in told if one)})"
    dirty = ", with changes that were not committed" if provenance["dirty"] else ""
    return (
        f"{where}, {provenance['threads']} thread(s) a run, torch {provenance['torch']}, Python {provenance['python']}, "
        f"commit {str(provenance['commit'])[:10]}{dirty}"
    )


def _plain(value: object) -> str:
    return "null" if value is None else str(value)
