"""What crosses between the layers of a network, in words: why it has no more blocks, and where it can be cut at all."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from effdl.archs.flow import Flow

FEW = 4  # blocks, of which fewer are too few to pass without a word
NAMED = 8  # places that a line names
ONE_BLOCK = (
    "whole it is one block, BlockChain([network], nn.Identity()); cuts= needs a place that one value alone crosses: put what "
    "another value goes around into a submodule of its own, and name that"
)


def remark(name: str, blocks: int, why: str | None, more: str | None) -> str:
    """How many blocks a network has that is cut by itself, why, and the cuts that give more, if there are any."""
    count = f"{name} has {blocks} block{'s' * (blocks > 1)} by itself{f': {why}' if why else ''}"
    whole = ", so that layer-wise learning trains it whole" if blocks == 1 else ""
    return f"{count}; {more}" if more else f"{count}; no other cuts were found{whole}"


def why_few(flow: Flow, places: Sequence[int] = ()) -> str | None:
    """What is in the way of further cuts between layers of one block, None where nothing is. places: where blocks end."""
    if not (found := list(_blocked(flow, places))):
        return None
    below, above, obstacle = found[0]
    others = len(found) - 1
    more = f"; nor between {others} other pair{'s' * (others > 1)} of layers" if others else ""
    return f"no cut between {below} and {above}, as {obstacle}{more}"


def elsewhere(flow: Flow) -> str:
    """Where it can be cut between its layers, or that it cannot."""
    if not (names := ends(flow)):
        return f"nor can it be cut elsewhere: {ONE_BLOCK}"
    return f"it can be cut after {', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''}"


def ends(flow: Flow) -> list[str]:
    """Submodules after which it can be cut, with a layer below each, above the one before, and above all."""
    layers, found, start = _layers(flow), list[str](), 0
    for name in called_once(flow):
        end = flow.after(name)
        if any(start <= i < end for i in layers) and end <= layers[-1] and flow.obstacle(end) is None:
            found.append(name)
            start = end
    return found


def called_once(flow: Flow) -> list[str]:
    targets = [str(n.target) for n in flow.nodes if n.op == "call_module"]
    return [name for name in targets if targets.count(name) == 1]


def _layers(flow: Flow) -> list[int]:
    return [i for i in range(len(flow.nodes)) if flow.is_layer(i)]


def _blocked(flow: Flow, places: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """Neighbouring layers of one block that no place divides, and what is in the way where the fewest values cross.

    Those of the head, after the last place, need no cut.
    """
    for below, above in pairwise(_layers(flow)):
        between = range(below + 1, above + 1)
        if places and (below >= places[-1] or any(place in between for place in places)):
            continue
        if any(flow.obstacle(i) is None for i in between):
            continue
        best = min(between, key=lambda i: len(flow.values(i)))
        yield str(flow.nodes[below].target), str(flow.nodes[above].target), str(flow.obstacle(best))
