"""What processes that train together say to one another, without any: parts of batches, gradients, who speaks."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from command import run_here
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from effdl import torchrun
from effdl.config import build, check, compose
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError
from effdl.filters.filter import Filter
from effdl.training import ranks as module
from effdl.training.hardware import Hardware
from effdl.training.loop import reduce_loss
from effdl.training.ranks import Ranks, bounds, buckets, exchange, weight_of


@given(st.integers(1, 300), st.integers(1, 9))
def test_parts_follow_one_another_evenly_and_none_has_a_single_sample(samples: int, size: int) -> None:
    parts = [bounds(samples, rank, size) for rank in range(size)]
    assert [i for start, stop in parts for i in range(start, stop)] == list(range(samples))
    held = [stop - start for start, stop in parts if stop > start]
    assert max(held) - min(held) <= 1 and (1 not in held or samples == 1)
    assert len(held) == max(1, min(size, samples // 2)) and parts[0][1] > 0


def test_a_part_is_cut_out_of_everything_that_a_batch_knows() -> None:
    batch = Batch(torch.randn(5, 2), torch.arange(5), torch.arange(5) + 10, torch.rand(5))
    first, second = (Ranks(rank, 2).share(batch) for rank in range(2))
    assert (len(first), len(second)) == (2, 3) and second.index.tolist() == [12, 13, 14] and second.loss is None
    assert second.sample_weight is not None and batch.sample_weight is not None
    assert torch.equal(second.sample_weight, batch.sample_weight[2:])
    assert Ranks().share(batch) is batch


class Group:
    """Sums over threads that stand for processes."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.sums = size, threading.Barrier(size, timeout=20), 0
        self.given: dict[int, Tensor] = {}

    def total(self, rank: int) -> Callable[[Tensor], object]:
        def summed(values: Tensor) -> None:
            self.given[rank] = values.clone()
            self.barrier.wait()
            assert len({v.shape for v in self.given.values()}) == 1
            result = torch.stack([self.given[r] for r in range(self.size)]).sum(0)
            self.barrier.wait()
            values.copy_(result)
            self.sums += rank == 0

        return summed

    def run(self, work: Callable[[int], object]) -> None:
        failed: list[BaseException] = []

        def guarded(rank: int) -> None:
            try:
                work(rank)
            except BaseException as error:
                failed.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed


