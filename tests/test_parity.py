"""Parity of digits: its labels, its pools that share no image, and what learners, filters and processes get of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_pool import DIGITS, drained, pool, problem, shown
from torch import Tensor

from effdl import config
from effdl.archs.adapt import InputBlock
from effdl.archs.mlp import Mlp
from effdl.augment.standard import Standard
from effdl.datasets.dataset import split
from effdl.datasets.digits import Digits
from effdl.datasets.moments import moments
from effdl.datasets.parity import Parity, SideBySide, parity
from effdl.datasets.problem import Problem
from effdl.filters.filter import Filter
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SigmoidBce
from effdl.records.carry import open_problem
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.setting import setting
from effdl.testing import check_method
from effdl.training.optim import Sgd
from effdl.training.ranks import Ranks
from effdl.training.sources import Fed, Sieve

MNIST = Path(os.environ.get("EFFDL_DATA", "data")).absolute() / "MNIST" / "raw"
on_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not there: EFFDL_DATA names its folder")

# --- the samples


def test_labels_by_hand() -> None:
    digits = torch.tensor([[3, 1, 7, 2], [4, 1, 7, 9], [5, 2, 7, 9]])
    assert parity(digits[:1]).tolist() == [1, 1, 1, 0]  # 3, 1, 7, 2
    assert parity(digits[:2]).tolist() == [1, 0, 0, 1]  # 7, 2, 14, 11
    assert parity(digits).tolist() == [0, 0, 1, 0]  # 12, 4, 21, 20


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_a_sample_shows_k_images_each_image_stands_once_at_each_place_and_the_label_is_of_what_is_seen(k: int) -> None:
    for samples in (pool(100, k), pool(100, k).epoch(3, 17), pool(100, k).take(torch.arange(100))):
        x, y = drained(samples.batches(7))
        assert x.dtype == torch.uint8 and x.shape == (100, 1, 1, 2 * k) == (100, *samples.input_shape)
        seen = shown(x)
        assert [sum((DIGITS * 10)[i] for i in row) % 2 for row in seen.tolist()] == y.tolist() == samples.y.tolist()
        assert all(sorted(place.tolist()) == [*range(100)] for place in seen.T)
        some = torch.tensor([99, 3, 3])
        (batch,) = samples.gather([some])
        assert torch.equal(batch.x, x[some]) and torch.equal(batch.y, y[some]) and torch.equal(batch.index, some)
        assert torch.equal(samples.tensors().x, x) and torch.equal(samples.to(torch.device("cpu")).tensors().x, x)


def test_places_are_independent_of_one_another() -> None:
    """Of two permutations as many entries agree as of random numbers: one, by chance, and seven or more hardly ever."""
    seen = shown(pool(200, 4).epoch(0, 5).tensors().x)
    for a in range(4):
        for b in range(a):
            assert int((seen[:, a] == seen[:, b]).sum()) < 7


def test_samples_are_put_together_row_by_row_as_numpy_stacks_them() -> None:
    train, _ = Digits().load()
    found = SideBySide(train.x, train.y, 3).epoch(0, 1)
    (batch,) = found.gather([torch.arange(50)])
    for sample, places in zip(batch.x, found.places[:, :50].T, strict=True):
        assert torch.equal(sample[0], torch.hstack([train.x[place, 0] for place in places]))


def test_epochs_differ_seeds_repeat_and_validation_samples_stay() -> None:
    first, second, again, other = (
        drained(of.train(epoch)) for of, epoch in ((problem(), 0), (problem(), 1), (problem(), 0), (problem(seed=1), 0))
    )
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    rows = {which: {*map(tuple, shown(x).tolist())} for which, (x, _) in (("a", first), ("b", second), ("c", other))}
    assert all(len(rows[a] & rows[b]) < 5 for a, b in ("ab", "ac", "bc"))
    val = problem()
    assert all(torch.equal(a.x, b.x) for a, b in zip(val.val(), val.val(), strict=True))


def test_with_one_image_nothing_is_made_anew() -> None:
    data = problem(k=1)
    assert not data.varies and not data.facts.changes and data.train_split.epoch(4, 7) is data.train_split
    assert problem(k=2).varies and problem(k=2).facts.changes


def test_the_authors_order_is_the_sets_own_for_one_image_in_every_epoch_and_random_for_three() -> None:
    for k, order, is_own in ((1, "stored", True), (1, "random", False), (3, "stored", False)):
        dataset = Parity(k=k, digits="digits", order=order, val_size=0)  # type: ignore[arg-type]
        train, _ = split(dataset, dataset.load()[0], seed=3)
        data = Problem(train, train.take(torch.arange(0)), SigmoidBce(), outputs=1, batch_size=64, seed=3)
        stored, _ = Digits().load()
        for epoch in (0, 1):
            x, _ = drained(data.train(epoch))
            first = x[..., :8]
            assert torch.equal(first, stored.x) == is_own
            assert torch.equal(*(part.flatten(1).sum(1).sort().values for part in (first, stored.x)))


def test_the_authors_pixels_are_bytes_scaled_by_the_printed_numbers_of_mnist() -> None:
    thesis = config.build_choice("dataset", "parity_thesis")
    assert (thesis.k, thesis.order, thesis.scaling, thesis.val_size, thesis.batch_size) == (3, "stored", "mnist", 0, 128)
    block = InputBlock((1, 28, 84))
    block.scale(thesis.scaling, pool())
    x = torch.randint(0, 256, (4, 1, 28, 84), dtype=torch.uint8)
    torch.testing.assert_close(block(x).double(), (x.double() - 33.3285) / 78.5655, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("by_pixel", [False, True])
def test_moments_are_those_of_the_samples_of_any_epoch(by_pixel: bool) -> None:
    train, _ = Digits().load()
    samples = SideBySide(train.x, train.y, 3)
    found = samples.moments(by_pixel)
    for epoch in (0, 1):
        expected = moments([samples.epoch(epoch, epoch + 9).tensors().x], by_pixel)
        assert found.highest == expected.highest
        torch.testing.assert_close((found.mean, found.std), (expected.mean, expected.std))


def kinds(samples: SideBySide) -> set[bytes]:
    return {image.numpy().tobytes() for image in samples.images}


@pytest.mark.parametrize("digits", ["digits", pytest.param("mnist", marks=on_mnist)])
def test_training_validation_and_test_pools_share_no_image(digits: Any) -> None:
    dataset = Parity(digits=digits)
    whole, test = dataset.load()
    train, val = split(dataset, whole, seed=0)
    facts = dataset.facts()
    assert (len(train), len(val), len(test)) == (facts.train, facts.val, facts.test)
    assert facts.val == (242 if digits == "digits" else 5000)
    found = [kinds(part) for part in (train, val, test)]
    assert [*map(len, found)] == [facts.train, facts.val, facts.test]
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
    width = train.images.shape[-1]
    for part, images in zip((train.epoch(1, 2), val, test.epoch(0, 4)), found, strict=True):
        (batch,) = part.gather([torch.arange(40)])
        assert {x.contiguous().numpy().tobytes() for x in batch.x[0].split(width, -1)} <= images


def test_a_train_limit_limits_the_pool_and_pools_are_drawn_class_by_class_by_the_digit() -> None:
    dataset = Parity(digits="digits", train_limit=100, val_size=50, stratify=True)
    train, val = split(dataset, dataset.load()[0], seed=0)
    assert (len(train), len(val), len(train.images)) == (100, 50, 100) == (*dataset.split_sizes(1442), 100)
    for part, least, most in ((train, 9, 11), (val, 4, 6)):
        counts = part.labels.bincount(minlength=10)
        assert least <= counts.min() and counts.max() <= most
    seen = [drained(Problem(train, val, SigmoidBce(), outputs=1, batch_size=10).train(epoch))[0] for epoch in range(2)]
    assert len({x[0, :, :8].contiguous().numpy().tobytes() for epoch in seen for x in epoch}) == 100


def test_a_method_that_takes_all_at_once_gets_an_epoch_of_its_seeds() -> None:
    a, b = problem(seed=1), problem(seed=2)
    assert torch.equal(a.train_tensors().x, a.train_split.epoch(0, seed_for(1, "samples", 0)).tensors().x)
    assert not torch.equal(a.train_tensors().x, b.train_tensors().x)


# --- who learns from them


@pytest.mark.parametrize("method", [Backprop(epochs=2), Segmentwise(epochs=2), Segmentwise(epochs=2, record_at="all")])
def test_methods_keep_their_contract_on_it(method: Any) -> None:
    data = problem(count=30)

    def network(seed: int) -> Any:
        torch.manual_seed(seed)
        return Mlp(hidden=(6, 5, 4)).build(data.facts)

    check_method(method, on=data, network=network)


def test_an_outline_of_an_outline_still_knows_that_samples_change() -> None:
    """As a plan makes one to cut by memory, from a problem that it knows by its facts alone."""
    once = Problem.outline(Parity(digits="digits").facts(), SigmoidBce())
    assert Problem.outline(once.facts, SigmoidBce()).varies and once.to(torch.device("cpu")).facts.changes


@setting
class EvenIndex(Filter):
    """Keeps samples by what it may see without reading them, and writes down their targets."""

    sees = "index"

    @property
    def expected_share(self) -> float:
        return 0.5

    def keep(self, chunk: Any, seen: int, generator: torch.Generator) -> Tensor:
        LOOKED.append((chunk.index, chunk.y))
        keep: Tensor = chunk.index % 2 == 0
        return keep


LOOKED: list[tuple[Tensor, Tensor]] = []


def test_a_filter_by_index_sees_the_epochs_own_targets_and_what_it_drops_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = problem(), list[int]()
    gather = SideBySide.gather

    def counting(self: SideBySide, indices: Any) -> Iterator[Any]:
        read.extend(i for index in indices for i in index.tolist())
        return gather(self, indices)

    monkeypatch.setattr(SideBySide, "gather", counting)
    LOOKED.clear()
    batches = [*Fed(data, 2**30).train(1, Sieve(EvenIndex(), 0))]
    assert sorted(read) == [*range(0, 100, 2)] == sorted(torch.cat([b.index for b in batches]).tolist())
    made = data.train_split.epoch(1, seed_for(data.seed, "samples", 1))
    assert all(torch.equal(y, made.y[index]) for index, y in LOOKED) and sum(len(y) for _, y in LOOKED) == 100
    assert not torch.equal(made.y, data.train_split.y)
    for batch in batches:
        assert torch.equal(batch.y, torch.tensor([sum((DIGITS * 10)[i] for i in row) % 2 for row in shown(batch.x).tolist()]))


def test_of_two_processes_each_reads_its_part_of_the_batches_of_one() -> None:
    parts = []
    for rank in range(2):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 2  # type: ignore[misc]
        parts.append([*Fed(problem(), 0, ranks=ranks).train(2)])
    for whole, *halves in zip(problem().train(2), *parts, strict=True):
        assert 0 < len(halves[0]) < len(whole)
        assert torch.equal(torch.cat([h.x for h in halves]), whole.x) and torch.equal(torch.cat([h.y for h in halves]), whole.y)


def test_augmentation_varies_what_was_made() -> None:
    data, plain = problem(), problem()
    change = Standard(crop=0, flip=1 - 1e-9).prepare(data.train_split)
    varied = Problem(data.train_split, data.val_split, SigmoidBce(), outputs=1, batch_size=8, augment=change)
    for a, b in zip(varied.train(1), plain.train(1), strict=True):
        assert torch.equal(a.x, b.x.flip(-1)) and torch.equal(a.y, b.y)


@pytest.mark.slow
@on_mnist
def test_on_mnist_a_network_learns_the_parity_of_two_digits() -> None:
    overrides = ("dataset=parity", "dataset.k=2", "dataset.train_limit=20000", "arch=mlp", "arch.hidden=[128]")
    asked = config.build(config.compose(overrides))
    data = open_problem(asked, *asked.dataset.load())
    torch.manual_seed(0)
    model, run = asked.arch.build(data.facts), Run.in_memory(Sgd(lr=0.03, momentum=0.9))
    model.input.scale("channel", data.train_split)
    Backprop(epochs=6).fit(data, model, run)
    assert run.lines[-1]["val/acc"] > 0.85
