"""Streamed images give every number that images in memory give, bit for bit, however many workers decode them."""

import multiprocessing
import os
import pickle
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import picture
import pytest
import tiny
import torch
from command import answer, numbers, run, run_here, start, wait_for
from test_resume import is_free, kill, metrics_lines, session
from torch import nn

from effdl import config
from effdl.datasets import waiting
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import split
from effdl.datasets.decoding import Decoder
from effdl.datasets.folder import Folder
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.datasets.streamed import Streamed
from effdl.errors import DataError
from effdl.filters.random_subset import RandomSubset
from effdl.objectives.losses import SoftmaxCe
from effdl.records.carry import build_network, carry_out, open_problem
from effdl.records.execute import execute
from effdl.records.run import Run
from effdl.training.features import Stack
from effdl.training.ranks import Ranks
from effdl.training.sources import Fed, Sieve

CPU = torch.device("cpu")
SET = ("dataset=folder", "dataset.size=12", "dataset.val_size=15", "dataset.batch_size=8", "hardware.threads=1")
NETWORK = ("arch=cnn4", "arch.widths=[4,5,6]", "method.epochs=2", "optimizer.lr=0.02")
STREAMED = ("dataset.memory_mib=0",)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a set of 78 + 24 images under ``data``."""
    picture.folders(tmp_path / "data", train=26)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def children() -> Callable[[], int]:
    """How many processes this one has started since the test began."""
    before = set(multiprocessing.active_children())
    return lambda: len(set(multiprocessing.active_children()) - before)


def dataset(memory_mib: float = 0.0, workers: int = 0, **fields: Any) -> Folder:
    return Folder(**{"size": 12, "val_size": 15, "batch_size": 8, "memory_mib": memory_mib, "workers": workers} | fields)


def problem(of: Folder, seed: int = 3) -> Problem:
    parts = (part.to(CPU) for part in split(of, of.load()[0], seed))
    return Problem(*parts, SoftmaxCe(), outputs=3, batch_size=8, seed=seed)


def same(ours: Any, theirs: Any) -> bool:
    """Two iterators of batches, bit for bit."""
    pairs = list(zip(ours, theirs, strict=True))
    return all(torch.equal(getattr(a, k), getattr(b, k)) for a, b in pairs for k in ("x", "y", "index")) and len(pairs) > 1


# --- the same numbers


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_epochs_validation_and_test_are_those_in_memory(workers: int) -> None:
    whole, streamed = problem(dataset(4096)), problem(dataset(workers=workers))
    assert isinstance(whole.train_split, Samples) and isinstance(streamed.train_split, Streamed)
    for epoch in (0, 5):
        assert same(streamed.train(epoch), whole.train(epoch))
    assert same(streamed.val(), whole.val())
    tests = (of.load()[1].to(CPU).batches(7) for of in (dataset(workers=workers), dataset(4096)))
    assert same(*tests)


def test_mean_and_deviation_are_those_in_memory_and_numpys() -> None:
    whole, streamed = problem(dataset(4096)).train_split, problem(dataset(workers=2)).train_split
    ours, theirs = streamed.moments(), whole.moments()
    assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.std, theirs.std) and ours.highest == theirs.highest
    pixels = whole.tensors().x.numpy().astype(float)
    np.testing.assert_allclose(ours.mean.flatten(), pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(ours.std.flatten(), pixels.std((0, 2, 3)), rtol=1e-10)
    assert ours.highest == pixels.max()


def test_only_what_the_run_uses_must_fit_and_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = 3 * 12 * 12
    used = 20 + 15 + 24
    fits, too_small = (dataset((used * image + more) / 2**20, train_limit=20) for more in (0, -1))
    assert isinstance(problem(too_small).train_split, Streamed)
    decoded: list[int] = []
    call = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, data: decoded.append(1) or call(self, data))
    assert isinstance(problem(fits).train_split, Samples) and len(decoded) == 20 + 15


RUNS = {
    "layers, inputs and features kept": (),
    "layers, nothing kept, augmented": ("method.keep_features_mib=0", "augment=standard", "augment.crop=1", "augment.cutout=4"),
    "backpropagation, filtered, tested at the end": (
        "method=backprop",
        "filter=random_subset",
        "filter.chunk=20",
        "test_every=run",
    ),
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_whole_runs_are_those_in_memory(overrides: tuple[str, ...], here: Path, children: Callable[[], int]) -> None:
    ended = []
    for name, more in (("whole", ("dataset.memory_mib=4096",)), ("streamed", (*STREAMED, "dataset.workers=2"))):
        spec = config.build(config.compose([*SET, *NETWORK, *overrides, *more]))
        (result,) = execute([spec], here / name)
        assert result["status"] == "finished", result
        ended.append((result["run_id"], *numbers(Path(result["path"]))))
    assert ended[0] == ended[1] and children() == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_filter_or_another_rank_leaves_out_is_not_decoded(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed, whole = (Fed(problem(dataset(mib)), 0, ranks=Ranks(rank, 2) if mib == 0 else None) for mib in (0, 4096))
    for source in (streamed, whole):
        source.look(Stack((nn.Identity(),), (0,)))
    sieve = Sieve(RandomSubset(share=0.5), seed=5)
    wanted = [batch._map(Ranks(rank, 2).part) for batch in whole.train(1, sieve)]
    decoded: list[bytes] = []
    call = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, data: decoded.append(data) or call(self, data))
    assert same(streamed.train(1, sieve), wanted)
    assert len(decoded) == sum(map(len, wanted)) == 16  # of 63, of which 32 are kept


def test_of_several_processes_one_goes_through_the_images_for_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (problem(dataset()).train_split for _ in range(2))
    first.find_out(lambda find: find())
    monkeypatch.setattr(Decoder, "__call__", lambda *_: pytest.fail("decoded again"))
    second.find_out(lambda find: first.moments())
    assert second.moments() is first.moments()


def test_the_expected_time_counts_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {}
    for name, more in (("plain", ()), ("augmented", ("augment=standard",))):
        spec = config.build(config.compose([*SET, *NETWORK, *more, "method.keep_features_mib=0"]))
        data, run = open_problem(spec, *spec.dataset.load()), Run(optimizer=spec.optimizer)
        if change := data.augment:
            data.augment = lambda x, generator, change=change: time.sleep(0.05) or change(x, generator)
        run.expect = lambda found, keep_bytes, name=name: costs.update({name: found})  # type: ignore[method-assign]
        spec.method.fit(data, build_network(spec, data, CPU), run)
    assert all(cost.feed_s > 0.05 for cost in costs["augmented"]) and costs["plain"][0].feed_s < 0.05


def test_streamed_run_interrupted_and_begun_again_ends_in_the_same_numbers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [config.build(config.compose([*SET, *NETWORK, *more])) for more in ((), (*STREAMED, "dataset.workers=1"))]
    expected = numbers(Path(carry_out(specs[0], here / "whole")["path"]))
    found = tiny.resumed(specs[1], here / "streamed", monkeypatch, 1, 4)
    assert numbers(Path(found["path"])) == expected


@pytest.mark.slow
def test_runs_of_a_sweep_have_workers_too(here: Path) -> None:
    specs = [config.build(config.compose([*SET, *NETWORK, *STREAMED, "dataset.workers=1", f"seed={s}"])) for s in (0, 1)]
    swept = execute(specs, here / "swept", workers=2)
    assert [result["status"] for result in swept] == ["finished"] * 2, swept
    alone = carry_out(config.build(config.compose([*SET, *NETWORK, "seed=1"])), here / "alone")
    assert numbers(Path(alone["path"])) == numbers(Path(swept[1]["path"]))


# --- what streaming leaves alone


def test_workers_draw_no_random_numbers() -> None:
    streamed, before = problem(dataset(workers=2)), torch.get_rng_state()
    list(streamed.train(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_suspended_pass_holds_no_batch_and_runs_ahead_by_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = problem(dataset(workers=2)).train(0)
    batch = next(batches)
    held = weakref.ref(batch.x)
    del batch
    assert held() is None
    log = os.open("decoded", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    call = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, data: os.write(log, b".") and call(self, data))
    part = problem(dataset(workers=2)).train_split.gather([torch.tensor([0, 1])] * 50)
    next(part)
    time.sleep(0.3)
    assert Path("decoded").stat().st_size <= 2 * (1 + 2 * 2)


def test_a_pass_given_up_leaves_no_process(children: Callable[[], int]) -> None:
    batches = problem(dataset(workers=2)).train(0)
    next(batches)
    assert children() == 2
    del batches
    assert children() == 0


def test_what_a_worker_gets_can_be_pickled() -> None:  # where processes are not forked
    part = dataset().load()[0]
    assert isinstance(part, Streamed)
    again = pickle.loads(pickle.dumps(part.images))
    assert torch.equal(again[np.array([3])][0], part.images[np.array([3])][0])


def test_a_method_that_needs_all_at_once_is_told_so() -> None:
    with pytest.raises(DataError, match=r"63 training images .* dataset\.memory_mib"):
        problem(dataset()).train_tensors()


def test_the_expected_time_counts_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, data: time.sleep(0.01) or call(self, data))
    spec = config.build(config.compose([*SET, *NETWORK, *STREAMED, "dataset.workers=0", "test_every=run"]))
    part = open_problem(spec, *spec.dataset.load()).train_split
    assert 0.08 < part.reading_seconds(8) < 0.4 and 0.04 < part.take(torch.arange(30)).reading_seconds(4) < 0.2


def test_a_long_wait_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    list(waiting.watched(range(4), 4, "counting"))
    assert capsys.readouterr().err == ""
    clock = iter([0.0, 2.0, 3.5, 5.0, 9.0, 9.5])
    monkeypatch.setattr(waiting.time, "monotonic", lambda: next(clock))
    assert list(waiting.watched(range(5), 5, "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines() == [
        "effdl: counting: 40%, 5 s left",
        "effdl: counting: 80%, 2 s left",
    ]


# --- what goes wrong


DECODE = Decoder.__call__


def dying(self: Decoder, data: bytes) -> Any:
    """Ends the worker that it is called in."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return DECODE(self, data)


