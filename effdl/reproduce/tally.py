"""Each claim once: its verdict over all places, at the largest scale at which it is judged."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from effdl.reproduce.artefact import Declaration
from effdl.reproduce.claims import answered
from effdl.reproduce.judge import Judged
from effdl.reproduce.verdict import WORDS, together
from effdl.reproduce.vocabulary import Claim
from effdl.reproduce.wording import word_of

SCALES = ("paper", "medium", "small")  # from the largest


@dataclass(frozen=True)
class Told:
    """A declared claim and what came of it.

    scale: the largest at which it has a verdict anywhere, None where it has none; word: over all of its places there.
    places: how many there are, and how many of them have a verdict of their own. looked, fitted: whether that is so of any of
    those that are judged.
    """

    declaration: Declaration
    name: str
    claim: Claim
    scale: str | None
    word: str
    places: tuple[int, int]
    looked: bool
    fitted: bool

    @property
    def key(self) -> str:
        """What tells it from others: the claims of the thesis that it answers, else its own name."""
        return " ".join(answered(self.claim)) or f"{self.declaration.artefact.id}.{self.name}"

    @property
    def rank(self) -> tuple[int, bool, bool]:
        """The least counts: the largest scale, and of one scale runs that nobody knew before those that were known, then what
        was not fitted."""
        scale = SCALES.index(self.scale) if self.scale is not None else len(SCALES)
        return scale, self.looked, self.fitted


def tell(declaration: Declaration, by_scale: Mapping[str, Sequence[Judged]]) -> list[Told]:
    """Every claim of a declaration. by_scale: what `judged` says of it at each scale that the ledger has."""
    return [_tell(declaration, name, claim, by_scale) for name, claim in declaration.artefact.claims.items()]


def once(told: Iterable[Told]) -> list[Told]:
    """Each claim as it counts, where several artefacts or scales judge it; in the order in which they were first asked."""
    found: dict[tuple[str, bool], Told] = {}
    for one in told:
        here = (one.key, one.claim.ours)
        found[here] = min(found.get(here, one), one, key=lambda candidate: candidate.rank)
    return list(found.values())


def counts(told: Iterable[Told]) -> dict[str, dict[str, int]]:
    """How often each word is said: {"printed": of claims that a thesis makes, "ours": of others, "printed, declared after first
    looks" and "ours, declared after first looks": of those whose runs were known before}; each claim `once`."""
    found: dict[str, Counter[str]] = {}
    for one in once(told):
        whose = "ours" if one.claim.ours else "printed"
        family = f"{whose}, declared after first looks" if one.looked else whose
        word = word_of(one.word, one.claim.ours) if one.word in WORDS else "without a verdict"
        found.setdefault(family, Counter())[word] += 1
    return {family: dict(found[family]) for family in sorted(found, reverse=True)}


def counts_text(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What `counts` found, a line a family."""
    return [f"{family}: {', '.join(f'{count} {word}' for word, count in words.items())}" for family, words in found.items()]


def _tell(declaration: Declaration, name: str, claim: Claim, by_scale: Mapping[str, Sequence[Judged]]) -> Told:
    of_scale = {scale: [one for one in by_scale.get(scale, ()) if one.name == name] for scale in SCALES}
    with_verdict = [scale for scale, found in of_scale.items() if any(one.verdict.word in WORDS for one in found)]
    scale = next(iter(with_verdict), None)
    if scale is None:
        reason = next((one.verdict.word for found in of_scale.values() for one in found), "not run")
        return Told(declaration, name, claim, None, reason, (0, 0), looked=False, fitted=False)
    found = of_scale[scale]
    words = [one.verdict.word for one in found]
    places = (len(words), sum(word in WORDS for word in words))
    looked, fitted = any(one.looked for one in found), any(one.fitted for one in found)
    return Told(declaration, name, claim, scale, together(words), places, looked, fitted)
