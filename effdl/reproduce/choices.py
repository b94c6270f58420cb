"""Which choices, where the text says nothing, come nearest to print: the search behind an assumption's first choice."""

import math
from collections.abc import Mapping

from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.judge import EXPLORATORY, combinations, judged, under
from effdl.reproduce.runs import Runs, values
from effdl.reproduce.verdict import FITTED, REPRODUCED, WORDS
from effdl.reproduce.wording import markdown


def compared(declaration: Declaration, scale: str, runs: Runs) -> str:
    """A row for each combination of choices that a scale runs throughout, the nearest to the printed numbers first: how far off
    it is, and how many claims hold under it; none may. Empty where there is one combination alone."""
    explored = declaration.scale(scale).evidence == EXPLORATORY
    rows, fitting = [], []
    for choices in [{}, *combinations(declaration, scale)]:
        cells = under(declaration, scale, choices)
        words = [one.verdict.word for one in judged(declaration, scale, runs, choices)]
        whole = {tuple(cell.at[axis] for axis in declaration.artefact.axes) for cell in cells}
        if "no such cells" in words or len(whole) < len(under(declaration, scale, {})):  # run in part only
            continue
        name = ", ".join(declaration.label(axis, choice) for axis, choice in choices.items()) or "our own"
        counted = [str(words.count(word)) for word in WORDS] + [str(sum(word not in WORDS for word in words))]
        off = distance(declaration, runs, cells)
        rows.append((math.inf if off is None else off, [name, "" if off is None else f"{off:.3g}", *counted]))
        if set(words) <= {REPRODUCED, FITTED}:
            fitting.append(name)
    if len(rows) < 2:
        return ""
    rows.sort(key=lambda row: row[0])  # where nothing is printed, in their order
    last = f"All claims hold together under: {'; '.join(fitting)}." if fitting else "None fits all claims together."
    header = ["choices", "root mean square distance to print", *([] if explored else [*WORDS, "no verdict"])]
    table = markdown(header, [row[: len(header)] for _, row in rows])
    return table if explored else f"{table}\n\n{last}"


def distance(declaration: Declaration, runs: Runs, cells: list[Cell]) -> float | None:
    """Root mean square of ours minus printed over the cells that have a printed number, in the artefact's unit; None where none
    has both."""
    artefact, gaps = declaration.artefact, list[float]()
    for cell in cells:
        found: Mapping[int, float] = values(runs, cell, artefact.metric, artefact.unit)
        if cell.published is not None and found:
            gaps.append(math.fsum(found.values()) / len(found) - cell.published)
    return math.sqrt(math.fsum(gap**2 for gap in gaps) / len(gaps)) if gaps else None
