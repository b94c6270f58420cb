"""What a declared claim says, with what it takes from the claims of the theses."""

from effdl.reproduce import published
from effdl.reproduce.vocabulary import Claim


def answered(claim: Claim) -> tuple[str, ...]:
    """The ids of the claims in claims.csv that a claim answers."""
    return (claim.answers,) if isinstance(claim.answers, str) else claim.answers or ()


def statements(claim: Claim) -> list[tuple[str | None, float]]:
    """(relation, value) as declared, else as the claims that it answers print them.

    Two are the ends of a range (>= and <=), or else of a ratio its numerator and its denominator.
    """
    printed = [published.claim(name) for name in answered(claim)] or [{"comparator": "", "value": "0"}]
    relations = [claim.relation or {"=": "~"}.get(row["comparator"], row["comparator"]) or None for row in printed]
    values = [float(row["value"]) for row in printed]
    if claim.compare == "ratio" and len(printed) == 2 and relations != [">=", "<="]:
        relations, values = relations[:1], [values[0] / values[1]]
    return [(r, v if claim.value is None else claim.value) for r, v in zip(relations, values, strict=True)]
