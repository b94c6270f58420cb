"""The first screen of a page of results: what was asked, what held, what did not, and what we do not know."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from effdl.reproduce.artefact import Declaration
from effdl.reproduce.judge import Judged
from effdl.reproduce.runs import Runs
from effdl.reproduce.tally import Told, counts, once, tell
from effdl.reproduce.verdict import DIFFERS, FITTED, REPRODUCED, WORDS
from effdl.reproduce.wording import by_chance, decimal, markdown, name_of, required, word_of

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

    @property
    def told(self) -> list[Told]:
        return tell(self.declaration, {self.scale: self.found})


def overview(page: Sequence[Shown]) -> str:
    """The screen as Markdown; each claim once, with a link to where its numbers stand."""
    every = [(shown, one) for shown in page for one in shown.told]
    counted = {id(one) for one in once([one for _, one in every])}
    told = [(shown, one) for shown, one in every if id(one) in counted]
    places = len({shown.declaration.artefact.id for shown in page})
    parts = [
        f"{len(told)} claims were asked about in {places} tables, figures and passages of text.",
        _table([one for _, one in told]),
        _twice(every, counted),
        by_chance([one for shown in page for one in shown.found], "on this page"),
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


def _twice(every: Sequence[tuple[Shown, Told]], counted: Collection[int]) -> str:
    """Claims that are asked more than once, which verdict counts, and where the other ones are."""
    counting = {(one.key, one.claim.ours): (shown, one) for shown, one in every if id(one) in counted}
    others = [(counting[one.key, one.claim.ours], (shown, one)) for shown, one in every if id(one) not in counted]
    if not others:
        return ""
    differing = [
        f"{first.link}: {_word(one)}, against {_word(other)} by {second.link} ({other.claim.says})"
        for (first, one), (second, other) in others
        if _word(one) != _word(other)
    ]
    rule = "the largest scale counts, then runs that nobody knew before their claims, then settings that were not fitted"
    return f"Asked more than once, here {len(others)} times, and counted once: {rule}. " + (
        f"The verdicts differ for {'; '.join(dict.fromkeys(differing))}." if differing else "The verdicts agree."
    )


def _word(one: Told) -> str:
    return word_of(one.word, one.claim.ours)


def _held(told: Sequence[tuple[Shown, Told]]) -> Iterator[str]:
    """A verdict a line, with the artefacts whose claims have it, and how many of theirs."""
    words: dict[str, Counter[str]] = {}
    for shown, one in told:
        if one.word in (REPRODUCED, FITTED):
            words.setdefault(_word(one), Counter())[shown.link] += 1
    for word in (word for word in ROWS if word in words):
        yield f"{word}: {_links(words[word])}"


def _did_not(told: Sequence[tuple[Shown, Told]]) -> Iterator[str]:
    """An artefact a line, with each claim that does not hold and one of the numbers that say so."""
    by_link: dict[str, dict[str, None]] = {}
    for shown, one in told:
        if one.word == DIFFERS:
            by_link.setdefault(shown.link, {})[_against(shown, one)] = None
    for link, claims in by_link.items():
        yield f"{link}: {'; '.join(claims)}"


def _against(shown: Shown, one: Told) -> str:
    of_claim = [found for found in shown.found if found.name == one.name]
    against = [found for found in of_claim if found.verdict.word == DIFFERS]
    interval, n = against[0].verdict.interval, len(against)
    where = ", ".join(shown.declaration.label(axis, level) for axis, level in against[0].at.items())
    where += f" and {n - 1} more of {len(of_claim)} places" if n > 1 else ""
    number = f"{decimal(interval.mean)}, not {required(against[0])}" if interval else ""
    return f"{'*ours* ' if one.claim.ours else ''}{one.claim.says} ({number}{': ' if where else ''}{where})"


def _unknown(told: Sequence[tuple[Shown, Told]]) -> Iterator[str]:
    """A reason a line, with the artefacts whose claims it concerns."""
    reasons: dict[str, Counter[str]] = {}
    for shown, one in told:
        if one.word not in (REPRODUCED, FITTED, DIFFERS):
            reasons.setdefault(_reason(shown, one), Counter())[shown.link] += 1
    for reason, links in reasons.items():
        yield f"{reason}: {_links(links)}"


def _reason(shown: Shown, one: Told) -> str:
    """Why a claim is not decided: the first reason of its places."""
    undecided = [f.verdict for f in shown.found if f.name == one.name and f.verdict.word not in (REPRODUCED, FITTED)]
    verdict = next((v for v in undecided if v.word == one.word), undecided[0])
    if verdict.word not in WORDS:
        return verdict.word
    return {"n": "too few runs of what varies", "tie": "a tie"}.get(verdict.why, "the interval crosses a bound")


def _links(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{link} {count}" for link, count in counted.items())