def test_a_worker_that_dies_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Decoder, "__call__", dying)
    code = run_here(*SET, *NETWORK, *STREAMED, "dataset.workers=1")
    out, err = capsys.readouterr()
    assert code == 3 and out == "" and len(err.splitlines()) == 1 and "dataset.workers=0" in err, err
    assert not (here / "results").exists()


def test_an_image_that_is_damaged_under_way_stops_the_run_in_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, children: Callable[[], int]
) -> None:
    spec = config.build(config.compose([*SET, *NETWORK, *STREAMED, "dataset.workers=2"]))

    def damage(self: Run, *args: Any, **metrics: Any) -> None:
        (here / "data" / "images" / "val" / "bee" / "000.png").write_bytes(b"no image")

    monkeypatch.setattr(Run, "record", damage)
    (result,) = execute([spec], here / "results")
    assert result["status"] == "error" and "val/bee/000.png" in result["reason"] and "\n" not in result["reason"]
    assert result["exit_code"] == DataError.exit_code and children() == 0


LONG = (*SET, "arch=cnn4", "arch.widths=[8,8,8]", "method.epochs=8", *STREAMED, "dataset.workers=2", "test_every=run")
LONG = (*LONG, "method.keep_features_mib=0")


@pytest.mark.slow
def test_a_killed_run_leaves_neither_process_nor_lock_behind(here: Path) -> None:
    (expected,) = execute([config.build(config.compose([*LONG, "dataset.memory_mib=4096"]))], here / "undisturbed")
    for _ in range(2):
        before, process = metrics_lines(here / "results"), start(*LONG, cwd=here, EFFDL_DATA="data")
        wait_for(lambda before=before: metrics_lines(here / "results") > before + 2, process)
        leader = process.pid
        wait_for(lambda leader=leader: len(list(session(leader))) > 2, process)
        kill(process)
        (lock,) = here.glob("results/runs/*/lock")
        assert is_free(lock)
        until = time.monotonic() + 10
        while list(session(process.pid)):
            assert time.monotonic() < until, list(session(process.pid))
            time.sleep(0.05)
    done = run(*LONG, cwd=here, EFFDL_DATA="data")
    assert done.returncode == 0, done.stderr
    assert numbers(Path(here / answer(done)["path"])) == numbers(Path(expected["path"]))


def resident(part: Any, epochs: int) -> int:
    import resource

    for _ in range(epochs):
        for batch in part.batches(8):
            assert isinstance(batch, Batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(here: Path) -> None:
    picture.folders(here / "data", name="large", train=200, side=200)
    part, _ = dataset(name="large", size=200).load()
    first = resident(part.take(torch.arange(64)).to(CPU), 1)
    assert len(part) * 3 * 200 * 200 > 60 * 2**20
    assert resident(part.to(CPU), 2) - first < 30 * 1024  # KiB
