"""The search for balanced cuts beside the plain dynamic program that it was, over random inputs; and with loose bounds."""

import random
from collections.abc import Callable

from effdl.costs.cut import balanced
from effdl.methods.cutting import Span

Weight = Callable[[int, int], float]


def plain(blocks: int, parts: int, weigh: Weight, bound: Weight) -> list[Span]:
    """The same way by lists of paths: at each part the best way to each place, the first of equals."""
    known: dict[Span, float] = {}

    def best(most: float | None) -> list[Span]:
        paths: dict[int, tuple[tuple[float, int], list[Span]]] = {0: ((0, 0), [])}
        for part in range(1, parts + 1):
            longer: dict[int, tuple[tuple[float, int], list[Span]]] = {}
            for a, ((sofar, even), path) in paths.items():
                for b in [blocks] if part == parts else range(a + 1, blocks - parts + part + 1):
                    w = known.get((a, b), bound(a, b)) if a < b else float("inf")
                    if w == float("inf") or (most is not None and w > most):
                        continue
                    score = (max(sofar, w) if most is None else sofar + w * w), even + (b - a) ** 2
                    if b not in longer or score < longer[b][0]:
                        longer[b] = score, [*path, (a, b)]
            paths = longer
        return paths[blocks][1]

    most, found = None, best(None)
    for _ in range(2):
        while unknown := [span for span in found if span not in known]:
            known.update({span: weigh(*span) for span in unknown})
            found = best(most)
        most = max(known[span] for span in found)
        found = best(most)
    return found


def test_cuts_and_what_is_weighed_are_those_of_the_plain_program() -> None:
    draw = random.Random(0)
    for case in range(300):
        blocks = draw.randint(1, 12)
        parts, most = draw.randint(1, blocks), draw.choice([3, 9, 10**12])  # many ties; squares beyond 2**63
        of_kind = (int, float)[case % 2]
        weights = {(a, b): of_kind(draw.randint(1, most)) for a in range(blocks) for b in range(a + 1, blocks + 1)}
        bounds = {span: weight * draw.uniform(0.3, 1) for span, weight in weights.items()}
        asked: list[list[Span]] = [[], []]
        for exact in (True, False):
            found = []
            for search, calls in zip((balanced, plain), asked, strict=True):

                def weigh(a: int, b: int, calls: list[Span] = calls, weights: dict[Span, float] = weights) -> float:
                    calls.append((a, b))
                    return weights[a, b]

                def bound(a: int, b: int, known: dict[Span, float] = weights if exact else bounds) -> float:
                    return known[a, b]

                found.append(search(blocks, parts, weigh, bound))
            assert found[0] == found[1] and asked[0] == asked[1]


def test_loose_bounds_of_a_hundred_blocks_leave_spans_to_weigh_and_little_else() -> None:
    """Minutes by lists of paths, which were gone through after each of these."""
    draw, below = random.Random(1), [0]
    for _ in range(120):
        below.append(below[-1] + draw.randint(1, 1000))
    asked = []

    def weigh(a: int, b: int) -> float:
        asked.append((a, b))
        return float(below[b] - below[a] + 300)

    found = balanced(120, 4, weigh, lambda a, b: 0.5 * (below[b] - below[a]))
    heaviest = max(below[b] - below[a] for a, b in found)
    assert heaviest <= below[-1] / 4 + 1000 and len(asked) == len(set(asked)) < 120 * 121 / 4
