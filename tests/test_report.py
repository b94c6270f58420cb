"""The report is a function of the ledger alone, and says what it leaves out."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from declared import DRAWS_NOTHING, PROVENANCE, SEEDS, declare, lines, ran
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import stats

from effdl import config
from effdl.errors import ConfigError, RecordError
from effdl.records import carry
from effdl.records.plan import cost
from effdl.records.report import size
from effdl.reproduce import conduct, declared, figure, ledger, wording
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.frame import frame
from effdl.reproduce.judge import judged
from effdl.reproduce.report import moved, report, summary
from effdl.reproduce.survey import survey

PIXELS = 0.02  # mean absolute difference of two pictures that are to be the same, of a full scale of 1
TOLD = {
    "data=few,method=base": [0.90, 0.92] * 3,
    "data=few,method=ours": [0.93, 0.95] * 3,
    "data=many,method=base": [0.97] * 6,
    "data=many,method=ours": [0.92, 1.00] * 3,
}


def text(declaration: Declaration, root: Path) -> str:
    found, _ = conduct.lines_of(declaration, "smoke", root)
    return report(declaration, "smoke", found)


def picture(declaration: Declaration, told: list[dict[str, Any]], folder: Path) -> "np.ndarray[Any, Any]":
    folder.mkdir(parents=True, exist_ok=True)
    return matplotlib.image.imread(figure.write(declaration, "smoke", frame(declaration, "smoke", told), folder))


def section(of: str, title: str) -> str:
    return of.split(f"## {title}\n\n")[1].split("\n\n#")[0]


def test_report_and_picture_from_the_ledger_are_those_from_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declaration, root = declare(tmp_path, {"series": ["val/acc"]}), tmp_path / "results"
    for cpus, seeds in ((4, 1), (2, 2), (3, 3)):  # each cell on three machines
        monkeypatch.setattr(carry, "provenance", lambda cpus=cpus: {**PROVENANCE, "cpus": cpus})
        ran(declare(tmp_path, {"scales/smoke/seeds": seeds}), root)
    declaration = declare(tmp_path, {"series": ["val/acc"], "scales/smoke/seeds": 3})
    collected = ledger.collect(declaration, "smoke", root)
    assert len(collected) == 12
    from_runs, first = text(declaration, root), picture(declaration, collected, tmp_path / "first")
    assert conduct.lines_of(declaration, "smoke", root)[1].endswith("not published")

    ledger.publish(declaration, "smoke", root, print)
    assert text(declaration, root) == from_runs and from_runs.count("12 runs, ") == 1
    fresh = tmp_path / "clone" / "results"
    shutil.copytree(root / "ledger", fresh / "ledger")
    assert text(declaration, fresh) == from_runs
    again = picture(declaration, ledger.read(fresh, "toy"), tmp_path / "again")
    assert again.shape == first.shape and np.abs(again - first).mean() <= PIXELS / 10


def test_pictures_of_other_numbers_are_told_apart(tmp_path: Path) -> None:
    declaration = declare(tmp_path)
    told = {**TOLD, "data=many,method=ours": [0.90, 0.92] * 3}
    first = picture(declaration, lines(told), tmp_path / "first")
    other = picture(declaration, lines({**told, "data=few,method=ours": [0.99] * 6}), tmp_path / "other")
    assert first.shape != other.shape or np.abs(first - other).mean() > PIXELS / 10


def test_picture_tells_the_runs_that_it_shows_however_little_another_would_look(tmp_path: Path) -> None:
    declaration = declare(tmp_path)
    sources = []
    for i, last in enumerate((0.93, 0.93, 0.930001)):
        runs = frame(declaration, "smoke", lines({**TOLD, "data=few,method=ours": [0.95, last] * 3}))
        sources.append(Image.open(figure.write(declaration, "smoke", runs, tmp_path / str(i))).info["Source"])
    assert sources[0] == sources[1] != sources[2]


def kept(told: dict[str, Any], folder: Path, changes: dict[str, Any] | None = None, code: str = "") -> bool:
    """Whether a picture of TOLD, of which one pixel was changed, stays as it is when these numbers are drawn in this way."""
    declaration = declare(folder)
    path = figure.write(declaration, "smoke", frame(declaration, "smoke", lines(TOLD)), folder)
    with Image.open(path) as image:
        whole, text = image.copy(), PngInfo()
        text.add_text("Source", image.info["Source"])
    whole.putpixel((0, 0), tuple(255 - value for value in whole.getpixel((0, 0))))
    whole.save(path, pnginfo=text)
    before = path.read_bytes()
    (folder / "toy.py").write_text(code)
    declaration = declare(folder, changes)
    assert figure.write(declaration, "smoke", frame(declaration, "smoke", lines(told)), folder) == path
    return path.read_bytes() == before


DRAWING: dict[str, tuple[bool, dict[str, Any], str]] = {
    "nothing": (True, {}, ""),
    "words of a claim": (True, {"claims/level/says": "others", "title": "Another", "notes": ["n"]}, ""),
    "a comment in its code": (True, {}, '"""Words."""\n\n# Others.\n'),
    "its code": (False, {}, "SIZE = 3\n"),
    "its unit": (False, {"unit": ""}, ""),
    "a label": (False, {"axes/data/few": {"label": "some"}}, ""),
    "settings of a cell": (False, {"axes/data/many/set": {"dataset.train_limit": 200}}, ""),
}


@pytest.mark.parametrize(("stays", "changes", "code"), DRAWING.values(), ids=DRAWING)
def test_a_picture_is_drawn_anew_where_its_drawing_changed_and_stays_where_words_did(
    stays: bool, changes: dict[str, Any], code: str, tmp_path: Path
) -> None:
    assert kept(TOLD, tmp_path, changes, code) == stays


def test_a_picture_is_drawn_anew_for_other_numbers(tmp_path: Path) -> None:
    assert not kept({**TOLD, "data=few,method=ours": [0.95, 0.930001]}, tmp_path)


def test_what_is_no_picture_is_drawn_anew(tmp_path: Path) -> None:
    declaration = declare(tmp_path)
    (tmp_path / "toy.smoke.png").write_text("")
    assert picture(declaration, lines(TOLD), tmp_path).shape[0] > 100


def test_pictures_are_the_same_whatever_style_and_backend_the_user_has(tmp_path: Path) -> None:
    runs = frame(declaration := declare(tmp_path), "smoke", lines(TOLD))
    plain = figure.write(declaration, "smoke", runs, tmp_path / "plain").read_bytes()
    with matplotlib.rc_context({"font.family": "serif", "font.size": 20, "lines.linewidth": 9, "savefig.dpi": 70}):
        assert figure.write(declaration, "smoke", runs, tmp_path / "styled").read_bytes() == plain
        assert matplotlib.rcParams["font.size"] == 20


def test_what_moved_after_the_runs_of_some_cells_names_these_and_that_they_draw_nothing(tmp_path: Path) -> None:
    declaration = declare(tmp_path, {**SEEDS, "scales/smoke/evidence": "fresh"})
    stands = {"commit": "1" * 40, "fixed": declared.fixed(declaration, "smoke", None)}
    older = {**stands, "fixed": {**stands["fixed"], "claims.level": "another"}}
    made = [{**line, "declaration": stands} for line in lines(TOLD)]
    assert moved(declaration, "smoke", made) == ""
    fixed = {**lines(two(TOLD), made_by=DRAWS_NOTHING)[0], "declaration": older}
    of = f" of {fixed['cell']}, which draw nothing"
    assert moved(declaration, "smoke", [fixed, *made[1:]]) == f"**Declared or changed after the runs{of}: claims.level.**"
    of = f" of {made[0]['cell']}"
    made[0]["declaration"] = older
    assert moved(declaration, "smoke", made) == f"**Declared or changed after the runs{of}: claims.level.**"
    made = [{**line, "declaration": older} for line in made]
    assert moved(declaration, "smoke", made) == "**Declared or changed after the runs: claims.level.**"


def test_report_of_nothing_run_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"^toy: nothing has been run at scale smoke; .*toy.*smoke"):
        conduct.lines_of(declare(tmp_path), "smoke", tmp_path / "results")


def test_table_has_mean_spread_n_and_verdict_of_each_row(tmp_path: Path) -> None:
    found = report(declare(tmp_path, SEEDS), "smoke", lines(TOLD))
    assert "| few | 91.00 ± 1.10 (n 6) | 94.00 ± 1.10 (n 6) | **reproduced**\\*° [3.00, 3.00] |" in found
    low, high = stats.ttest_1samp([-5, 3] * 3, 0).confidence_interval(0.95)
    assert f"| many | 97.00 ± 0.00 (n 6) | 96.00 ± 4.38 (n 6) | **inconclusive** [{low:.2f}, {high:.2f}] |" in found
    assert "over initialisation, order of samples, split" in found and "does not vary" not in found
    assert "In this report are 2 intervals at 95%: by chance alone about 0.1 of them miss" in found
    assert "They decide 1 verdicts, of which 0 survive Holm's correction; ° marks the others." in found  # 2^-5 > 0.05/2
    assert "* Declared after first looks" in found
    few, _ = report(declare(tmp_path, {"scales/smoke/seeds": 2}), "smoke", lines(two(TOLD))).split("| many |")[:2]
    assert "| **inconclusive: n** [too few that differ] |" in few


def two(told: Mapping[str, Any]) -> dict[str, Any]:
    """The first two runs of each cell."""
    return {name: values[:2] for name, values in told.items()}


def test_what_draws_nothing_has_no_spread_in_the_table_but_what_order_alone_moves_it(tmp_path: Path) -> None:
    told = {name: [0.90, 0.92, 0.92, 0.92, 0.92, 0.92] if "ours" in name else [0.9] * 6 for name in TOLD}
    found = report(declare(tmp_path, SEEDS), "smoke", lines(told, made_by=DRAWS_NOTHING))
    ours = "91.67 (n 6, nothing drawn; order moves it by 2.00)"
    assert f"| few | 90.00 (n 6, nothing drawn) | {ours} | **inconclusive" in found and "±" not in row(found)


def row(found: str) -> str:
    return next(line for line in found.splitlines() if line.startswith("| few |"))


@pytest.mark.parametrize(
    ("told", "row"),
    [
        ("no data", "| few | 91.00 ± 1.10 (n 6) | no data | **no data** |"),
        (["diverged", *[0.9] * 5], "| few | 91.00 ± 1.10 (n 6) | diverged (1 of 6) | **diverged (1 of 6)** |"),
        ([0.93], "| few | 91.00 ± 1.10 (n 6) | 93.00 (n 1) | **incomplete (1 of 6)** |"),
        (None, "| few | 91.00 ± 1.10 (n 6) | not run | **not run** |"),
    ],
)
def test_cell_without_a_verdict_says_why(told: Any, row: str, tmp_path: Path) -> None:
    changed = {name: values for name, values in {**TOLD, "data=few,method=ours": told}.items() if values is not None}
    assert row in report(declare(tmp_path, SEEDS), "smoke", lines(changed))


def test_baseline_under_its_floor_is_undertrained_in_its_cell_and_its_row(tmp_path: Path) -> None:
    floor = {"scales/smoke/floors": [{"baseline": {"method": "base"}, "reaches": "longer"}]}
    told = lines(TOLD)
    for run in (run for line in told for run in line["runs"]):
        run["numbers"]["val/acc"] = 0.9
    longer = {f"data={data},method=base,floor=longer": [value] * 2 for data, value in (("few", 0.93), ("many", 0.91))}
    found = report(declare(tmp_path, {**SEEDS, **floor}), "smoke", told + lines(longer, metric="val/acc"))
    assert "| few | 91.00 ± 1.10 (n 6), undertrained | 94.00 ± 1.10 (n 6) | **undertrained** |" in found
    assert "| many | 97.00 ± 0.00 (n 6) | 96.00 ± 4.38 (n 6) | **inconclusive** " in found


@pytest.mark.parametrize(
    ("compare", "says"),
    [
        ("difference", "ours minus base, points: "),
        ("ratio", "ours over base: "),
        ("saving", "ours in the place of base, percent: "),
    ],
)
def test_what_a_column_of_verdicts_compares_is_said_as_it_is_compared(compare: str, says: str, tmp_path: Path) -> None:
    found = report(declare(tmp_path, {**SEEDS, "claims/level/compare": compare, "claims/level/value": 1}), "smoke", lines(TOLD))
    assert f"- *level*: ours is level ({says}the interval lies in " in found


def test_pooled_claim_names_the_cells_that_it_is_without(tmp_path: Path) -> None:
    pooled = declare(tmp_path, {**SEEDS, "claims/level/each": [], "claims/level/pooled": ["data"]})
    whole = section(report(pooled, "smoke", lines(TOLD)), "Claims")
    part = section(report(pooled, "smoke", lines({**TOLD, "data=many,method=ours": "no data"})), "Claims")
    assert "12 pairs" in whole and "without" not in whole
    assert "6 pairs; without many" in part


def test_runs_that_cells_share_are_counted_once_with_their_time(tmp_path: Path) -> None:
    told = lines(TOLD)
    for line in told:
        for run in line["runs"]:
            run["run_id"], run["times"] = str(run["seed"]), {"time/wall_s": 60.0}
    assert "- 6 runs, 6 minutes of run time in all." in report(declare(tmp_path, SEEDS), "smoke", told)


def test_details_are_in_their_unit_with_their_statistic_and_share(tmp_path: Path) -> None:
    details = [
        {"name": "best", "metric": "test/acc", "unit": "percent", "statistic": "max", "digits": 1},
        {"name": "share", "metric": "test/acc", "unit": "percent", "share_of": {"method": "base"}, "digits": 1},
    ]
    found = section(report(declare(tmp_path, {**SEEDS, "details": details}), "smoke", lines(TOLD)), "Each cell")
    assert "against the printed value" not in found  # nothing is printed of an artefact of our own
    assert "| few, base | 6 | 92.0 | 100.0 |" in found
    assert "| few, ours | 6 | 95.0 | 103.3 |" in found  # 94 of 91
    assert "| many, ours | 6 | 100.0 | 99.0 |" in found  # 96 of 97


def test_settings_that_differ_from_the_paper_are_listed_with_their_cells(tmp_path: Path) -> None:
    changes = {
        "scales/paper": {"about": "All.", "rules": [{"where": {"method": "ours"}, "set": {"method.epochs": 9}}]},
        "scales/smoke/rules": [{"set": {"optimizer.lr": 0.5}}],
    }
    found = section(report(declare(tmp_path, changes), "smoke", lines(TOLD)), "How ours differs from the thesis")
    assert set(found.splitlines()) == {
        "- `optimizer.lr`: 0.5 instead of its default (everywhere)",
        "- `method.epochs`: 1 instead of 9 (ours)",
    }


def grid(tmp_path: Path, nine: list[float]) -> str:
    changes = {
        "assumptions": {"width": {"why": "?", "choices": {"a": {"label": "eight"}, "b": {"label": "nine"}}}},
        "scales/smoke/grid": [{"choose": {"width": ["b"]}}],
    }
    under = {f"{name},width=b": nine if "ours" in name else [0.9] * 6 for name in TOLD}
    found = report(declare(tmp_path, {**SEEDS, **changes}), "smoke", lines({**TOLD, **under}))
    return section(found, "Other choices where the text says nothing")


def test_choices_are_fitted_jointly_over_all_claims_and_none_may_fit(tmp_path: Path) -> None:
    both = grid(tmp_path, [0.95] * 6)
    assert "| nine |  | 2 | 0 | 0 | 0 | 0 |" in both and "| our own |  | 1 | 0 | 1 | 0 | 0 |" in both
    assert both.endswith("All claims hold together under: nine.")
    none = grid(tmp_path, [0.80] * 6)
    assert "| nine |  | 0 | 2 | 0 | 0 | 0 |" in none and none.endswith("None fits all claims together.")


def test_a_claims_name_in_words_has_its_decimal_point() -> None:
    assert wording.in_words("within_0p3_of_backprop") == "within 0.3 of backprop" and wording.in_words("top_1_up") == "top 1 up"


def test_what_is_planned_stands_between_report_and_figure_of_a_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = {"arch": "mlp", "arch.hidden": [64, 64], "dataset.batch_size": 32}
    declaration, root = declare(tmp_path, {"plans": {"A wider network": wide}}), tmp_path / "results"
    ran(declaration, root)
    runs = len(list((root / "runs").iterdir()))

    def conducted(as_json: bool, only: str | None = None) -> str:
        surveyed = survey(declaration, "smoke", root, only)
        assert conduct.conduct(declaration, "smoke", surveyed, root, 1, as_json) == 0
        return capsys.readouterr().out

    told = conducted(as_json=False)
    found = cost(config.build(config.compose(["hardware=cpu", *(f"{k}={v}".replace(" ", "") for k, v in wide.items())])))
    assert found is not None
    places = [told.index(part) for part in ("## Provenance", "nothing of this is trained", "A wider network", "Figure: ")]
    assert places == sorted(places) and told.count("Figure: ") == 1
    whole = found.beside["backprop"]
    row = rf"^this +{size(found.peak_bytes)} +{found.share:.0%} +{size(found.resident_bytes)} +{found.resident_share:.0%}$"
    assert re.search(row, told, re.MULTILINE), told
    assert re.search(rf"^full backprop +{size(whole.step)} +100% +{size(whole.resident)} +100%$", told, re.MULTILINE)
    assert len(list((root / "runs").iterdir())) == runs, "a plan leaves no run"

    assert "trained" not in conducted(as_json=True)
    one = declaration.all_cells("smoke")[0].name
    assert "Figure: " in (of_one := conducted(as_json=False, only=one)) and "nothing of this is trained" not in of_one
    conduct.show(declaration, "smoke", ledger.collect(declaration, "smoke", root), root)
    assert "nothing of this is trained" not in capsys.readouterr().out


def test_a_plan_that_cannot_be_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    declaration, root = declare(tmp_path, {"plans": {"Wrong": {"arch.depth": 3}}}), tmp_path / "results"
    with pytest.raises(ConfigError, match=r"plans=Wrong: arch\.depth"):
        conduct.conduct(declaration, "smoke", survey(declaration, "smoke", root), root, 1)
    assert not root.exists()


def test_a_page_shows_what_is_counted_and_what_the_process_took_beside_a_claim_on_memory(tmp_path: Path) -> None:
    counted, process = "memory/accounted_peak_bytes", "memory/process_peak_bytes"
    columns = [
        {"name": "step MiB", "metric": counted, "unit": "MiB"},
        {"name": "process MiB", "metric": process, "unit": "MiB"},
    ]
    claim = {"says": "less memory", "left": {"method": "ours"}, "right": {"method": "base"}, "metric": counted, "kind": "value"}
    changes = {**SEEDS, "details": [*columns, {"name": "test", "metric": "test/acc"}]}
    asked = {**changes, "claims/less": {**claim, "relation": "<=", "each": ["data"], "length": "given"}}
    made = lines(TOLD)
    for run in (run for line in made for run in line["runs"]):
        run["numbers"] |= {counted: 3 * 2**20, process: 40 * 2**20}
    for declared_, shown in ((declare(tmp_path, changes), False), (declare(tmp_path, asked), True)):
        runs = frame(declared_, "smoke", made)
        page = summary(declared_, "smoke", runs, judged(declared_, "smoke", runs), folded=True)
        assert ("| cell | n | step MiB | process MiB |" in page) == ("| few, base | 6 | 3.00 | 40.00 |" in page) == shown
