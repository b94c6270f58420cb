"""What a run will cost in seconds, from what each segment's rehearsal measured on one batch."""

from collections.abc import Sequence

from effdl.costs.feeding import Feeding, turns
from effdl.training.handle import SegmentCost

EPOCH_S = 0.0005  # what an epoch's order, sums and line of metrics take beside its steps, whatever learns


def training_seconds(cost: SegmentCost) -> float:
    """Expected seconds of one segment's training and validation. A forward pass is taken as a third of a training step."""
    fed, batches = (cost.fed_s, cost.batches) if cost.replayed_s is None else (cost.replayed_s, 0)
    epoch = EPOCH_S + cost.steps * cost.step_s + cost.fed_steps * fed + cost.val_steps * (cost.step_s / 3 + cost.fed_s)
    return cost.epochs * epoch + (batches + cost.val_steps) * cost.made_s


def measuring_seconds(
    costs: Sequence[SegmentCost], samples: int, batches: int, test_every: str, limit_bytes: int, changes: bool = False
) -> list[float]:
    """Expected seconds that each segment's measurements on the test split take, as `records.measure` makes them.

    A measurement is a forward pass of segment and decision block above the features of what lies below, which are made anew
    where that has learned since, from as low as it has. Where they do not fit, each measurement begins where features were last
    kept. A segment's last measurement makes those of the segment that begins where it ends, unless something below learns in
    between. With ``test_every`` "run" only the finished network is measured. Of samples that are made anew for each measurement
    nothing is kept, and the finished network is measured on some of its own.

    Args:
        samples, batches: of the test split.
        limit_bytes: of features that may be kept at once.
        changes: whether each measurement has samples of its own.
    """
    finished = batches * (costs[-1].feed_s + costs[-1].step_s / 3)
    if test_every == "run":
        return [*(0.0 for _ in costs[1:]), finished]
    feeding = Feeding(costs, [samples], -1 if changes else limit_bytes)
    seconds, left, ahead = [0.0] * len(costs), [c.epochs for c in costs], None
    if changes:
        seconds[-1] += finished
    for team, epochs in turns(costs):
        # Of several that learn at once each is measured in each epoch, after which all are another thing.
        for now in [1] * epochs if len(team) > 1 else [epochs]:
            for segment in team:
                feeding.learned(segment, now)
                left[segment] -= now
            for segment in team:
                cost, last = costs[segment], left[segment] == 0
                times = now if test_every == "epoch" else int(last)
                if times == 0:
                    continue
                made, fed = feeding.begin(segment, made=ahead is not None and ahead == feeding.stack(cost.start))
                seconds[segment] += batches * (made + times * (cost.step_s / 3 + fed))
                ahead = feeding.ahead(segment) if last else None
    return seconds
