"""Which samples train and which validate: rare classes, sizes too small for all classes, and advice that works."""

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effdl.datasets.checks import first_absent
from effdl.datasets.dataset import Facts, split
from effdl.datasets.digits import Digits
from effdl.datasets.split import Samples
from effdl.datasets.splitting import check_split
from effdl.datasets.stratified import apportioned
from effdl.datasets.waiting import say_once
from effdl.errors import DataError
from effdl.rng import seed_for


def labelled(*values: int) -> Samples:
    return Samples(torch.zeros(len(values), 1), torch.tensor(values, dtype=torch.long))


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a split asks of a data set."""

    val_size: int
    train_limit: int | None
    stratify: bool | None = None
    is_complete: bool = True

    def split_sizes(self, samples: int) -> tuple[int, int]:
        return Digits.split_sizes(self, samples)  # type: ignore[arg-type]

    def class_name(self, label: int) -> str:
        return f"number {label}"

    def checked(self, whole: Samples, test: Samples, seed: int = 0) -> tuple[Samples, Samples]:
        parts = split(self, whole, seed)  # type: ignore[type-var]
        classes = int(whole.y.max()) + 1
        facts = Facts((1,), "classes", classes, *map(len, parts), len(test), 1)
        check_split(self, facts, whole, (*parts, test))  # type: ignore[arg-type]
        return parts


def test_every_class_must_stand_in_every_split_that_is_not_empty() -> None:
    whole, rule = labelled(*range(3), *range(3)), Rule(0, None)
    rule.checked(whole, labelled(2, 1, 0)), rule.checked(whole, labelled())
    text = "class number 1 is missing from the test split of 3"
    for bad, says in (((0, 2, 2), text), ((0, 3), "test split has label 3"), ((-1, 0), "test split has label -1")):
        with pytest.raises(DataError, match=says):
            rule.checked(whole, labelled(*bad))
    dataclasses.replace(rule, is_complete=False).checked(whole, labelled(0, 2, 2))  # a set of the user's own
    with pytest.raises(DataError, match="class number 1 is missing from the training split"):
        rule.checked(labelled(0, 2, 2), labelled(0, 2, 1))


def test_a_label_of_a_thousand_millions_takes_no_memory() -> None:
    assert first_absent(torch.tensor([0, 10**9, 1]), 10**9 + 1, "it") == 2


def advised(error: DataError) -> dict[str, int]:
    """The key and the value that an error names."""
    ((key, value),) = re.findall(r"dataset\.(\w+)=(\d+|true)", str(error))
    return {key: True if value == "true" else int(value)}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_an_error_about_classes_advises_works_and_what_is_split_is_complete(data: st.DataObject) -> None:
    """Rare classes, sizes too small, any rule: each error names a key and a value, and after a few of them there is none."""
    counts = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    whole = labelled(*(label for label, count in enumerate(counts) for _ in range(count)))
    rule = Rule(
        val_size=data.draw(st.integers(0, len(whole) - 1)),
        train_limit=data.draw(st.one_of(st.none(), st.integers(1, len(whole)))),
        stratify=data.draw(st.sampled_from([None, True, False])),
    )
    for _ in range(4):
        try:
            train, val = rule.checked(whole, labelled(*range(len(counts))), data.draw(st.integers(0, 3)))
        except DataError as error:
            rule = dataclasses.replace(rule, **advised(error))
        else:
            break
    assert (len(train), len(val)) == rule.split_sizes(len(whole))
    assert {*train.y.tolist()} == {*range(len(counts))}
    assert rule.val_size == 0 or {*val.y.tolist()} == {label for label, count in enumerate(counts) if count > 1}


@given(counts=st.lists(st.integers(1, 200), min_size=1, max_size=6), share=st.floats(0, 1))
def test_shares_add_up_within_their_bounds_and_are_less_than_one_off_where_no_bound_bites(
    counts: list[int], share: float
) -> None:
    n, least = torch.tensor(counts), torch.tensor([int(c > 1) for c in counts])
    low, high = int(least.sum()), int((n - 1).sum())
    total = low + int(share * (high - low))
    given_ = apportioned(total, n, least, n - 1)
    assert int(given_.sum()) == total and bool(((least <= given_) & (given_ < n)).all())
    exact = n.double() * total / n.sum()
    free = (given_ > least) & (given_ < n - 1)
    if bool(free.all()):
        assert bool(((given_ - exact).abs() < 1).all())


def test_a_plain_draw_stays_as_it_was_where_it_loses_no_class() -> None:
    whole = Samples(torch.arange(60.0)[:, None], torch.arange(60) % 2)  # two classes in turn
    for stratify in (None, False):
        train, val = split(Rule(20, 30, stratify), whole, 1)  # type: ignore[type-var]
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed_for(1, "split")))
        assert torch.equal(val.x, whole.x[order[:20]]) and torch.equal(train.x, whole.x[order[20:50]])
    train, val = split(Rule(20, 30, True), whole, 1)  # type: ignore[type-var]
    assert torch.bincount(train.y).tolist() == [15, 15] and torch.bincount(val.y).tolist() == [10, 10]
    assert not {*train.x.flatten().tolist()} & {*val.x.flatten().tolist()}


def test_a_rare_class_is_drawn_class_by_class_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    whole, rule = labelled(*[0] * 50, *[1] * 50, 2, 2, 3), Rule(10, 40)
    train, val = rule.checked(whole, labelled(0, 1, 2, 3))
    assert torch.bincount(val.y).tolist() == [5, 4, 1] or torch.bincount(val.y).tolist() == [4, 5, 1]
    assert {*train.y.tolist()} == {0, 1, 2, 3}
    said = capsys.readouterr().err
    assert "drawn class by class (dataset.stratify)" in said and "classes with a single sample: 1, first number 3" in said
    with pytest.raises(DataError, match="stratify=true"):
        dataclasses.replace(rule, stratify=False).checked(whole, labelled(0, 1, 2, 3))


def test_real_targets_have_no_classes_to_be_drawn_by() -> None:
    real = Samples(torch.zeros(9, 1), torch.zeros(9, 1))
    assert list(map(len, split(Rule(3, None), real, 0))) == [6, 3]  # type: ignore[type-var]
    with pytest.raises(DataError, match=r"dataset\.stratify=true.*leave it out"):
        split(Rule(3, None, stratify=True), real, 0)  # type: ignore[type-var]
