"""The tables of links are exactly what the file says: what is off is shown as such, what is predicted only is marked."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from effdl.costs.exchange import Coded, Exchange
from effdl.errors import RecordError
from effdl.records.links import bits_per_second
from effdl.reproduce import link_table
from effdl.reproduce.readme import pages, rewrite

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "experiments" / "chapter_3" / "README.md"
PROVENANCE = {"commit": "0123456789abcdef", "dirty": False, "processor": "Abacus", "cpus": 2, "torch": "2.9"}


def line(link: str, form: str, predicted: float, *measured: float, workers: int = 2) -> dict[str, Any]:
    place = {"link": link, "workers": workers, "network": "784-10", "form": form}
    coded = {"packet_bytes": 31_408, "encode_s": 0.0, "decode_s": 0.0, "latency_s": 0.0, "mean_s": 0.0, "own_bytes_per_s": None}
    return {**place, **coded, "predicted_s": predicted, "measured_s": list(measured), "provenance": PROVENANCE}


LINES = [
    line("10Mbit", "tensors", 1.0, 1.1, 0.9, 1.0),
    line("10Mbit", "zstd, 8 bits", 0.3, 0.2, 0.21, 0.25),
    line("10Gbit", "tensors", 0.004),
    line("10Gbit", "zstd, 8 bits", 0.006, workers=8),
]


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose header begins so."""
    table = text[text.index(first) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[2:]]


def test_every_line_is_a_row_and_what_is_off_says_so() -> None:
    text = link_table.tables(LINES)
    assert rows(text, "| link | workers | network |") == [
        ["10Mbit", "2", "784-10", "tensors", "31,408", "1 s", "1 s", "0.9 s to 1.1 s", "3", "1.00", "yes"],
        ["10Mbit", "2", "784-10", "zstd, 8 bits", "31,408", "0.3 s", "0.21 s", "0.2 s to 0.25 s", "3", "1.43", "**no**"],
        ["10Gbit", "2", "784-10", "tensors", "31,408", "0.004 s", "*predicted only*", "", "0", "", ""],
        ["10Gbit", "8", "784-10", "zstd, 8 bits", "31,408", "0.006 s", "*predicted only*", "", "0", "", ""],
    ]
    first = text.split("\n\n")[0]  # not folded away
    assert first == (
        "Of 2 exchanges that were measured, 1 take what was predicted within 20%; the others, with predicted over measured: "
        "10Mbit, 2 workers, 784-10, zstd, 8 bits (1.43)."
    )
    assert "Measured from commit 0123456789, on Abacus, 2 CPUs, torch 2.9." in text


def test_by_link_the_quickest_form_stands_out_and_predictions_are_slanted() -> None:
    assert rows(link_table.tables(LINES), "| link | workers | tensors |") == [
        ["10Mbit", "2", "1 s", "**0.21 s**"],
        ["10Gbit", "2", "***0.004 s***", ""],
        ["10Gbit", "8", "", "***0.006 s***"],
    ]


@pytest.mark.parametrize(("predicted", "near"), [(0.79, False), (0.81, True), (1.19, True), (1.21, False)])
def test_within_a_fifth_of_the_median(predicted: float, near: bool) -> None:
    assert link_table.holds(line("1Gbit", "tensors", predicted, 0.5, 1.0, 9.0)) is near


def test_where_several_machines_measured_each_is_named() -> None:
    other = {**LINES[0], "link": "1Gbit", "provenance": {**PROVENANCE, "processor": "Sliderule", "dirty": True}}
    text = link_table.tables([*LINES, other])
    assert "10Mbit, 10Gbit: measured from commit 0123456789, on Abacus" in text
    assert "1Gbit: measured from commit 0123456789 with changes, on Sliderule" in text


def test_what_was_written_is_read_again_and_what_was_edited_is_refused(tmp_path: Path) -> None:
    assert link_table.read(tmp_path) == [] and link_table.tables([]) == link_table.NOT_MEASURED
    file = link_table.write(tmp_path, LINES)
    assert link_table.read(tmp_path) == LINES
    page = tmp_path / "README.md"
    page.write_text("before <!-- links -->old<!-- /links --> behind")
    assert rewrite(page, tmp_path) == f"before <!-- links -->\n\n{link_table.tables(LINES)}\n\n<!-- /links --> behind"
    file.write_text(file.read_text().replace('"predicted_s":0.3', '"predicted_s":0.2'))
    with pytest.raises(RecordError, match=r"links\.json, line 2: was edited"):
        link_table.read(tmp_path)
    file.write_text("{}[")
    with pytest.raises(RecordError, match="is no list of links"):
        rewrite(page, tmp_path)


def test_the_page_of_chapter_3_shows_what_is_kept_today() -> None:
    assert PAGE in list(pages(ROOT))
    (block,) = re.findall(r"<!-- links -->\n\n(.*?)\n\n<!-- /links -->", PAGE.read_text(), re.DOTALL)
    assert block == link_table.tables(link_table.read(ROOT / "results"))


def test_predictions_that_are_kept_follow_from_what_was_measured_of_coding() -> None:
    for one in link_table.read(ROOT / "results"):
        bits = math.inf if one["link"] == "unshaped" else bits_per_second(one["link"])
        coded = Coded(one["packet_bytes"], one["encode_s"], one["decode_s"])
        beside = {key: one[key] for key in ("latency_s", "mean_s")}
        expected = Exchange(one["workers"], bits, one["own_bytes_per_s"] or math.inf, **beside).seconds(coded)
        assert math.isclose(one["predicted_s"], expected, rel_tol=1e-9), one
        assert len(one["measured_s"]) >= 5 or not one["measured_s"], "too few to be kept"
        assert one["workers"] == 2 or not one["measured_s"]
