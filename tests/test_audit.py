"""The committed ledgers: every line follows from what is declared and from what the code now makes of it. `make audit`.

These look at data, and at the code only as far as it names runs. So they are run where one of those changed
(scripts/audit_needed.py), and over the whole at the end of an issue.
"""

import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sampled
import torch
from matplotlib.image import imread
from PIL import Image

from effdl import config
from effdl.reproduce import artefact, declared, figure, floors, ledger, searched
from effdl.reproduce.artefact import Cell, Declaration
from effdl.reproduce.frame import frame
from effdl.reproduce.lines import SEARCH
from effdl.reproduce.readme import pages, rewrite
from effdl.reproduce.report import report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
NAMES = sorted(path.stem for path in (RESULTS / "ledger").glob("*.jsonl"))
PICTURES = sorted(path.stem for path in (RESULTS / "ledger").glob("*.png"))
AS_ON_A_GPU = 2  # cells of each ledger that a commit draws
Line = dict[str, Any]
# One worker looks at all of a ledger, which it reads and composes once.
LEDGERS = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES]
pytestmark = pytest.mark.audit
of_each_ledger = pytest.mark.parametrize("name", LEDGERS)


@cache
def lines(name: str) -> list[Line]:
    return ledger.read(RESULTS, name)


def with_runs(name: str) -> list[Line]:
    return [line for line in lines(name) if line["runs"]]


@cache
def declaration(name: str) -> Declaration:
    return artefact.load(name)


@cache
def cells(name: str) -> dict[tuple[str, str], Cell]:
    """By scale and name, those of the scales that the ledger has."""
    scales = sorted({line["scale"] for line in lines(name)})
    return {(scale, cell.name): cell for scale in scales for cell in declaration(name).all_cells(scale)}


def composed(cell: Cell, found: Sequence[str] = ()) -> config.Spec:
    """Of the first seed, on the CPU unless the cell says otherwise; its data need not be here."""
    return config.build(config.compose(artefact.on_the_cpu([*cell.overrides, *found])), checked=False)


def git(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False)


@cache
def is_ancestor(own: str, then: str) -> bool:
    return git("merge-base", "--is-ancestor", own, then).returncode == 0


def test_there_are_ledgers() -> None:
    assert len(NAMES) > 10 and len(PICTURES) > 10


@of_each_ledger
def test_lines_are_sorted_and_their_run_ids_follow_from_their_specs(name: str) -> None:
    texts = ledger.ledger_path(RESULTS, name).read_text().splitlines()
    assert texts == sorted(texts) and len(texts) == len(lines(name)) > 0
    assert {line["artefact"] for line in lines(name)} == {name}
    for line in lines(name):
        assert ("reason" in line or SEARCH in line) == (not line["runs"]), line["cell"]
    for line in with_runs(name):
        assert ledger.run_ids(line) == [run["run_id"] for run in line["runs"]], line["cell"]


@of_each_ledger
def test_lines_are_of_the_cells_and_seeds_that_are_declared(name: str) -> None:
    seeds: dict[tuple[str, str], list[int]] = {}
    firsts: dict[tuple[str, str], int] = {}
    asked = [(scale, cell.search.asked) for (scale, _), cell in cells(name).items() if cell.search is not None]
    for line in lines(name):
        place = (line["scale"], line["cell"])
        if SEARCH in line:
            assert (line["scale"], line[SEARCH]["asked"]) in asked, line["cell"]
            continue
        seeds.setdefault(place, []).extend(run["seed"] for run in line["runs"])
        assert line["runs"] or line["reason"], line["cell"]
        firsts[place] = cells(name)[place].first if line.get("draws") or cells(name)[place].drawn else 0
    for scale in {scale for scale, _ in cells(name)}:
        missing = {cell for of_scale, cell in cells(name) if of_scale == scale} - {cell for at, cell in seeds if at == scale}
        missing = {cell for cell in missing if floors.AXIS not in cell}  # what a floor runs may come later
        here = [line for line in lines(name) if line["scale"] == scale]
        said = report(declaration(name), scale, here) if missing else ""
        assert said.split("## Claims")[0].count("not run |") >= len(missing), (
            missing
        )  # what has not run is said, and not left out
    for place, found in seeds.items():
        assert sorted(found) in ([], [firsts[place] + i for i in range(cells(name)[place].seeds)]), place


@of_each_ledger
def test_lines_say_what_their_specs_say_of_them(name: str) -> None:
    for line in lines(name):
        assert ledger.stamped(line) == line, f"{line['cell']}: effdl publish {name} --scale {line['scale']}"


