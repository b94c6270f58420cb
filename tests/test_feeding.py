"""What a plan says of feeding and of measuring is what a run does, turn by turn: how often each block is called for it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import tiny
from test_overlap import chain
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.costs import rehearsal, segments
from effdl.costs import seconds as costs_in_seconds
from effdl.costs.feeding import Sources, turns
from effdl.costs.recorded import with_recordings
from effdl.costs.seconds import measuring_seconds, training_seconds
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.measure import Measure
from effdl.records.run import Run
from effdl.training.engine import Engine
from effdl.training.handle import SegmentCost
from effdl.training.optim import Sgd
from effdl.training.sources import Fed

TEST, BATCH, BATCHES = 21, 8, 3  # the test split; of one sample's features only the size is asked
CALLS: Counter[tuple[str, int]] = Counter()


class Gate(nn.Module):
    """The identity, which counts its calls by what they are for. Not a hook: those make a block hard to tell."""

    looking = ""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1 and Gate.looking:
            CALLS[Gate.looking, self.place] += 1
        return x


def gated() -> BlockChain:
    """Gate 0 is the input block's, gate i block i's."""
    model = chain()
    model.input = nn.Sequential(model.input, Gate(0))
    for i, block in enumerate(model.blocks, 1):
        block.append(Gate(i))
    return model


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def looking(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*args: Any, **more: Any) -> Any:
            Gate.looking, before = what, Gate.looking
            try:
                return call(*args, **more)
            finally:
                Gate.looking = before

        return looked

    for module in (rehearsal, segments):  # no seconds are asked for
        monkeypatch.setattr(module, "usual", lambda *_: 0.0)
    monkeypatch.setattr(costs_in_seconds, "EPOCH_S", 0.0)
    monkeypatch.setattr(Measure, "above", looking("test", Measure.above))
    monkeypatch.setattr(Fed, "passed", looking("feed", Fed.passed))
    CALLS.clear()


def planned(costs: list[SegmentCost], place: int, limit: int, test_every: str, engine: Engine) -> dict[str, float]:
    """Calls of this place's module, as the seconds of a run in which nothing else takes any."""
    alone = []
    for cost in costs:
        below, within = float(place <= cost.start), cost.start < place <= cost.stop
        alone.append(replace(cost, feed_s=below, step_s=3.0 if within else 0.0, made_s=0.0, fed_s=0.0))
    fed = segments._fed(alone, (40, 20), limit, None, engine.training.replays, limit)
    fed = with_recordings(fed, engine) if engine.training.record else fed
    feed = sum(training_seconds(replace(cost, step_s=0.0)) for cost in fed)
    return {"feed": feed, "test": sum(measuring_seconds(alone, TEST, BATCHES, test_every, limit))}


METHODS = {
    "together": Segmentwise(epochs=2, together=True),
    "partitions together": Segmentwise(epochs=2, together=True, partitions=3),
    "bottom up": Segmentwise(epochs=2),
    "round robin": Segmentwise(epochs=2, rounds=3),
    "random robin": Segmentwise(epochs=1, rounds=4, permute=True),
    "overlap": Segmentwise(epochs=2, segment_size=3, overlap=2),
    "some overlap": Segmentwise(epochs=2, segment_size=3, overlap=1),
    "overlapping robin": Segmentwise(epochs=1, segment_size=2, overlap=1, rounds=3),
    "recorded": Segmentwise(epochs=2, record_at=(2,), store="disk"),
    "recorded robin": Segmentwise(epochs=1, rounds=3, record_at=(1, 3), store="disk"),
    "random overlapping robin": Segmentwise(epochs=1, segment_size=2, overlap=1, rounds=3, permute=True),
}
# Of the training set 8,640 bytes a channel would be kept, of the test split 3,024: all, some or none of it fits.
LIMITS = (0, 50_000, 2**30)
FEW = {
    ("recorded", "epoch"),
    ("recorded robin", "segment"),
    ("partitions together", "epoch"),
    ("random overlapping robin", "segment"),
    ("some overlap", "epoch"),
}
CASES = [
    pytest.param(name, every, marks=[] if (name, every) in FEW else pytest.mark.slow)
    for name, every in product(METHODS, ("epoch", "segment"))
]


@pytest.mark.parametrize(("name", "test_every"), CASES)
def test_a_run_calls_each_block_as_often_as_its_plan_reckons(
    name: str, test_every: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(monkeypatch)
    seen = set()
    for limit in LIMITS:
        CALLS.clear()
        method = replace(METHODS[name], keep_features_mib=limit / 2**20)
        problem, model = tiny.problem(), gated()
        run = Run(0, Sgd(lr=0.05), test=tiny.images(TEST, 3), objective=SoftmaxCe(), batch_size=BATCH, test_every=test_every)
        engine = Engine(method.training(problem, model, run), problem, model, run)
        costs = segments.segment_costs(engine)
        CALLS.clear()
        engine.fit()
        for place in range(len(model) + 1):
            found = planned(costs, place, limit, test_every, engine)
            assert found == {what: CALLS[what, place] for what in ("feed", "test")}, (limit, place)
        sources, passes = Sources(costs, (problem.num_train, problem.num_val), limit, None, engine.training.replays, limit), 0
        for team, epochs in turns(costs):
            before = (feeding := sources.of(team[0])).through.made
            feeding.begin(team[0])
            passes += feeding.through.made - before
            for segment in team:
                sources.learned(segment, epochs)
        assert passes == run.notes["data/feature_passes"]
        most = run.notes["memory/kept_features_bytes"]
        assert max(cost.kept_bytes for cost in costs) == most <= limit
        seen.add((passes, most))
    assert len(seen) > 1, "the limits were to make a difference"
