"""One place for randomness: every stream is seeded from what it is for, never from what ran before it."""

from hashlib import blake2b


def seed_for(seed: int, stream: str, *counters: int) -> int:
    """The seed of one random stream at one point of a run.

    Args:
        seed: the run's seed, any integer.
        stream: what the numbers are for: ``"init"``, ``"order"``, ``"step"``, ``"split"``, a probe's name ...
        counters: where in the run, for example segment, epoch, step.

    Returns:
        An integer in [0, 2**63), a pure function of the arguments: a resumed run, a chained segment or a probe that draws
        numbers in between cannot move it.
    """
    name = "/".join([str(seed), stream, *map(str, counters)])
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
