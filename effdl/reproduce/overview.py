"""The first screen of a page of results: what was asked, what held, what did not, and what we do not know."""

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
    """An artefact at a scale as a page shows it: what the ledger has of it, and the judgements on its claims.

    on: the page where it stands, relative to this one; empty where that is this one.
    """

    declaration: Declaration
    scale: str
    runs: Runs
    found: Sequence[Judged]
    on: str = ""

    @property
    def link(self) -> str:
        return f"[{name_of(self.declaration)}]({self.on}#{self.declaration.artefact.id})"

    @property
    def told(self) -> list[Told]:
        return tell(self.declaration, {self.scale: self.found})


def overview(page: Sequence[Shown], waiting: Sequence[Declaration] = ()) -> str:
    """The screen as Markdown; each claim once, with a link to where its numbers stand.

    waiting: those whose place on the page has no numbers yet.
    """
    every = [(shown, one) for shown in page for one in shown.told]
    counted = {id(one) for one in once([one for _, one in every])}
    told = [(shown, one) for shown, one in every if id(one) in counted]
    places = len({shown.declaration.artefact.id for shown in page})
    where = "one table, figure or passage" if places == 1 else f"{places} tables, figures and passages"
    unasked = {name_of(one): len(one.artefact.claims) for one in waiting if one.artefact.claims}
    if not page:
        return f"Nothing was run yet; {sum(unasked.values())} claims wait for it.\n\n{_lines(_unasked(unasked))}"
    parts = [
        f"{len(told)} claims were asked about in {where} of text."
        + (f" Another {sum(unasked.values())} wait for runs that were not made yet." if unasked else ""),
        _table([one for _, one in told]),
        _twice(every, counted),
        by_chance([one for shown in page for one in shown.found], "on this page"),
        "**What held**\n\n" + _lines(_held(told)),
        "**What did not**\n\n" + _lines(_did_not(told)),
        "**What we do not know**\n\n" + _lines([*_unknown(told), *_unasked(unasked)]),
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
    words: dict[str, dict[str, list[list[Judged]]]] = {}
    for shown, one in told:
        if one.word in (REPRODUCED, FITTED):
            words.setdefault(_word(one), {}).setdefault(shown.link, []).append(_places(shown, one))
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
    of_claim = _places(shown, one)
    against = [found for found in of_claim if found.verdict.word == DIFFERS]
    interval, n = against[0].verdict.interval, len(against)
    where = ", ".join(shown.declaration.label(axis, level) for axis, level in against[0].at.items())
    where += f" and {n - 1} more of {len(of_claim)} places" if n > 1 else ""
    number = f"{decimal(interval.mean)}, not {required(against[0])}, {_over([against])}" if interval else ""
    return f"{'*ours* ' if one.claim.ours else ''}{one.claim.says} ({number}{': ' if where else ''}{where})"


def _unknown(told: Sequence[tuple[Shown, Told]]) -> Iterator[str]:
    """A reason a line, with the artefacts whose claims it concerns."""
    reasons: dict[str, dict[str, list[list[Judged]]]] = {}
    for shown, one in told:
        if one.word not in (REPRODUCED, FITTED, DIFFERS):
            judged = _places(shown, one) if one.word in WORDS else []
            reasons.setdefault(_reason(shown, one), {}).setdefault(shown.link, []).append(judged)
    for reason, links in reasons.items():
        yield f"{reason}: {_links(links)}"


def _reason(shown: Shown, one: Told) -> str:
    """Why a claim is not decided: the first reason of its places."""
    undecided = [f.verdict for f in shown.found if f.name == one.name and f.verdict.word not in (REPRODUCED, FITTED)]
    verdict = next((v for v in undecided if v.word == one.word), undecided[0])
    if verdict.word not in WORDS:
        return verdict.word
    return {"n": "too few runs of what varies", "tie": "a tie"}.get(verdict.why, "the interval crosses a bound")


def _unasked(claims: Mapping[str, int]) -> Iterator[str]:
    if claims:
        yield f"not run: {', '.join(f'{name} {count}' for name, count in claims.items())}"


def _places(shown: Shown, one: Told) -> list[Judged]:
    return [found for found in shown.found if found.name == one.name]


def _links(claims: Mapping[str, Sequence[Sequence[Judged]]]) -> str:
    each = {link: (len(of_link), _over(of_link)) for link, of_link in claims.items()}
    return ", ".join(f"{link} {count}{f' ({over})' if over else ''}" for link, (count, over) in each.items())


def _over(claims: Iterable[Sequence[Judged]]) -> str:
    """Over how many values, pairs or samples their intervals are."""
    counts = sorted({found.verdict.interval.n for one in claims for found in one if found.verdict.interval})
    return f"n = {' to '.join(f'{n:,}' for n in dict.fromkeys((counts[0], counts[-1])))}" if counts else ""
