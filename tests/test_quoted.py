"""Numbers that pages quote: from the ledger, each of them, and none by hand."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from effdl.errors import ConfigError
from effdl.reproduce.quoted import NOT_RUN, NUMBER, quoted
from effdl.reproduce.readme import pages

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGE = ROOT / "docs" / "when-to-use.md"


def said(what: str) -> str:
    (found,) = re.findall(r"-->(.*?)<!--", quoted(f"<!-- number: {what} --><!-- /number -->", RESULTS))
    return found


def mean(cell: str, metric: str) -> float:
    lines: list[dict[str, Any]] = [json.loads(text) for text in (RESULTS / "ledger" / "demo.jsonl").read_text().splitlines()]
    return statistics.fmean(run["numbers"][metric] for line in lines if line["cell"] == cell for run in line["runs"])


def test_a_number_is_the_mean_of_what_the_ledger_has() -> None:
    dll, base = mean("method=dll", "test/acc"), mean("method=backprop", "test/acc")
    assert said("demo small method=dll test/acc percent") == f"{100 * dll:.1f}%"
    assert said("demo small method=dll test/acc points minus method=backprop") == f"{100 * (dll - base):+.1f} points"
    step = "memory/accounted_peak_bytes"
    share = mean("method=dll", step) / mean("method=backprop", step)
    assert said(f"demo small method=dll {step} percent of method=backprop") == f"{100 * share:.1f}%"
    assert said(f"demo small method=dll {step} - of method=backprop") == f"{share:.2f}"
    assert said(f"demo small method=dll {step} MiB") == f"{mean('method=dll', step) / 2**20:.0f} MiB"


def test_what_has_not_run_says_so() -> None:
    assert said("brittleness medium start=scratch,rate=r1,method=dll test/acc percent") == NOT_RUN


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("demo small method=dll test/acc", "say artefact, scale, cell, metric and unit"),
        ("demo small method=dll test/acc percent beside method=backprop", "say artefact, scale, cell, metric and unit"),
        ("demo small method=sgd test/acc percent", "demo has no cell method=sgd"),
        ("demo small method=dll test/speed percent", "its runs have no test/speed"),
        ("demos small method=dll test/acc percent", "demos: not declared"),
    ],
)
def test_a_number_of_nothing_is_refused_in_one_line(what: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        said(what)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_every_page_quotes_what_the_ledger_has_today() -> None:
    found = [page for page in pages(ROOT) if NUMBER.search(page.read_text())]
    assert PAGE in found
    assert [page.name for page in found if quoted(page.read_text(), RESULTS) != page.read_text()] == []


def test_when_to_use_has_no_number_by_hand_and_is_one_screen_that_the_readme_leads_to() -> None:
    text = PAGE.read_text()
    told = re.sub(r"`[^`]*`|\]\([^)]*\)|(?:[Tt]able|[Cc]hapter) \d(?:\.\d)?", "", NUMBER.sub("", text))
    told = re.sub(r"\b\d partitions|in \d parts|[A-Za-z]+(?:V\d)?[-×]?\d+(?:\.\d+)?(?:×\d\.\d)?", "", told)  # names of things
    assert re.findall(r"\d+(?:\.\d+)?", told) == []
    assert len(text.splitlines()) <= 70 and "docs/when-to-use.md" in (ROOT / "README.md").read_text()
