"""A filter beside recordings (§6.8.2): what it leaves is recorded, with labels and places, and replayed, or filtered again."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import tiny
import torch
from command import numbers
from torch import Tensor, nn

from effdl import config
from effdl.costs.segments import segment_costs
from effdl.datasets.batch import Batch
from effdl.filters.filter import Filter
from effdl.filters.random_subset import RandomSubset
from effdl.methods.segmentwise import Segmentwise
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.setting import setting
from effdl.training.engine import Engine
from effdl.training.optim import Sgd

SGD = Sgd(lr=0.05, momentum=0.9)
EPOCHS = 2


@setting
class Largest(Filter):
    """Of each chunk the half with the largest features, in the place of k-filtering: a rule that looks at them."""

    sees: ClassVar[Literal["index", "features"]] = "features"
    expected_share: ClassVar[float] = 0.5  # type: ignore[misc]

    def keep(self, chunk: Batch, seen: int, generator: torch.Generator) -> Tensor:
        sizes = chunk.x.double().flatten(1).square().sum(1)
        return sizes > sizes.median()  # of an even number the lower of two


FILTERS: list[Any] = [RandomSubset(share=0.5), Largest(chunk=20), Largest(chunk=40)]


def copies(batches: Iterable[Batch]) -> Iterator[Batch]:
    return (Batch(b.x.clone(), b.y, b.index) for b in batches)


def reference(by: Filter, recorded: tuple[int, ...]) -> tuple[nn.Module, dict[int, list[list[Batch]]]]:
    """Algorithm 3 with filter and recordings by hand; and the batches that each layer learned from.

    Only a filter that sees features filters again what is replayed.
    """
    model, run, problem = tiny.chain().double(), Run(0, SGD), tiny.problem()
    engine = Engine(Segmentwise(epochs=EPOCHS).training(problem, model, run), problem, model, run)
    written, seen = dict[int, list[list[Batch]]](), dict[int, list[list[Batch]]]()
    for i in range(3):
        learner = engine.making.learner(i)
        learner.rule.yields, model = True, model.eval()
        base = max((layer for layer in recorded if layer <= i), default=0)
        seen[i], written[i + 1] = [], []
        for epoch in range(EPOCHS):
            with torch.no_grad():
                if base:
                    inputs = [b.passed_on(model.blocks[base:i](b.x)) for b in written[base][epoch]]
                else:
                    inputs = [b.passed_on(model.input(b.x)) for b in problem.train(epoch)]
            if not base or by.sees == "features":
                inputs = list(by.apply(inputs, problem.batch_size, run.seed("filter", i, epoch)))
            seen[i].append(inputs)
            written[i + 1].append(list(copies(learner.train_epoch(copies(inputs)))))
    return model, seen


@pytest.mark.parametrize("store", ["device", "disk"])
@pytest.mark.parametrize("by", FILTERS, ids=str)
def test_weights_are_those_of_a_loop_that_filters_writes_down_and_replays(by: Filter, store: Any) -> None:
    model, run = tiny.chain().double(), Run(0, SGD, filter=by)
    Segmentwise(epochs=EPOCHS, record_at="all", store=store, choose="last").fit(tiny.problem(), model, run)
    expected, seen = reference(by, (1, 2))
    assert tiny.same(tiny.copied(model.blocks), tiny.copied(expected.blocks))  # type: ignore[arg-type]
    lines = [(line["segment"], line["epoch"], line["data/samples"]) for line in run.lines]
    assert lines == [(i, e, sum(map(len, seen[i][e]))) for i in range(3) for e in range(EPOCHS)]


@pytest.mark.parametrize("by", FILTERS, ids=str)
def test_above_layers_that_are_not_recorded_a_filter_of_features_sees_those_of_the_segment(by: Filter) -> None:
    model, run = tiny.chain().double(), Run(0, SGD, filter=by)
    Segmentwise(epochs=EPOCHS, record_at=(1,), choose="last").fit(tiny.problem(), model, run)
    expected, _ = reference(by, (1,))
    torch.testing.assert_close(model.blocks.state_dict(), expected.blocks.state_dict(), rtol=1e-10, atol=1e-12)  # type: ignore[union-attr]


def test_a_sample_keeps_its_label_and_no_layer_sees_one_that_was_dropped_below() -> None:
    _, seen = reference(Largest(chunk=20), (1, 2))
    y = tiny.problem().train_split.y
    for epoch in range(EPOCHS):
        places = [torch.cat([batch.index for batch in seen[i][epoch]]) for i in range(3)]
        labels = [torch.cat([batch.y for batch in seen[i][epoch]]) for i in range(3)]
        assert all(torch.equal(y[at], of) for at, of in zip(places, labels, strict=True))
        below, between, above = (set(at.tolist()) for at in places)
        assert above < between < below


@pytest.mark.parametrize(("by", "shares"), [(FILTERS[0], (20, 20, 20)), (FILTERS[2], (20, 10, 5))], ids=["index", "features"])
def test_a_plan_reckons_with_what_is_left_for_each_layer(by: Filter, shares: tuple[int, ...]) -> None:
    run, problem, model = Run(0, SGD, filter=by), tiny.problem(), tiny.chain()
    method = Segmentwise(epochs=EPOCHS, record_at="all")
    engine = Engine(method.training(problem, model, run), problem, model, run)
    costs = segment_costs(engine)
    batch = problem.batch_size
    assert [cost.steps for cost in costs] == [-(-count // batch) for count in shares]
    assert [cost.fed_steps for cost in costs[1:]] == [cost.steps for cost in costs[:-1]]
    assert [cost.filter_bytes > 0 for cost in costs] == [by.sees == "features"] * 3
    network = method.fit(problem, model, run)
    assert network is not None
    found = [[line["data/samples"] for line in run.lines if line["segment"] == i] for i in range(3)]
    assert found == [[count] * EPOCHS for count in shares]
    sample, beside = 4 * tiny.SIDE**2, 8 + 8 + 4
    made = [EPOCHS * count * (width * sample + beside) for width, count in zip(tiny.WIDTHS[1:3], shares, strict=False)]
    assert run.notes["data/recorded_bytes"] == sum(made)
    val = [20 * width * sample for width in tiny.WIDTHS[1:3]]
    assert [cost.kept_bytes for cost in costs[1:]] == [sum(made) + val[0], made[1] + val[1]]


def test_auto_records_what_a_filter_is_reckoned_to_leave() -> None:
    run, problem = Run(0, SGD, filter=FILTERS[2]), tiny.problem()
    method = Segmentwise(record_at="all", epochs=EPOCHS, keep_features_mib=1e-9, store="auto")
    assert method.training(problem, tiny.chain(), run).store == "disk"


def test_a_run_in_rounds_is_taken_up_at_any_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """§6.8.2's own form: a round robin of partitions, filtered, each round's features recorded."""
    data = ["arch=cnn4", "dataset=digits", "dataset.train_limit=300", "filter=random_subset", "filter.share=0.4"]
    spec = config.build(
        config.compose(["method=round_robin", "method.rounds=2", "method.epochs=2", "method.record_at=all", *data])
    )
    alone, again = carry_out(spec, tmp_path / "alone"), tiny.resumed(spec, tmp_path / "again", monkeypatch, 1, 3, 4, 7)
    assert numbers(Path(alone["path"])) == numbers(Path(again["path"]))
    lines = [line for line in numbers(Path(alone["path"]))[0] if "train/loss" in line]
    assert {line["data/samples"] for line in lines} == {round(0.4 * 300)}
