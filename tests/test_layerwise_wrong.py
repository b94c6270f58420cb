"""Every kind of wrong input of `train_layerwise`, each in one line in the words of its arguments."""

from typing import Any

import pytest
import torch
from test_layerwise import Pair, X, Y, perceptron, quick
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from effdl import Sgd
from effdl.errors import ConfigError, DataError, Diverged


class Streaming(IterableDataset[Pair]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


class Broken:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        raise FileNotFoundError("no such picture: 7.png")


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"module": "resnet"}, ConfigError, r"^module: a torch\.nn\.Module is trained, not str$"),
    ({"module": nn.Flatten()}, ConfigError, r"^module: it has no weights"),
    ({"train": X}, DataError, r"^train: (Tensor has no samples|a sample is to be a pair).*pass \(x, y\)"),
    ({"train": Streaming()}, DataError, r"^train: Streaming has no samples by position: pass"),
    ({"train": DataLoader(Streaming())}, DataError, r"^train: Streaming has no samples by position: pass"),
    ({"train": [(X[i],) for i in range(40)]}, DataError, r"^train: a sample is to be a pair \(x, y\)"),
    (
        {"train": [(X[i], "cat") for i in range(40)]},
        DataError,
        r"^train: a sample is to be a pair .* not a list of Tensor, tuple",
    ),
    ({"train": Broken()}, DataError, r"^train: its samples cannot be read .*no such picture: 7\.png"),
    ({"train": [(X[i][: 60 + i // 8], 1) for i in range(40)]}, DataError, r"^train: its samples cannot be read as batches"),
    ({"train": []}, DataError, r"^train: there are no samples$"),
    ({"train": (X[:0], Y[:0])}, DataError, r"^train: it has no samples$"),
    ({"hardware": "cpu"}, ConfigError, r"^hardware: a setting, such as Hardware\(device='cpu'\), not 'cpu'$"),
    ({"objective": nn.CrossEntropyLoss()}, ConfigError, r"^objective: a setting, such as SoftmaxCe\(\), not CrossEntropyLoss"),
    ({"batch_size": 0}, ConfigError, r"^batch_size: a whole number above 0, not 0$"),
    ({"batch_size": 1.5}, ConfigError, r"^batch_size: a whole number above 0, not 1\.5$"),
    ({"train": (X, Y[:39])}, DataError, r"40 inputs but 39 targets"),
    ({"train": (X, Y + 1)}, DataError, r"label 10, outside 0\.\.9"),
    ({"train": (X * torch.nan, Y)}, DataError, r"NaN or infinity"),
    ({"val": (X[:, :60], Y)}, DataError, r"validation inputs have the shape \(60,\), training inputs \(64,\)"),
    ({"train": (X[:, :60], Y)}, ConfigError, r"does not take samples of shape \[60\]|64"),
    (
        {"train": DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * 40, 40))},
        DataError,
        r"WeightedRandomSampler",
    ),
    ({"train": DataLoader(TensorDataset(X, Y), batch_size=None)}, DataError, r"^train: the DataLoader makes no batches"),
    ({"epochs": 0}, ConfigError, r"^epochs: Input should be greater than or equal to 1, got 0$"),
    ({"memory_budget": 1.5}, ConfigError, r"^memory_budget: Input should be less than or equal to 1, got 1\.5$"),
    (
        {"memory_budget": 0.1},
        ConfigError,
        r"^memory_budget=0\.1 cannot be met: .*memory_budget=0\.\d+ is the least that can be met$",
    ),
    ({"overlap": 1}, ConfigError, r"^overlap=1: segments of segment_size=1 would never climb"),
    ({"partitions": 3}, ConfigError, r"partitions"),
    ({"epoch": 3}, ConfigError, r"^train_layerwise has no argument 'epoch', but 'epochs'; beside its own it takes epochs, "),
    ({"decision": "pool"}, ConfigError, r"^decision: .*got 'pool'$"),
    (
        {"optimizer": "lion"},
        ConfigError,
        r"^optimizer: 'lion' is none of adamw, sgd, adagrad, adadelta, rmsprop, adam; or a setting",
    ),
    ({"optimizer": torch.optim.Adam([nn.Parameter(X)])}, ConfigError, r"^optimizer: each layer gets one of its own"),
    ({"lr": -1.0}, ConfigError, r"^lr: Input should be greater than 0, got -1\.0$"),
    ({"batch_size": 41}, DataError, r"^batch_size=41 is larger than the 40 training samples$"),
    ({"cuts": ["7"]}, ConfigError, r"7"),
    ({"patience": 1, "rounds": 2}, ConfigError, r"^patience ends a segment for good, rounds comes back"),
    ({"optimizer": Sgd(lr=1e30)}, Diverged, r"lr"),
]


@pytest.mark.parametrize(("changed", "error", "says"), WRONG, ids=[" ".join(case[0]) + str(i) for i, case in enumerate(WRONG)])
def test_what_cannot_be_is_said_in_one_line(changed: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"module": perceptron(), "train": (X, Y), "val": (X, Y)} | changed
    with pytest.raises(error, match=says) as raised:
        quick(given.pop("module"), given.pop("train"), given.pop("val"), **given)
    assert "\n" not in str(raised.value) and "dataset." not in str(raised.value) and "method." not in str(raised.value)
