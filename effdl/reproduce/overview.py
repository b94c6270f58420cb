"""The first screen of a page of results: what was asked, what held, what did not, and what we do not know."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from effdl.reproduce.artefact import Declaration
from effdl.reproduce.judge import Judged
from effdl.reproduce.runs import Runs
from effdl.reproduce.tally import Told, counts, tell
from effdl.reproduce.verdict import DIFFERS, FITTED, INCONCLUSIVE, REPRODUCED, WORDS
from effdl.reproduce.wording import bounds, by_chance, decimal, markdown, required, word_of

ROWS = ("reproduced", "holds", "fitted", "differs", "fails", "inconclusive", "without a verdict")


@dataclass(frozen=True)
class Shown:
    """An artefact at a scale as a page shows it: what the ledger has of it, and the judgements on its claims."""

    declaration: Declaration
    scale: str
    runs: Runs
    found: Sequence[Judged]

    @property
    def link(self) -> str:
        return f"[{name_of(self.declaration)}](#{self.declaration.artefact.id})"


def name_of(declaration: Declaration) -> str:
    """Such as "Table 6.1"."""
    name = declaration.artefact.id
    return f"{name[0].upper()}{name[1:].replace('-', ' ')}"


def overview(page: Sequence[Shown]) -> str:
    """The screen as Markdown; each claim once, with a link to where its numbers stand."""
    told = [(shown, one) for shown in page for one in tell(shown.declaration, {shown.scale: shown.found})]
    asked = f"{len(told)} claims were asked about in {len(page)} tables, figures and passages of text."
    every = [one for shown in page for one in shown.found]
    parts = [
        "\n\n".join([asked, _table([one for _, one in told])]),
        by_chance(every, "on this page"),
        "**What held**\n\n" + _lines(_held(told)),
        "**What did not**\n\n" + _lines(_did_not(told)),
        "**What we do not know**\n\n" + _lines(_unknown(told)),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(told: Sequence[Told]) -> str:
    found = counts(told)
    words = [word for word in ROWS if any(word in of_family for of_family in found.values())]
    return markdown(["claims", *words], [[f, *(str(found[f].get(word, "")) for word in words)] for f in found])


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "- Nothing."


def _held(told: Sequence[tuple[Shown, Told]]) -> Iterator[str]:
    """An artefact a line: how many of its claims held, and what they say where they are few."""
    for shown, claims in _by_artefact(told, (REPRODUCED, FITTED)):
        words: dict[str, int] = {}
        for one in claims:
            word = word_of(one.word, one.claim.ours)
            words[word] = words.get(word, 0) + 1
        counted = ", ".join(f"{count} {word}" for word, count in words.items())
        yield f"{shown.link} ({shown.declaration.title}): {counted}"


def _did_not(told: Sequence[tuple[Shown, Told]]) -> Iterator[str]:
    """A claim a line, with one of the places at which it does not hold."""
    for shown, one in told:
        if one.word != DIFFERS:
            continue
        against = [found for found in shown.found if found.name == one.name and found.verdict.word == DIFFERS]
        first = against[0]
        interval = first.verdict.interval
        where = ", ".join(shown.declaration.label(axis, level) for axis, level in first.at.items())
        rest = f", and at {len(against) - 1} more places" if len(against) > 1 else ""
        found = f"{decimal(interval.mean)} {bounds(interval)} must lie in {required(first)}" if interval else ""
        place = f" ({where}{rest})" if where else ""
        yield f"{shown.link}: {one.claim.says}: {found}{place}; {word_of(DIFFERS, one.claim.ours)}"


def _unknown(told: Sequence[tuple[Shown, Told]]) -> Iterator[str]:
    """A reason a line, with the artefacts whose claims it concerns."""
    reasons: dict[str, dict[str, int]] = {}
    for shown, one in told:
        if one.word in (REPRODUCED, FITTED, DIFFERS):
            continue
        for reason in _reasons(shown, one):
            of_reason = reasons.setdefault(reason, {})
            of_reason[shown.link] = of_reason.get(shown.link, 0) + 1
    for reason, links in reasons.items():
        yield f"{reason}: {', '.join(f'{link} ({count})' for link, count in links.items())}"


def _reasons(shown: Shown, one: Told) -> list[str]:
    """Why a claim is not decided: the first reason of its places."""
    undecided = [f.verdict for f in shown.found if f.name == one.name and f.verdict.word not in (REPRODUCED, FITTED)]
    verdict = next((v for v in undecided if v.word == one.word), undecided[0])
    if verdict.word not in WORDS:
        return [verdict.word]
    return [
        {"n": "too few runs of what varies", "tie": "a tie"}.get(verdict.why, f"{INCONCLUSIVE}: the interval crosses a bound")
    ]


def _by_artefact(told: Sequence[tuple[Shown, Told]], words: Sequence[str]) -> Iterator[tuple[Shown, list[Told]]]:
    shown_once = {shown.declaration.artefact.id: shown for shown, _ in told}
    for name, shown in shown_once.items():
        claims = [one for here, one in told if here.declaration.artefact.id == name and one.word in words]
        if claims:
            yield shown, claims
