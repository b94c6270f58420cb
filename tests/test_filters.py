"""Filters drop samples and nothing else: counted, compared with no filter, and watched while the engine trains."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.config import build, build_choice, choices, compose, dump
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError, FitFailed
from effdl.filters.filter import Filter, chunked, regroup
from effdl.filters.random_subset import RandomSubset, quota, random_subset
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.setting import Count, setting
from effdl.training.optim import Sgd

MADE = [build_choice("filter", name) for name in choices("filter") if name != "none"]
FILTERS = [made for made in MADE if not made.needs_moments]  # the others are in test_choosing_filters
METHODS = [Backprop(epochs=2), Segmentwise(epochs=2, input_dropout=0.3)]


def samples(count: int, batch_size: int, known: bool = True) -> Iterator[Batch]:
    """Batches whose x, y, weight and loss all tell the index."""
    for index in torch.arange(count).split(batch_size):
        more = {"sample_weight": index * 2.0, "loss": index * 3.0} if known else {}
        yield Batch(index.float()[:, None] * torch.ones(2), index % 3, index, **more)


def run_with(filter: Any) -> Run:
    return Run(0, Sgd(lr=0.05), filter=filter)


def test_there_is_one_filter_that_goes_by_chance_alone() -> None:
    assert [RandomSubset()] == FILTERS and len(MADE) > 1


@pytest.mark.parametrize("made", FILTERS, ids=lambda f: f.snake_name())
class TestContract:
    @pytest.mark.parametrize("known", [True, False], ids=["weighted", "plain"])
    def test_what_is_kept_are_samples_that_came_each_once_in_their_order(self, made: Filter, known: bool) -> None:
        chosen = list(replace(made, chunk=16).apply(samples(101, 8, known), 8, seed=3))
        index = torch.cat([b.index for b in chosen])
        assert (index.diff() > 0).all() and 0 < len(index) <= 101
        assert torch.equal(torch.cat([b.x for b in chosen]), index.float()[:, None] * torch.ones(2))
        assert torch.equal(torch.cat([b.y for b in chosen]), index % 3)
        for field, factor in (("sample_weight", 2.0), ("loss", 3.0)):
            parts = [getattr(b, field) for b in chosen]
            assert torch.equal(torch.cat(parts), index * factor) if known else parts == [None] * len(parts)

    def test_it_draws_from_its_own_stream_alone(self, made: Filter) -> None:
        before = torch.get_rng_state()
        one, same, other = ([b.index for b in made.apply(samples(200, 8), 8, seed)] for seed in (1, 1, 2))
        assert tiny.same(one, same)
        assert not tiny.same(one, other)
        assert torch.equal(before, torch.get_rng_state())

    def test_it_takes_no_more_than_a_chunk_before_it_gives(self, made: Filter) -> None:
        taken = 0

        def counted() -> Iterator[Batch]:
            nonlocal taken
            for batch in samples(4000, 10):
                taken += len(batch)
                yield batch

        given = 0
        for batch in replace(made, chunk=100).apply(counted(), 10, seed=0):
            given += len(batch)
            assert taken * made.expected_share - given < 100 + 10 + 12
        assert taken == 4000

    def test_the_share_that_it_expects_is_the_share_that_it_keeps(self, made: Filter) -> None:
        kept = sum(len(b) for b in made.apply(samples(20000, 100), 100, seed=0))
        assert kept / 20000 == pytest.approx(made.expected_share, rel=0.05)


# --- chunks and batches


@pytest.mark.parametrize("size", [1, 7, 8, 30, 64, 1000])
def test_chunks_have_at_least_their_size_and_hold_everything_in_order(size: int) -> None:
    chunks = list(chunked(samples(101, 8), size))
    assert torch.equal(torch.cat([c.index for c in chunks]), torch.arange(101))
    assert all(size <= len(chunk) < size + 8 for chunk in chunks[:-1])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("sizes", [[1], [8], [9], [3, 6], [10, 0, 7], [0, 1, 1, 1], [40, 1], [5, 5, 5, 2], [0], []])
def test_regrouped_batches_have_the_batch_size_and_never_one_sample_left_over(sizes: list[int], batch_size: int) -> None:
    everything = Batch(torch.arange(sum(sizes)).float(), torch.arange(sum(sizes)), torch.arange(sum(sizes)))
    parts = [everything.take(index) for index in everything.index.split(sizes)] if sizes else []
    batches = list(regroup(iter(parts), batch_size))
    total, lengths = sum(sizes), [len(b) for b in batches]
    assert sum(lengths) == total
    if total:
        assert torch.equal(torch.cat([b.index for b in batches]), everything.index)
        assert lengths[:-1] == [batch_size] * (len(lengths) - 1)
        assert lengths[-1] <= batch_size + 1
        assert lengths[-1] > 1 or batch_size == 1 or total == 1


def test_a_batch_owns_its_memory_so_that_a_chunk_goes_when_its_batches_are_gone() -> None:
    for batch in regroup(chunked(samples(64, 8), 64), 8):
        assert batch.x.untyped_storage().nbytes() == batch.x.nbytes


# --- the random subset


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 1 / 3, 0.999, 0.01])
@pytest.mark.parametrize("chunk", [1, 16, 57, 6000])
def test_exactly_the_share_is_kept_however_chunks_fall(share: float, chunk: int) -> None:
    for count in (8, 99, 100, 1001):
        kept = sum(len(b) for b in RandomSubset(share=share, chunk=chunk).apply(samples(count, 8), 8, seed=1))
        assert abs(kept - Fraction(share) * count) <= Fraction(1, 2)
        assert kept == round(share * count)


def test_each_chunk_gets_its_share_rounded_down_or_up() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 50, (300,), generator=generator).tolist()
    for share in (0.1, 0.37, 0.5, 2 / 3, 0.95):
        seen = 0
        for size in sizes:
            kept = quota(seen, size, share)
            assert abs(kept - Fraction(share) * size) <= 1 and 0 <= kept <= size
            seen += size


def test_every_sample_has_the_same_chance_and_so_has_every_pair() -> None:
    draws = torch.stack([random_subset(6, 2, torch.Generator().manual_seed(seed)) for seed in range(6000)]).double()
    assert draws.sum(1).eq(2).all()
    together = draws.T @ draws / len(draws)
    expected = torch.full((6, 6), 1 / 15, dtype=torch.float64).fill_diagonal_(1 / 3)  # 2/6, and 1 of the 15 pairs
    torch.testing.assert_close(together, expected, atol=0.02, rtol=0)


def test_a_share_that_leaves_too_little_is_refused() -> None:
    for share, kept in ((0.0001, 0), (0.001, 1)):
        with pytest.raises(ConfigError, match=rf"^filter\.share: {share:g} of 1200 training samples is {kept}, too few"):
            build(compose(["filter=random_subset", f"filter.share={share}"]))
    for value in ("0", "1.01", "-0.5", "nan"):
        with pytest.raises(ConfigError, match=r"^filter\.share: "):
            build(compose(["filter=random_subset", f"filter.share={value}"]))
    with pytest.raises(ConfigError, match=r"^filter\.shre: unknown key; there are chunk, share$"):
        build(compose(["filter=random_subset", "filter.shre=0.5"]))


# --- in the engine


@pytest.mark.parametrize("keep_features_mib", [0.0, 100.0])
@pytest.mark.parametrize("method", METHODS, ids=["backprop", "segmentwise"])
@pytest.mark.parametrize("train", [40, 41, 43])
def test_limit_keeping_all_is_no_filter_bit_for_bit(method: Any, train: int, keep_features_mib: float) -> None:
    results = []
    for filter in (None, RandomSubset(share=1.0, chunk=16)):
        run = run_with(filter)
        fitted = replace(method, keep_features_mib=keep_features_mib).fit(tiny.problem(train=train), tiny.chain(), run)
        results.append([fitted.state_dict(), [{k: v for k, v in e.items() if "time" not in k} for e in run.lines]])
    assert tiny.same(*results)


@setting
class Watching(Filter):
    """Keeps every second sample of a chunk, remembering what it saw; ``looks`` decides when it is asked."""

    chunk: Count = 16
    every: Count = 2

    @property
    def expected_share(self) -> float:
        return 1 / self.every

    def keep(self, chunk: Batch, seen: int, generator: torch.Generator) -> Tensor:
        SEEN.append((chunk, seen))
        return (torch.arange(seen, seen + len(chunk)) % self.every) == self.every - 1


@setting
class WatchingIndexes(Watching):
    sees = "index"


SEEN: list[tuple[Batch, int]] = []


@pytest.mark.parametrize(("kind", "fed"), [(WatchingIndexes, 20), (Watching, 40)])
def test_what_is_dropped_without_a_look_at_its_features_is_not_fed(kind: type[Watching], fed: int) -> None:
    model, rows, costs, run = tiny.chain(), [], [], run_with(kind())
    model.input.register_forward_hook(lambda m, args, out: rows.append(len(out)))
    run.expect = lambda expected, keep_bytes: (costs.extend(expected), rows.clear())  # type: ignore[method-assign]
    Segmentwise(epochs=1, keep_features_mib=0).fit(tiny.problem(val=0), model, run)
    assert sum(rows) - rows.count(1) == 3 * fed  # single samples ask whether features fit
    assert [(c.batches, c.steps, c.fed_steps) for c in costs] == [(5, 3, 5 if fed == 40 else 3)] * 3
    waiting = [c.filter_bytes for c in costs]  # what is chosen by its index alone is read when its step comes
    assert waiting == [0] * 3 if fed == 20 else all(c.filter_bytes >= (16 // 2 + 8) * c.feature_bytes for c in costs)


@pytest.mark.parametrize("keep_features_mib", [0.0, 100.0])
def test_a_filter_of_features_sees_what_the_segment_gets(keep_features_mib: float) -> None:
    model, problem, run = tiny.chain(), tiny.problem(), run_with(Watching())
    SEEN.clear()
    Segmentwise(epochs=1, keep_features_mib=keep_features_mib).fit(problem, model, run)
    assert [seen for _, seen in SEEN] == [0, 16, 32] * 3
    raw = problem.train_tensors().x
    with torch.no_grad():
        for i in range(3):
            expected = nn.Sequential(model.input, *model[:i]).eval()(raw)
            for chunk, _ in SEEN[3 * i : 3 * i + 3]:
                torch.testing.assert_close(chunk.x, expected[chunk.index], rtol=1e-5, atol=1e-5)
    orders = [torch.cat([b.index for b in problem.train(epoch)]) for epoch in range(3)]
    for i, order in enumerate(orders):  # that of a run without a filter
        assert torch.equal(torch.cat([chunk.index for chunk, _ in SEEN[3 * i : 3 * i + 3]]), order)


class Steps:
    """A run that keeps what the engine says of its progress."""

    def __init__(self, inner: Run) -> None:
        self.inner, self.said = inner, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def progress(self, segment: int, past: Sequence[float], epochs: int, stands_for: int = 1) -> bool:
        self.said.append((segment, *past))
        return False


@pytest.mark.parametrize("method", METHODS, ids=["backprop", "segmentwise"])
def test_samples_that_were_trained_on_are_recorded_and_validation_is_whole(method: Any) -> None:
    run = Steps(run_with(RandomSubset(share=0.4, chunk=16)))
    problem, validated = tiny.problem(), []
    val = problem.val
    problem.val = lambda: validated.append(problem.num_val) or val()  # type: ignore[method-assign, func-returns-value]
    network = method.fit(problem, tiny.chain(), run)
    segments = 1 if isinstance(method, Backprop) else 3
    lines = [line for line in run.lines if "train/loss" in line]
    assert [line["data/samples"] for line in lines] == [16] * 2 * segments
    assert run.inner.summary(network, [])["data/train_samples"] == 32 * segments
    assert [past[i] for i, *past in run.said] == [0.5, 1.0, 1.5, 2.0] * segments  # 16 samples in batches of 8


def test_the_engine_draws_another_subset_in_every_epoch_and_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, apply = [], Filter.apply
    monkeypatch.setattr(Filter, "apply", lambda *args: seeds.append(args[3]) or apply(*args))  # type: ignore[func-returns-value]
    run = run_with(RandomSubset(share=0.5))
    Segmentwise(epochs=2).fit(tiny.problem(), tiny.chain(), run)
    assert seeds == [seed_for(0, "filter", i, e) for i in range(3) for e in range(2)]
    assert RandomSubset().sees == "index"  # it never looks at x, so what it drops is not fed


def test_every_epoch_and_segment_draws_another_subset() -> None:
    problem, run = tiny.problem(), run_with(RandomSubset(share=0.5))
    draws = {
        tuple(sorted(torch.cat([b.index for b in run.filter.apply(problem.train(0), 8, run.seed("filter", i, e))]).tolist()))
        for i in range(3)
        for e in range(3)
    }
    assert len(draws) == 9


def test_a_filter_that_drops_everything_is_a_failure_of_one_line() -> None:
    with pytest.raises(FitFailed, match=r"^nothing to train on at segment 1 of 3, epoch 1: the filter dropped every sample$"):
        Segmentwise(epochs=1).fit(tiny.problem(), tiny.chain(), run_with(Watching(every=1000)))


def test_a_filter_that_the_method_would_not_ask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segmentwise, "takes", Segmentwise().takes - {"filter"})
    with pytest.raises(ConfigError, match=r"^filter: Segmentwise trains on all samples.*filter=none$"):
        build(compose(["filter=random_subset"]))


@pytest.mark.parametrize("choice", [name for name in choices("method") if "optimizer" in build_choice("method", name).takes])
def test_a_method_that_says_it_takes_filters_trains_on_what_they_leave(choice: str) -> None:
    method = tiny.fitting(replace(build_choice("method", choice), epochs=1))
    run = run_with(RandomSubset(share=0.4))
    method.fit(tiny.problem(), tiny.network_for(method), run)
    trained = {line["data/samples"] for line in run.lines if "train/loss" in line}
    assert trained == ({16} if "filter" in method.takes else {40})


def test_a_filtered_run_is_killed_and_resumed_as_if_it_had_been_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["arch=mlp", "arch.hidden=[8,8]", "method.epochs=3", "dataset.train_limit=300", "test_every=segment"]
    spec = build(compose(["filter=random_subset", "probe=[stable_rank]", *quick]))
    alone = carry_out(spec, tmp_path / "alone")
    killed = tiny.resumed(spec, tmp_path / "killed", monkeypatch, 2, 5)

    def numbers(path: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]

    assert numbers(killed["path"]) == numbers(alone["path"])
    for key in ("data/train_samples", "network/sha256", "test/acc", "val/acc"):
        assert killed["summary"][key] == alone["summary"][key]
    assert killed["summary"]["data/train_samples"] == 150 * 6
    assert dump(spec)["filter"] == json.loads((Path(killed["path"]) / "spec.json").read_text())["config"]["filter"]