@of_each_ledger
def test_lines_have_the_spec_that_their_cell_now_makes(name: str) -> None:

    @cache
    def made(place: tuple[str, str]) -> dict[str, Any]:
        cell = cells(name)[place]
        return config.dump(composed(cell, searched.values(declaration(name), place[0], cell, RESULTS)), identity_only=True)

    for line in with_runs(name):
        by_sweep = {key: line["spec"][key] for key in ("stacked",) if key in line["spec"]}  # is settled there, not by the cell
        now = {**line, "spec": made((line["scale"], line["cell"])) | by_sweep}
        assert ledger.run_ids(now) == ledger.run_ids(line), line["cell"]


@of_each_ledger
def test_declarations_are_older_than_their_runs_and_unmoved(name: str) -> None:
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no whole git history here")
    stood = cache(lambda scale, commit: declared.at(declaration(name), scale, commit))
    for line in with_runs(name):
        own, then = line["declaration"]["commit"], line["provenance"]["commit"]
        assert is_ancestor(own, then) and is_ancestor(then, "HEAD"), line["cell"]
        if declaration(name).scale(line["scale"]).evidence == "fresh":  # older ones were written in words of their time
            assert stood(line["scale"], then) == line["declaration"], line["cell"]
    for scale, fixed in {line["scale"]: line["declaration"] for line in with_runs(name)}.items():
        assert declared.moved(declaration(name), scale, fixed) == []


@of_each_ledger
def test_drawn_cells_are_the_same_on_a_machine_with_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(line["runs"] for line in lines(name)):
        pytest.skip("its cells ask for a GPU, and none has run")
    places = sorted(cells(name))
    drawn = [cells(name)[place] for place in sampled.drawing(name).sample(places, min(AS_ON_A_GPU, len(places)))]
    here = [composed(cell) for cell in drawn]
    for asked in ("is_available", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, asked, lambda *_, **__: True)
    there = [composed(cell) for cell in drawn]
    assert there == here and {spec.hardware.device for spec in here} == {"cpu"}, f"drawn by commit {sampled.head()}"
    assert config.build(config.compose([])).hardware.device == "cuda"  # what is asked for without a table takes the GPU


@of_each_ledger
def test_times_that_runs_expected_and_took_agree_over_a_whole_ledger(name: str) -> None:
    times = [run["times"] for line in lines(name) for run in line["runs"] if run["status"] == "finished"]
    if not times or "time/estimate_s" not in times[0]:
        pytest.skip("a closed form says beforehand nothing of its time, or the ledger does not keep it")
    expected, took = (math.fsum(one[key] for one in times) for key in ("time/estimate_s", "time/wall_s"))
    took -= math.fsum(one.get("time/probe_s", 0.0) for one in times)  # of which no plan knows anything, and says so
    assert expected / 2 <= took <= 2 * expected


def test_make_readme_moves_nothing(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "ledger", tmp_path / "results" / "ledger")
    linked = []
    for page in pages(ROOT):
        copy = tmp_path / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(page.read_text())
        assert rewrite(copy, tmp_path / "results") == page.read_text()
        links = [page.parent / link for link in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text())]
        assert all(link.resolve().parent == RESULTS / "ledger" for link in links)
        linked += [link.stem for link in links]
    assert sorted(linked) == PICTURES
    moved = [
        path.name
        for path in (tmp_path / "results" / "ledger").iterdir()
        if path.read_bytes() != (RESULTS / "ledger" / path.name).read_bytes()
    ]
    assert moved == [], "these show other runs than the ledger holds, or were drawn by other code: make readme"


@pytest.mark.parametrize(
    "shown", [pytest.param(shown, marks=pytest.mark.xdist_group(shown.rsplit(".", 1)[0])) for shown in PICTURES]
)
def test_pictures_are_what_their_drawing_makes_of_the_ledger(shown: str, tmp_path: Path) -> None:
    """Drawn anew; fonts' edges and the last bits of what a drawing works out are each machine's own."""
    name, scale = shown.rsplit(".", 1)
    runs = frame(declaration(name), scale, lines(name))
    path = figure.write(declaration(name), scale, runs, tmp_path)
    ours, theirs = (imread(file) for file in (path, RESULTS / "ledger" / path.name))
    assert abs(ours.shape[0] - theirs.shape[0]) <= 3 and abs(ours.shape[1] - theirs.shape[1]) <= 3
    rows, columns = (min(ours.shape[i], theirs.shape[i]) for i in (0, 1))
    assert np.abs(ours[:rows, :columns] - theirs[:rows, :columns]).mean() < 0.01  # of values from 0 to 1
    assert Image.open(path).info["Source"] == Image.open(RESULTS / "ledger" / path.name).info["Source"]
