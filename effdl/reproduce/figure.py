"""An artefact's picture: drawn by the function beside its declaration, else each cell as a point with its interval."""

import ast
import hashlib
import inspect
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.estimate import Mean, mean
from effdl.reproduce.frame import beside
from effdl.reproduce.runs import Runs, values
from effdl.reproduce.verdict import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"
CHARACTERS = 90  # that fit beside each other under a picture
GREYS = ("0.0", "0.45", "0.7", "0.85")
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150, "svg.hashsalt": "effdl"}


def write(declaration: Declaration, scale: str, runs: Runs, folder: Path) -> Path:
    """The path of the picture, a PNG file in a folder. A file that already shows these runs, by this code, stays as it is.

    The file's text "Source" names both by their digests. Pixels cannot: the same drawing differs from machine to machine in the
    last bits of what it works out, and in its fonts' edges.
    """
    path = folder / f"{declaration.artefact.id}.{scale}.png"
    source = f"runs {runs.attrs['digest']}, drawing {drawing(declaration, scale)}"
    if _source(path) != source:
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(declaration, scale, runs, path, source)
    return path


def drawing(declaration: Declaration, scale: str) -> str:
    """A digest of all that makes a picture beside its runs: the code that draws, the cells, and the labels on them."""
    artefact, module = declaration.artefact, declaration.module
    sources = [Path(__file__).read_text(), module.read_text() if module.is_file() else ""]
    sources += [inspect.getsource(function) for function in (values, interval, Mean)]
    labels = {
        axis: [[level, declaration.label(axis, level)] for level in levels] for axis, levels in declaration.open_axes.items()
    }
    cells = [[cell.name, cell.overrides, cell.published] for cell in declaration.cells(scale)]
    told = [artefact.id, scale, artefact.metric, artefact.unit, artefact.rows, artefact.columns, labels, cells]
    content = json.dumps([*map(_code, sources), told], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _code(source: str) -> str:
    """A source without docstrings, comments and empty lines: as text, since each Python has a syntax tree of its own."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            told = node.body[0]
            lines[told.lineno - 1 : told.end_lineno] = [""] * len(lines[told.lineno - 1 : told.end_lineno])
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def _source(path: Path) -> str | None:
    """What a picture says that it shows; None where none is there."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.info.get("Source")
    except (FileNotFoundError, UnidentifiedImageError):
        return None


def _save(declaration: Declaration, scale: str, runs: Runs, path: Path, source: str) -> None:
    """Draw in matplotlib's own style and fonts, whatever the user's are, by the one backend that draws pixels."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        drawn = draw(declaration, scale, runs)
        FigureCanvasAgg(drawn).print_figure(path, metadata={"Software": None, "Source": source}, bbox_inches="tight")


def draw(declaration: Declaration, scale: str, runs: Runs) -> "Figure":
    """The figure of a declaration. Its own ``draw(declaration, scale, runs) -> Figure`` where it has one."""
    module = beside(declaration)
    if module is not None and hasattr(module, "draw"):
        own: Figure = module.draw(declaration, scale, runs)
        return own
    from matplotlib import figure

    drawn = figure.Figure(figsize=(7, 3.5), layout="constrained")
    points(drawn.subplots(), declaration, scale, runs)
    return drawn


def points(axes: "Axes", declaration: Declaration, scale: str, runs: Runs) -> None:
    """Rows of the table along x; for each column's cell the mean with its 95% t-interval, and what the thesis prints."""
    artefact = declaration.artefact
    cells = [cell for cell in declaration.cells(scale) if set(cell.at) == set(artefact.axes)]
    rows = list(dict.fromkeys(_row(declaration, cell) for cell in cells))
    levels = list(artefact.axes[artefact.columns]) if artefact.columns else [""]
    for i, level in enumerate(levels):
        of_level = [cell for cell in cells if artefact.columns is None or cell.at[artefact.columns] == level]
        shift = 0.16 * (i - (len(levels) - 1) / 2)
        places = [rows.index(_row(declaration, cell)) + shift for cell in of_level]
        _points(axes, declaration, runs, of_level, places, i)
        printed = [(x, cell.published) for x, cell in zip(places, of_level, strict=True) if cell.published is not None]
        for x, value in printed:
            axes.plot(x, value, "_", markersize=9, color="0.5", label="printed" if (i, x) == (0, printed[0][0]) else None)
    labels = [row.replace(", ", "\n") for row in rows]
    crowded = len(rows) * max(len(line) for label in labels for line in label.split("\n")) > CHARACTERS
    turned: Any = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(rows)), rows if crowded else labels, **turned)  # turned lines of one label hide the next one's
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_ylabel(f"{artefact.metric} ({artefact.unit})" if artefact.unit else artefact.metric)
    axes.set_title(f"{artefact.id}, scale {scale}; bars: 95% t-interval over seeds", loc="left", fontsize=9, pad=20)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(levels) + 1)


def _points(axes: "Axes", declaration: Declaration, runs: Runs, cells: list[Cell], places: list[float], i: int) -> None:
    artefact = declaration.artefact
    label: Any = declaration.label(artefact.columns, cells[0].at[artefact.columns]) if artefact.columns else "ours"
    for x, cell in zip(places, cells, strict=True):
        found = list(values(runs, cell, artefact.metric, artefact.unit).values())
        if not found:
            continue
        measured = interval(mean(found))
        reach = measured.high - measured.mean if math.isfinite(measured.high) else None
        axes.errorbar(
            x,
            measured.mean,
            reach,
            fmt=MARKERS[i % len(MARKERS)],
            color=GREYS[i % len(GREYS)],
            capsize=2,
            markersize=4,
            label=label,
        )
        label = None


def _row(declaration: Declaration, cell: Cell) -> str:
    return ", ".join(declaration.label(axis, cell.at[axis]) for axis in declaration.artefact.rows)
