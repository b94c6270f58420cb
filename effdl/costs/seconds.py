"""What a run will cost in seconds, from what each segment's rehearsal measured on one batch."""

from collections.abc import Callable, Sequence

from effdl.training.handle import SegmentCost


def training_seconds(cost: SegmentCost) -> float:
    """Expected seconds of one segment's training and validation. A forward pass is taken as a third of a training step."""
    lift = cost.feed_s - cost.stored_s
    feed, keep = (0.0, (cost.batches + cost.val_steps) * lift) if cost.kept else (lift, 0.0)
    epoch = cost.steps * cost.step_s + cost.fed_steps * feed + cost.val_steps * (cost.step_s / 3 + feed)
    return cost.epochs * epoch + cost.turns * keep


def measuring_seconds(
    costs: Sequence[SegmentCost], batches: int, test_every: str, fits: Callable[[float, float], bool]
) -> list[float]:
    """Expected seconds that each segment's measurements on the test split take, as `records.measure` makes them.

    Where features fit, a measurement is a forward pass of segment and decision block; the next segment's features come with the
    last of them. Elsewhere it begins where features were last kept. With ``test_every`` "run" only the finished network is
    measured.

    Args:
        batches: of the test split.
        fits: (bytes of one sample's features, bytes that are kept) -> whether they are kept too.
    """
    if test_every == "run":
        return [*(0.0 for _ in costs[1:]), batches * (costs[-1].feed_s + costs[-1].step_s / 3)]
    seconds, kept_bytes, kept_s, kept_before = [], 0.0, 0.0, True
    for cost in costs:
        lift, kept = max(0.0, cost.feed_s - kept_s), fits(cost.feature_bytes, kept_bytes)
        times = cost.epochs if test_every == "epoch" else 1
        once = lift if kept and not kept_before else 0.0
        seconds.append(batches * (times * (cost.step_s / 3 + (0.0 if kept else lift)) + once))
        if kept:
            kept_bytes, kept_s = float(cost.feature_bytes), cost.feed_s
        kept_before = kept
    return seconds
