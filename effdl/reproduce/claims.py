"""What a declared claim says, with what it takes from the claims of the theses."""

from effdl.reproduce import published
from effdl.reproduce.vocabulary import Claim


def answered(claim: Claim) -> tuple[str, ...]:
    """The ids of the claims in claims.csv that a claim answers."""
    return (claim.answers,) if isinstance(claim.answers, str) else claim.answers or ()


def statements(claim: Claim) -> list[tuple[str | None, float]]:
    """(relation, value) as declared, else as the claims that it answers print them; two are the ends of a range."""
    printed = [published.claim(name) for name in answered(claim)] or [{"comparator": "", "value": "0"}]
    relations = [claim.relation or {"=": "~"}.get(row["comparator"], row["comparator"]) or None for row in printed]
    return [(r, float(row["value"]) if claim.value is None else claim.value) for r, row in zip(relations, printed, strict=True)]
