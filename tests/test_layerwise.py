"""`train_layerwise`: a user's own module and data, beside the same training by `run.py`."""

import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from effdl import Adamw, Backprop, BlockChain, Hardware, Pool, Run, Sgd, SoftmaxCe, evaluate, train_layerwise
from effdl.config import build, compose
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.datasets.torch_data import as_split
from effdl.errors import ConfigError
from effdl.records.carry import build_network, carry_out, open_problem
from effdl.records.run import digest

Pair = tuple[Tensor, Tensor]
X, Y = torch.rand(40, 64), torch.arange(40) % 10


@pytest.fixture(scope="module")
def digits() -> tuple[Pair, Pair, Pair]:
    """Training, validation and test: 8×8 images in [0, 1]."""
    x, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x.float().view(-1, 1, 8, 8)[order] / 16, y[order]
    return (x[:900], y[:900]), (x[900:1200], y[900:1200]), (x[1200:], y[1200:])


class Block(nn.Module):
    """A residual block as people write it, with operations in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.layers = nn.Sequential(Block(16), Block(16))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.layers(F.relu(self.stem(x))), 1).flatten(1))


class Whole(nn.Module):
    """Three layers in a module that is cut around by default."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))


def perceptron(outputs: int = 10, inputs: int = 64, width: int = 48) -> nn.Module:
    torch.manual_seed(3)
    layers = (nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
    return nn.Sequential(nn.Flatten(), *layers)


def quick(module: nn.Module, train: Any, val: Any = None, **more: Any) -> Any:
    return train_layerwise(module, train, val, **{"epochs": 1, "progress": False} | more)


def accuracy(network: nn.Module, data: Pair) -> float:
    with torch.no_grad():
        return float((network(data[0]).argmax(1) == data[1]).float().mean())


def test_a_residual_network_of_ones_own_learns_and_is_left_as_it_was(
    digits: tuple[Pair, Pair, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train, val, test = digits
    torch.manual_seed(0)
    module = ResNet()
    before, chance = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    network = train_layerwise(module, train, val, epochs=3, lr=0.01)
    assert accuracy(network, test) > 0.9
    assert not network.training and module.training and all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance), "the caller's random numbers go on as if nothing had happened"
    assert not list(tmp_path.iterdir())
    said = capfd.readouterr()
    assert re.search(r"ResNet: 3 layers, about .*, peak training memory .*iB", said.err) and not said.out
    assert re.search(r"layer \d of 3 did best on the validation samples, accuracy 0\.\d+; peak training memory", said.err)


def test_validation_chooses_and_the_summary_says_what_was_measured(digits: tuple[Pair, Pair, Pair]) -> None:
    train, val, _ = digits
    network = quick(perceptron(), train, val, epochs=3)
    summary = network.summary
    last = {line["segment"]: line["val/acc"] for line in summary["epochs"]}
    assert summary["segment/chosen"] == max(last, key=last.__getitem__) and len(last) == 2
    problem = Problem(Samples(*train), Samples(*val), SoftmaxCe(), outputs=10, batch_size=128)
    assert evaluate(network, problem.val(), SoftmaxCe())["acc"] == max(last.values())
    assert len(summary["memory/segment_peak_bytes"]) == 2 and all(peak > 0 for peak in summary["memory/segment_peak_bytes"])
    without = quick(perceptron(), train)
    assert without.summary["segment/chosen"] == 1


def test_limit_it_ends_in_the_weights_of_run_py_on_the_same_data(tmp_path: Path) -> None:
    """The same engine, so that every bit is the same."""
    asked = [
        "method=dll",
        "method.epochs=2",
        "dataset.train_limit=200",
        "dataset.val_size=100",
        "optimizer=sgd",
        "optimizer.lr=0.02",
        "seed=5",
    ]
    spec = build(compose([*asked, "method.lr_factor=0.7", "method.input_dropout=0.3"]))
    result = carry_out(spec, tmp_path)
    problem = open_problem(spec, *spec.dataset.load())
    chain = build_network(spec, problem, torch.device("cpu"))
    network = quick(
        chain,
        (problem.train_split.tensors().x, problem.train_split.y),
        (problem.val_split.tensors().x, problem.val_split.y),
        optimizer=Sgd(lr=0.02),
        batch_size=spec.dataset.batch_size,
        seed=5,
        epochs=2,
        decision=Pool(),
        lr_factor=0.7,
        input_dropout=0.3,
    )
    assert digest(network) == result["summary"]["network/sha256"]
    assert network.summary["segment/chosen"] == result["summary"]["segment/chosen"]
    # And as a plain module of these layers, on which only an input block was put.
    plain = nn.Sequential(*(part for block in chain.blocks for part in block), nn.Flatten(), nn.Linear(128, 10))
    again = quick(
        plain,
        TensorDataset(problem.train_split.tensors().x, problem.train_split.y),
        TensorDataset(problem.val_split.tensors().x, problem.val_split.y),
        optimizer="sgd",
        lr=0.02,
        batch_size=spec.dataset.batch_size,
        seed=5,
        epochs=2,
        decision=Pool(),
        lr_factor=0.7,
        input_dropout=0.3,
    )
    x = problem.val_split.tensors().x
    assert x.dtype == torch.uint8 and torch.equal(again(x), network(x))


def test_the_same_seed_gives_the_same_network_whatever_form_the_data_have(digits: tuple[Pair, Pair, Pair]) -> None:
    (x, y), val, _ = digits
    x, y = x[:300], y[:300]
    expected = digest(quick(perceptron(), (x, y), val, batch_size=50))

    class Own:
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return x[i], int(y[i])

    forms = [
        (x.numpy().astype("float64"), y.numpy().astype("int16")),
        TensorDataset(x, y),
        Own(),
        list(zip(x, y, strict=True)),
        DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True),
    ]
    for form in forms:
        batch = {} if isinstance(form, DataLoader) else {"batch_size": 50}
        assert digest(quick(perceptron(), form, TensorDataset(*val), **batch)) == expected
    assert digest(quick(perceptron(), (x, y), val, batch_size=50, seed=1)) != expected


class Jittered:
    """A Dataset with a random transform, which remembers what it gave."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.given = x, y, dict[int, list[float]]()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        made = self.x[i] + 0.1 * torch.randn(())
        self.given.setdefault(i, []).append(float(made.sum()))
        return made, int(self.y[i])


def test_samples_that_a_random_transform_makes_are_others_in_each_epoch_and_the_same_again(
    digits: tuple[Pair, Pair, Pair],
) -> None:
    (x, y), val, _ = digits
    first, second = (Jittered(x[:200], y[:200]) for _ in range(2))
    networks = [quick(perceptron(), data, val, epochs=3) for data in (first, second)]
    assert digest(networks[0]) == digest(networks[1]), "whatever the transform draws comes of the seed"
    assert all(len(set(given)) >= 2 * 3 for given in first.given.values()), "two layers, three epochs each"
    assert digest(quick(perceptron(), Jittered(x[:200], y[:200]), val, epochs=3, seed=1)) != digest(networks[0])
    one, two = (quick(perceptron(), (x[:200], y[:200]), Jittered(*val)).summary["epochs"] for _ in range(2))
    assert [line["val/acc"] for line in one] == [line["val/acc"] for line in two]


def test_workers_of_a_loader_read_the_same(digits: tuple[Pair, Pair, Pair]) -> None:
    (x, y), val, _ = digits
    data = list(zip(x[:200], y[:200], strict=True))
    alone, helped = (quick(perceptron(), DataLoader(data, 40, num_workers=n), val) for n in (0, 1))  # type: ignore[arg-type, var-annotated]
    assert digest(alone) == digest(helped)
    varied = [quick(perceptron(), DataLoader(Jittered(x[:80], y[:80]), 40, num_workers=1)) for _ in range(2)]  # type: ignore[arg-type, var-annotated]
    assert digest(varied[0]) == digest(varied[1])


def test_a_set_that_does_not_fit_in_memory_is_read_for_every_pass_with_the_same_numbers(
    digits: tuple[Pair, Pair, Pair],
) -> None:
    (x, y), val, _ = digits
    data = list(zip((x[:200] * 16).to(torch.uint8), y[:200], strict=True))
    whole, read = (as_split(data, "train", torch.float32, most_bytes=most) for most in (2**20, 0))
    assert isinstance(whole, Samples) and not isinstance(read, Samples) and torch.equal(whole.y, read.y)
    raw = ((val[0] * 16).to(torch.uint8), val[1])
    assert digest(quick(perceptron(), read, raw)) == digest(quick(perceptron(), whole, raw))
    assert torch.equal(read.tensors().x, whole.tensors().x)


def test_it_says_where_a_module_could_be_cut_further(capfd: pytest.CaptureFixture[str]) -> None:
    quick(nn.Sequential(Whole(), nn.Linear(64, 10)), (X, Y), progress=True)
    said = capfd.readouterr().err
    (cuts,) = re.findall(r"cuts=\['(.*?)'\]", said)
    network = quick(nn.Sequential(Whole(), nn.Linear(64, 10)), (X, Y), cuts=cuts.split("', '"))
    assert len(network.summary["memory/segment_peak_bytes"]) == 3


def test_bytes_are_standardised_and_real_numbers_are_left_alone(digits: tuple[Pair, Pair, Pair]) -> None:
    (x, y), _, (test_x, test_y) = digits
    raw = (x * 16).to(torch.uint8)
    network = quick(perceptron(), (raw, y), epochs=6, lr=0.01)
    assert float(network.input.mean) == pytest.approx(float((x * 16).mean()), rel=1e-6)
    assert accuracy(network, ((test_x * 16).to(torch.uint8), test_y)) > 0.8
    assert isinstance(quick(perceptron(), (x, y)).input, nn.Identity)
    by_hand = quick(perceptron(), (x, y), standardise=True)
    assert float(by_hand.input.std) == pytest.approx(float(x.std(correction=0)), rel=1e-5)


def test_real_targets_two_classes_of_one_output_and_token_ids() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    line = x @ torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0])
    fitted = quick(perceptron(1, 5), (x, line), (x, line), epochs=12, lr=0.03)
    assert float((fitted(x).detach()[:, 0] - line).square().mean()) < 0.1 * float(line.var())
    side = (line > 0).long()
    told = quick(perceptron(1, 5), (x, side), (x, side), epochs=5, lr=0.03)
    assert float(((told(x)[:, 0] > 0) == side.bool()).float().mean()) > 0.9
    words = torch.randint(0, 20, (400, 6), generator=generator)
    module = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 2))
    has = (words == 3).any(1).long()
    reader = quick(module, (words, has), epochs=12, lr=0.03)
    assert float((reader(words).argmax(1) == has).float().mean()) > 0.85


def test_what_comes_back_is_a_module_like_any_other(digits: tuple[Pair, Pair, Pair]) -> None:
    train, val, (x, _) = digits
    network = quick(ResNet(), (train[0][:100], train[1][:100]), val)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(x), network(x)) and torch.equal(copy.deepcopy(network)(x), network(x))
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())
    network.train()(x[:8]).sum().backward()  # and can be trained on
    assert all(p.grad is not None for p in network.parameters())


def test_fields_of_segmentwise_are_arguments(digits: tuple[Pair, Pair, Pair]) -> None:
    train, val, _ = digits
    whole = quick(perceptron(), train, val, segment_size=2, decision=Pool(), together=True)
    assert len(whole.summary["memory/segment_peak_bytes"]) == 1
    rounds = quick(perceptron(), train, val, rounds=2, choose="last", optimizer=Adamw(lr=1e-3))
    assert [line["segment"] for line in rounds.summary["epochs"]] == [0, 1, 0, 1]
    fed, recorded = (
        quick(perceptron(), train, val, choose="last", **more) for more in ({}, {"record_at": [1], "store": "disk"})
    )
    assert digest(fed) != digest(recorded) and recorded.summary["data/recorded_bytes"] > 0
    halves = quick(perceptron(), train, val, hardware=Hardware(precision="bf16"))
    assert next(halves.parameters()).dtype == torch.float32
    double = quick(perceptron().double(), train, val)
    assert next(double.parameters()).dtype == torch.float64 and double(train[0].double()).dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; `make test-gpu` where there is one")
@pytest.mark.parametrize("moved", [True, False])
def test_on_a_gpu_it_trains_where_the_module_is_or_where_it_is_told_to(digits: tuple[Pair, Pair, Pair], moved: bool) -> None:
    train, val, test = digits
    raw = [((x * 16).to(torch.uint8), y) for x, y in (train, val, test)]
    where = {} if moved else {"hardware": Hardware(device="cuda", precision="bf16")}
    before = torch.cuda.get_rng_state()
    network = quick(
        ResNet().to("cuda" if moved else "cpu"), raw[0], DataLoader(TensorDataset(*raw[1])), epochs=3, lr=0.01, **where
    )
    assert all(p.is_cuda for p in network.parameters()) and torch.equal(torch.cuda.get_rng_state(), before)
    assert accuracy(network, (raw[2][0].cuda(), raw[2][1].cuda())) > 0.9


@pytest.mark.slow
def test_a_budget_is_kept_partitions_and_overlaps_are_arguments(digits: tuple[Pair, Pair, Pair]) -> None:
    train, val, test = digits
    network = quick(ResNet(), train, val, epochs=8, memory_budget=0.5, lr=0.01)
    run = Run.in_memory(Adamw())
    problem = Problem(Samples(*train), Samples(*val), SoftmaxCe(), outputs=10, batch_size=128)
    Backprop(epochs=1).fit(problem, BlockChain.from_module(ResNet()), run)
    most = max(network.summary["memory/segment_peak_bytes"])
    assert most <= 0.505 * run.notes["memory/accounted_peak_bytes"] and accuracy(network, test) > 0.8
    halves = quick(ResNet(), train, val, partitions=2)
    assert len(halves.summary["memory/segment_peak_bytes"]) == 2
    sliding = quick(ResNet(), train, val, segment_size=2, overlap=1)
    assert len(sliding.summary["memory/segment_peak_bytes"]) == 2


def test_a_chain_keeps_its_cuts(digits: tuple[Pair, Pair, Pair]) -> None:
    train, val, _ = digits
    chain = BlockChain([nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8))], nn.Linear(8, 10))
    assert len(quick(chain, train, val).summary["memory/segment_peak_bytes"]) == 1
    with pytest.raises(ConfigError, match="leave cuts and standardise out"):
        quick(chain, train, val, cuts=["0"])