class Unused(nn.Module):
    """A convolution, a linear layer, and a parameter that no output depends on; one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3).double().to(memory_format=torch.channels_last)
        self.linear, self.unused = nn.Linear(12, 4).double(), nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(4, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.conv(x).relu().flatten(1)) * self.frozen
        return out


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


def backward(model: nn.Module, batch: Batch) -> None:
    loss = nn.functional.cross_entropy(model(batch.x), batch.y, reduction="none")
    reduce_loss(loss, batch.sample_weight).backward()


SIZES = [(8, 2), (7, 2), (11, 3), (3, 2), (5, 4)]
CASES = [(*sizes, weights) for sizes in SIZES for weights in (None, "random")] + [(11, 3, "none for the first rank")]


@pytest.mark.parametrize(("samples", "size", "weights"), CASES)
@pytest.mark.parametrize("most", [1, 10**9])
def test_limit_exchanged_gradients_are_those_of_the_whole_batch(
    samples: int, size: int, weights: str | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", most)
    generator = torch.Generator().manual_seed(samples)
    x, weight = torch.randn(samples, 1, 4, 4, generator=generator).double(), torch.rand(samples, generator=generator).double()
    if weights == "none for the first rank":
        weight[: bounds(samples, 0, size)[1]] = 0
    batch = Batch(x, torch.arange(samples) % 4, torch.arange(samples), weight if weights else None)
    whole = Unused()
    backward(whole, batch)
    models, group = [Unused() for _ in range(size)], Group(size)

    def step(rank: int) -> None:
        part = Ranks(rank, size).share(batch)
        if len(part):
            backward(models[rank], part)
        exchange(list(models[rank].parameters()), weight_of(part), len(part) > 0, group.total(rank))

    group.run(step)
    for model in models:
        for name, expected in gradients(whole).items():
            found = gradients(model)[name]
            assert (found is None) == (expected is None), name
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert group.sums == (5 if most == 1 else 1)  # one a bucket


def test_not_finite_gradients_of_one_rank_are_everyones() -> None:
    group, models = Group(2), [Unused(), Unused()]

    def step(rank: int) -> None:
        batch = Batch(torch.full((2, 1, 4, 4), float("nan") if rank else 1.0).double(), torch.arange(2), torch.arange(2))
        backward(models[rank], batch)
        exchange(list(models[rank].parameters()), weight_of(batch), True, group.total(rank))

    group.run(step)
    assert all(model.linear.weight.grad.isnan().all() for model in models)  # type: ignore[union-attr]


def test_buckets_hold_all_that_learns_in_order_and_keep_to_their_bound() -> None:
    parameters = [
        nn.Parameter(torch.zeros(n, dtype=d)) for n, d in ((10, torch.float32), (20, torch.float32), (100, torch.float32))
    ]
    parameters += [nn.Parameter(torch.zeros(4, dtype=torch.float64)), nn.Parameter(torch.zeros(2), requires_grad=False)]
    assert [[p.numel() for p in bucket] for bucket in buckets(parameters, 130)] == [[10, 20], [100], [4]]
    assert list(buckets([], 130)) == []


# --- before anything starts


def places(monkeypatch: pytest.MonkeyPatch, size: int, rank: int = 0) -> None:
    """As torchrun would have started this process on one machine."""
    for name, value in zip(torchrun.NAMES, (rank, size, rank, size), strict=True):
        monkeypatch.setenv(name, str(value))


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        build(compose(overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_processes_are_those_that_torchrun_started_and_have_a_name_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torchrun --standalone --nproc_per_node=2 run.py hardware=ddp" in refused("hardware=ddp")
    assert "there is one process: torchrun --standalone --nproc_per_node=3 run.py" in refused("hardware.processes=3")
    places(monkeypatch, 1)
    assert build(compose(["hardware=ddp"])) == build(compose(["hardware=auto"]))
    places(monkeypatch, 2)
    assert build(compose(["hardware=ddp"])).hardware.processes == 2
    assert build(compose(["hardware=auto", "hardware.processes=2"])) == build(compose(["hardware=ddp"]))
    assert "hardware.processes=3, but torchrun started 2: hardware=ddp" in refused("hardware.processes=3")
    assert "hardware.processes=1, but torchrun started 2" in refused()
    assert refused("hardware=ddp", "hardware.processes=0").startswith("hardware.processes")


def test_more_processes_than_samples_or_gpus_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    places(monkeypatch, 4)
    assert refused("hardware=ddp", "dataset.batch_size=7").startswith(
        "dataset.batch_size: 7 samples are too few for 4 processes"
    )
    assert build(compose(["hardware=ddp", "dataset.batch_size=8"])).hardware.processes == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said = refused("hardware=ddp")
    assert "4 processes on a machine with 2 GPU(s)" in said and "torchrun --nproc_per_node=2" in said


class Features(Filter):
    @property
    def expected_share(self) -> float:
        return 1.0

    def keep(self, chunk: Batch, seen: int, generator: torch.Generator) -> Tensor:
        return torch.ones(len(chunk), dtype=torch.bool)


def test_a_filter_that_sees_features_and_a_method_without_the_engine_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    places(monkeypatch, 2)
    spec = build(compose(["hardware=ddp"]))
    with pytest.raises(ConfigError, match=r"^filter: Features looks at features"):
        check(replace(spec, filter=Features()))
    monkeypatch.setattr(type(spec.method), "takes", spec.method.takes - {"processes"})
    with pytest.raises(ConfigError, match=r"^hardware\.processes: Segmentwise learns in one process"):
        check(spec)


def test_a_sweep_under_torchrun_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    places(monkeypatch, 2)
    assert run_here("-m", "hardware=ddp", "seed=0,1") == 2
    said = capsys.readouterr()
    assert said.err == "effdl: rank 0: -m: torchrun's 2 processes carry out one run, not a sweep\n" and said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_rank_0_speaks_for_what_all_meet_and_another_only_if_nobody_stops_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(torchrun.time, "sleep", slept.append)
    monkeypatch.setattr(torchrun._Watch, "silent", False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    torchrun.fail("alone")
    assert capsys.readouterr().err == "effdl: alone\n" and not list(tmp_path.iterdir())
    places(monkeypatch, 2)
    torchrun.fail("first")
    assert slept == [] and capsys.readouterr().err == "effdl: rank 0: first\n"
    places(monkeypatch, 2, rank=1)
    torchrun.fail("second")
    assert slept == [torchrun.GIVE_WAY_S[False]] and capsys.readouterr().err == "effdl: rank 1: second\n"
    assert '"message": "second"' in (tmp_path / "error.json").read_text()


def test_one_process_exchanges_nothing() -> None:
    ranks, values = Ranks(), torch.ones(2)
    assert ranks.alone and ranks.total(values) is values and ranks.agree(lambda: 5) == 5
    ranks.exchange([], Batch(values, values, values))
    ranks.synchronise(nn.Linear(1, 1))
    assert Hardware().processes == 1
