"""What samples are refused with a line that says what is wrong, and samples that are made anew in each epoch."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl import Adamw, Backprop, BlockChain, InputBlock, Pool, Problem, Run, Samples, Segmentwise, Sgd, SoftmaxCe
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.datasets.moments import Moments, moments
from effdl.datasets.split import Split
from effdl.datasets.splitting import check_split
from effdl.datasets.toy import Toy
from effdl.errors import ConfigError, DataError, Diverged
from effdl.objectives.losses import LinearMse, SigmoidBce
from effdl.objectives.objective import Objective
from effdl.rng import seed_for
from effdl.setting import setting

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3
PIXELS = Y[:, None, None].repeat(1, 2, 2)
PIXELS[4, 0, 1], PIXELS[6, 1, 1], PIXELS[2] = 3, 3, 255


def problem(x: Tensor = X, y: Tensor = Y, objective: Objective | None = None, outputs: int = 3, **more: Any) -> Problem:
    train = Samples(x, y)
    return Problem(train, more.pop("val", train), objective or SoftmaxCe(), outputs=outputs, batch_size=8, **more)


def chain(outputs: int = 3) -> BlockChain:
    torch.manual_seed(0)
    return BlockChain(
        [nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, outputs)
    )


# --- what is refused


def test_no_samples_at_all_are_said() -> None:
    with pytest.raises(DataError, match=r"^there are no samples to train on: x has the shape \(0, 6\)$"):
        InputBlock((6,)).fit(X[:0])


def with_at(x: Tensor, place: int, value: float) -> Tensor:
    changed = x.clone()
    changed[place, 2] = value
    return changed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fewer targets": ({"y": Y[:-3]}, "there are 40 inputs but 37 targets"),
    "an array": ({"x": X.numpy()}, r"x is of type ndarray: Samples takes tensors, as torch\.as_tensor\(x\) makes"),
    "a list of labels": ({"y": Y.tolist()}, "y is of type list: Samples takes tensors"),
    "one-hot rows": ({"y": F.one_hot(Y)}, r"shape \(40, 3\): classes are \(N,\), and y\.argmax\(1\) makes them"),
    "one-hot rows as floats": ({"y": F.one_hot(Y).float()}, r"SoftmaxCe takes classes: y\.argmax\(1\) makes them"),
    "another shape to validate on": (
        {"val": Samples(X[:, :4], Y)},
        r"validation inputs have the shape \(4,\), training inputs \(6,\)",
    ),
    "labels too large": (
        {"y": Y + 5},
        r"the training split has label 7, outside 0\.\.2: 40 of 40 labels are \(5, 6, 7\), first sample 0",
    ),
    "labels below 0": (
        {"y": Y - 1},
        r"the training split has label -1, outside 0\.\.2: 14 of 40 labels are \(-1\), first sample 0",
    ),
    "many labels too large": (
        {"y": torch.where(torch.arange(40) > 20, torch.arange(40), Y)},
        r"label 39, outside 0\.\.2: 19 of 40 labels are \(21, 22, 23, 24, 25, 26, 27, 28 and 11 more\), first sample 21",
    ),
    "labels of pixels too large, of which 255 is none": (
        {"y": PIXELS},
        r"the training split has label 3, outside 0\.\.2: 2 of 160 labels are \(3\), first sample 4",
    ),
    "validation labels too large": ({"val": Samples(X, Y + 1)}, r"the validation split has label 3, outside 0\.\.2"),
    "labels as floats": ({"y": Y.float()}, r"training targets are torch\.float32, but SoftmaxCe takes classes: y\.long\(\)"),
    "labels as floats, one unknown": (
        {"y": with_at(Y.float()[:, None].repeat(1, 3), 7, math.nan)[:, 2]},
        "1 of 40 training targets hold NaN or infinity, first sample 7: leave them out",
    ),
    "real targets for classes": (
        {"y": torch.where(torch.arange(40) % 8 == 3, 0.5, Y.float())},
        "5 of 40 training targets are no whole numbers, first sample 3, but SoftmaxCe takes classes: objective=linear_mse",
    ),
    "labels as floats for a squared error": (
        {"y": Y.float(), "objective": LinearMse()},
        r"shape \(40,\): real ones of 3 outputs are \(N, 3\), and classes whole numbers",
    ),
    "whole numbers in rows": ({"y": Y[:, None].repeat(1, 3), "objective": LinearMse()}, r"shape \(40, 3\).*y\.float\(\)"),
    "too many targets": ({"y": X, "objective": LinearMse()}, r"shape \(40, 6\): real ones of 3 outputs are \(N, 3\)"),
    "targets out of reach": (
        {"y": X[:, :3], "objective": SigmoidBce()},
        r"SigmoidBce takes \[0, 1\]: scale them, or",
    ),
    "targets that are no numbers": (
        {"y": with_at(X[:, :3], 7, math.inf), "objective": LinearMse()},
        "1 of 40 training targets hold NaN or infinity, first sample 7",
    ),
    "inputs that are no numbers": (
        {"x": with_at(with_at(X, 9, math.nan), 30, -math.inf)},
        "2 of 40 training inputs hold NaN or infinity, first sample 9: leave them out or fill them in",
    ),
    "validation inputs that are no numbers": (
        {"val": Samples(with_at(X, 0, math.nan), Y)},
        "1 of 40 validation inputs hold NaN or infinity, first sample 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_samples_that_no_network_can_learn_from_are_refused_before_anything_is_computed(name: str) -> None:
    changes, says = REFUSED[name]
    with pytest.raises(DataError, match=says):
        problem(**changes)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_may_be_whole_numbers_of_any_kind(dtype: torch.dtype) -> None:
    assert Samples(X, Y.to(dtype)).y.dtype == torch.int64
    fitted = [Backprop(epochs=2).fit(problem(y=y), chain(), Run.in_memory(Sgd(lr=0.1))).state_dict() for y in (Y.to(dtype), Y)]
    assert all(torch.equal(fitted[0][name], fitted[1][name]) for name in fitted[0])


def test_two_classes_may_share_one_output_and_targets_may_be_real() -> None:
    assert problem(y=Y % 2, objective=LinearMse(), outputs=1).num_train == 40
    assert problem(y=X[:, :2].double(), objective=LinearMse(), outputs=2).num_train == 40
    assert problem(val=Samples(X[:0], Y[:0])).num_val == 0


@pytest.mark.parametrize("method", [Backprop(epochs=1), Backprop(epochs=1, checkpoint="block")])
@pytest.mark.parametrize("head", [nn.Linear(8, 7), nn.Linear(8, 1), nn.Sequential(nn.Linear(8, 3), nn.Unflatten(1, (3, 1)))])
def test_a_head_of_the_wrong_width_is_named(method: Backprop, head: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"gives outputs of the shape \[N, \d.*\], the problem needs \[N, 3\]"):
        method.fit(problem(), chain().with_head(head), Run.in_memory(Sgd(lr=0.1)))


def test_divergence_is_still_divergence() -> None:
    with pytest.raises(Diverged, match=r"try a smaller optimizer\.lr"):
        Segmentwise(epochs=2).fit(problem(1e10 * X), chain(), Run.in_memory(Sgd(lr=1e30)))


# --- samples made anew in each epoch


class Parity(Split):
    """x of signs, and as class whether their product is positive: drawn anew in each epoch, inputs and classes."""

    def __init__(self, count: int, seed: int, made: list[int] | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randint(0, 2, (count, 6), generator=generator) * 2.0 - 1
        self.y = (self.x[:, :3].prod(1) > 0).long()
        self.made = made if made is not None else []

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (6,)

    def epoch(self, number: int, seed: int) -> "Parity":
        self.made.append(number)
        return Parity(len(self), seed, self.made)

    def take(self, index: Tensor) -> "Parity":
        return Parity(len(torch.arange(len(self))[index]), seed_for(0, "taken", len(index)), self.made)

    def to(self, device: torch.device) -> "Parity":
        return self

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        return Samples(self.x, self.y).gather(indices)

    def batches(self, size: int) -> Iterator[Batch]:
        return Samples(self.x, self.y).batches(size)

    def moments(self, by_pixel: bool = False) -> Moments:
        return moments([self.x], by_pixel)

    def reading_seconds(self, samples: int) -> float:
        return 0.0

    def tensors(self) -> Samples:
        return Samples(self.x, self.y)


def anew(count: int = 64) -> Problem:
    fixed = Parity(32, 9)
    return Problem(Parity(count, 1), Samples(fixed.x, fixed.y), SoftmaxCe(), outputs=2, batch_size=8, seed=3)


def test_each_epoch_has_its_own_samples_and_the_same_each_time_that_it_is_gone_through() -> None:
    first, second, again = ([(b.x, b.y) for b in anew().train(e)] for e in (0, 1, 0))
    assert all(torch.equal(a, b) for pair in zip(first, again, strict=True) for a, b in zip(*pair, strict=True))
    assert not torch.equal(torch.cat([x for x, _ in first]).sort(0)[0], torch.cat([x for x, _ in second]).sort(0)[0])
    for x, y in (*first, *second):
        assert torch.equal(y, (x[:, :3].prod(1) > 0).long())


@pytest.mark.parametrize("method", [Backprop(epochs=3), Segmentwise(epochs=3, decision=Pool(size=None))])
def test_features_of_samples_that_are_made_anew_are_not_kept(method: Any) -> None:
    """With any bound it trains as with none: at 2048 MiB everything would be kept if one draw were all there is."""
    found = []
    for mib in (0.0, 2048.0):
        data, run = anew(), Run.in_memory(Adamw(lr=0.01))
        fitted = type(method)(**{**vars(method), "keep_features_mib": mib}).fit(data, chain(2), run)
        passes = 3 if isinstance(method, Backprop) else 6
        assert [e for e in data.train_split.made if e] == [*range(1, passes)]  # type: ignore[attr-defined]
        assert run.notes["memory/kept_features_bytes"] == 0
        found.append((fitted.state_dict(), [line["train/loss"] for line in run.lines], run.notes["memory/resident_peak_bytes"]))
    (ours, losses, resident), (theirs, their_losses, their_resident) = found
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses == their_losses and resident == their_resident
    assert len(set(losses)) == len(losses)


class Restless(Parity):
    """The same, of somebody who knew of no `epoch`."""

    epoch = Split.epoch

    def gather(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        return Samples(torch.randn(len(self), 6), self.y).gather(indices)


def test_samples_that_are_others_each_time_without_saying_so_are_refused() -> None:
    fixed = Parity(32, 9)
    with pytest.raises(DataError, match=r"the training split, Restless, gives other samples each time.*Split\.epoch"):
        Problem(Restless(32, 0), fixed, SoftmaxCe(), outputs=2, batch_size=8)


def test_an_epoch_of_another_size_is_refused() -> None:
    data = anew()
    data.train_split.epoch = lambda number, seed: Parity(5, seed)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="epoch 0 of Parity has 5 samples, not 64"):
        next(data.train(0))


@setting
class Signs(Toy):
    """Parity as a data set."""

    formula = "parity"
    says: bool = True

    def facts(self) -> Facts:
        return Facts((6,), "classes", 2, *self.split_sizes(64), 64, 8, changes=self.says)

    def draw(self, generator: torch.Generator) -> Any:
        return Parity(64, int(generator.initial_seed() % 1000))


def test_a_plan_keeps_no_features_of_samples_that_are_made_anew_and_facts_that_say_otherwise_are_refused() -> None:
    assert Problem.outline(Signs().facts(), SoftmaxCe()).varies
    assert not Problem.outline(Signs(says=False).facts(), SoftmaxCe()).varies
    train, test = Signs().load()
    check_split(Signs(), Signs().facts(), train, (train, test, test))
    for dataset, part in ((Signs(says=False), train), (Signs(), Samples(train.x, train.y))):
        with pytest.raises(DataError, match="whether samples are made anew in each epoch is said in three ways"):
            check_split(dataset, dataset.facts(), train, (part, test, test))
