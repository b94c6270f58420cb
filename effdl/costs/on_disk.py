"""Which features that do not fit in memory lie on disk, and what that takes, measured on the disk itself (§6.2.2)."""

import shutil
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import torch

from effdl.costs.feeding import Access, Sources, turns
from effdl.datasets.rows import Rows
from effdl.errors import disk_errors
from effdl.training.engine import Engine
from effdl.training.handle import SegmentCost

PROBE_BYTES, MOST_ROWS = 8 * 2**20, 1024  # that are written and read to measure a disk
SHARE = 0.5  # of what is free on the disk: recordings and checkpoints need the rest
NO_TIME = Access(0.0, 0.0)
DECIDED = "data/features_on_disk"


def on_disk(engine: Engine, costs: Sequence[SegmentCost], samples: Sequence[int], limit_bytes: int) -> dict[int, Access]:
    """Where segments begin whose features may lie on disk, and what a batch of them takes there; the engine is told.

    Decided once for a run. A plan without data is of any disk; and since it measures nothing, "auto" lays nothing there.

    Args:
        samples: of each split that is kept with the others or not at all. limit_bytes: of those in memory; -1 keeps nothing.
    """
    how, problem, run, training = engine.training.keep_on, engine.problem, engine.run, engine.training
    replays = training.replays
    if how == "memory" or (limit_bytes < 0 and not replays) or (how == "auto" and problem.is_outline):
        return {}
    at = {cost.start: cost.feature_bytes for cost in costs}
    found = partial(laid, costs, samples, limit_bytes, replays=replays, val_limit_bytes=training.keep_bytes)
    if problem.is_outline:
        starts = found(lambda start: NO_TIME, lambda: float("inf"), always=True)
        engine.may_lay(starts)
        return dict.fromkeys(starts, NO_TIME)

    measured = cache(lambda sample_bytes: disk_access(run.folder("features"), sample_bytes, problem.batch_size))

    def access(start: int) -> Access:
        return measured(at[start])

    def decide() -> list[int]:
        return found(access, lambda: _room(run.folder("features")), always=how == "disk")

    starts = run.decide(DECIDED, decide)
    engine.may_lay(starts)
    return {start: access(start) for start in starts if start in at}


def laid(
    costs: Sequence[SegmentCost],
    samples: Sequence[int],
    limit_bytes: int,
    access: Callable[[int], Access],
    room: Callable[[], float],
    always: bool,
    replays: Collection[int] = (),
    val_limit_bytes: int = -1,
) -> list[int]:
    """Where segments begin whose features are laid on disk, turn by turn: if they do not fit in memory, there is room for them
    beside those that lie there, and, unless ``always``, it takes less time than a feednet in that turn::

        B (f + w) + E b r < E b f

    for E epochs of b batches, B all of them, f seconds to feed one, w to write and r to read it; above a recording, those of
    the validation set. replays, val_limit_bytes: see `Sources`.
    """
    sources, decided = Sources(costs, samples, limit_bytes, None, replays, val_limit_bytes), dict[int, bool]()
    for team, epochs in turns(costs):
        lowest, *_ = team
        cost, feeding = costs[lowest], sources.of(lowest)
        feeding.look(lowest)
        through = feeding.through
        if cost.start not in decided and through.limit_bytes >= 0 and not through.fits and through.pending:
            of_training = (0, 0) if lowest in replays else (cost.fed_steps, cost.batches)
            each, all_once = (n + cost.val_steps for n in of_training)
            batches, fed = epochs * each, feeding.fed_s
            enough = feeding.samples * cost.feature_bytes + feeding.laid_bytes <= room()
            one = access(cost.start) if enough else NO_TIME
            making = all_once * (fed + one.write_s)
            decided[cost.start] = enough and (always or making + batches * one.read_s < batches * fed)
            if decided[cost.start]:
                sources.lay(cost.start, one)
        feeding.begin(lowest)
        for segment in team:
            sources.learned(segment, epochs)
    return [start for start, is_laid in decided.items() if is_laid]


def disk_access(folder: Path, sample_bytes: int, batch_size: int) -> Access:
    """Seconds that a batch takes: written and on the disk, and read in random order when the system has no copy of it.

    Raises RecordError.
    """
    count = max(2, min(MOST_ROWS, PROBE_BYTES // sample_bytes))
    data = torch.randint(256, (count, sample_bytes), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    start = perf_counter()
    rows = Rows(folder, data[:1], [data], torch.zeros(count, dtype=torch.long))
    rows.forget_copies()
    written = perf_counter()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    for _ in rows.gather(order.split(batch_size)):
        pass
    read = perf_counter()
    return Access(*(seconds * batch_size / count for seconds in (written - start, read - written)))


def _room(folder: Path) -> float:
    with disk_errors(folder):
        return SHARE * shutil.disk_usage(folder).free
