"""Offload: the same bits wherever things lie, and in memory no more than was planned."""

import errno
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import flipped, numbers
from torch import Tensor, nn
from walking import FOLDER, Walked, in_memory, storage

from effdl import config
from effdl.archs.chain import BlockChain
from effdl.costs.segments import segment_costs
from effdl.errors import RecordError
from effdl.methods.segmentwise import Segmentwise
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.testing import check_method
from effdl.training.engine import Engine
from effdl.training.offload import Offload, tensors
from effdl.training.optim import Adamw, MultiStep, Sgd
from effdl.training.sources import Fed
from effdl.training.tensor_file import TensorFile

SGD = Sgd(lr=0.05, weight_decay=1e-3, momentum=0.9, schedule=MultiStep(milestones=(0.5,)))
PLACES = ["host", "disk"]


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU too the host is another place than the device, as beside a GPU: copies come and go."""
    made = Offload.__init__

    def init(self: Offload, where: Any, *more: Any, **options: Any) -> None:
        made(self, where, *more, **options)
        self.moves = where is not None

    monkeypatch.setattr(Offload, "__init__", init)


# --- a part


def linears() -> tuple[nn.Module, list[Tensor]]:
    """Layers, of which one is seen transposed, one channels last, and two share a storage."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 7), nn.Conv2d(3, 4, 3), nn.BatchNorm1d(6))
    layers[0].weight.data = torch.randn(5, 7).t()
    layers[1].to(memory_format=torch.channels_last)
    whole = torch.randn(12)
    layers[2].weight.data, layers[2].bias.data = whole[:6], whole[6:]
    return layers, [t.clone() for t in tensors(layers)]


@pytest.mark.parametrize("where", PLACES)
def test_what_left_and_came_is_the_same_objects_with_the_same_bits_and_forms(where: Any, tmp_path: Path, moving: None) -> None:
    layers, before = linears()
    objects, forms = [id(t) for t in tensors(layers)], [(t.stride(), t.storage_offset()) for t in tensors(layers)]
    places = [storage(t) for t in tensors(layers)]
    part = Offload(where, torch.device("cpu"), lambda: tmp_path).part("layers", lambda: tensors(layers))
    for _ in range(2):
        part.leave()
        assert part.away_bytes == sum(
            {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors(layers)}.values()
        )
        assert where == "host" or not {storage(t) for t in tensors(layers)} & set(places)  # freed memory is taken again
        with part.here():
            assert tiny.same(before, tensors(layers)), "computed with while it is away"
        assert tiny.same(before, tensors(layers)), "read while it is away, as for a checkpoint"
        assert len([*tmp_path.iterdir()]) == (where == "disk")
        part.come()
        assert part.away_bytes == 0 and not [*tmp_path.iterdir()]
        assert tiny.same(before, tensors(layers)) and [id(t) for t in tensors(layers)] == objects
        assert [(t.stride(), t.storage_offset()) for t in tensors(layers)] == forms
    assert storage(layers[2].bias) - storage(layers[2].weight) == 0, "one storage still"
    assert all(p.requires_grad and p.is_leaf for p in layers.parameters())


def test_what_others_share_stays_and_the_host_is_the_device_of_a_cpu(tmp_path: Path) -> None:
    layers, before = linears()
    places = [storage(t) for t in tensors(layers)]
    shared = [layers[2].bias]
    disk = Offload("disk", torch.device("cpu"), lambda: tmp_path).part("layers", lambda: tensors(layers), shared)
    disk.leave()
    stayed = [storage(t) == place for t, place in zip(tensors(layers), places, strict=True)]
    assert stayed == [t is layers[2].bias or t is layers[2].weight for t in tensors(layers)]
    disk.come()
    places = [storage(t) for t in tensors(layers)]
    host = Offload("host", torch.device("cpu"), lambda: tmp_path).part("layers", lambda: tensors(layers))
    host.leave()
    assert places == [storage(t) for t in tensors(layers)] and tiny.same(before, tensors(layers))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: path.write_bytes(flipped(path.read_bytes(), 70, 3)),
    "a flipped bit at the same time": lambda path: tiny.flip_at_the_same_time(path),
    "cut short": lambda path: os.truncate(path, 100),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("use", ["come", "check", "here"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_what_was_written_is_found_wherever_it_is_to_be_used(damage: str, use: str, tmp_path: Path) -> None:
    layers, _ = linears()
    disk = Offload("disk", torch.device("cpu"), lambda: tmp_path)
    part = disk.part("layers", lambda: tensors(layers))
    part.leave()
    (path,) = tmp_path.iterdir()
    DAMAGES[damage](path)
    uses: dict[str, Callable[[], object]] = {"come": part.come, "check": disk.check, "here": part.here().__enter__}
    if use == "here" and damage == "a flipped bit at the same time":
        return  # each call looks at size and time; a checkpoint, and who learns again, at all of it
    with pytest.raises(RecordError, match=r"layers.*(is damaged|No such file)"):
        uses[use]()


def test_a_full_disk_is_one_line_and_all_is_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, before = linears()
    part = Offload("disk", torch.device("cpu"), lambda: tmp_path).part("layers", lambda: tensors(layers))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("effdl.training.tensor_file.os.replace", full)
    with pytest.raises(RecordError, match="No space left on device; free some space and run the same command again"):
        part.leave()
    assert tiny.same(before, tensors(layers)) and not [*tmp_path.iterdir()] and part.away_bytes == 0


def test_a_mapped_file_is_let_go_of_page_by_page(tmp_path: Path) -> None:
    data = torch.arange(2**24, dtype=torch.int32).view(torch.uint8)  # 64 MiB
    file = TensorFile(tmp_path / "file", [data])
    (mapped,), before = file.storages(), resident_files()
    assert int(mapped[::4096].sum()) == int(data[::4096].sum())
    assert resident_files() - before > 2**26 - 2**20
    file.release()
    assert resident_files() - before < 2**20
    assert torch.equal(mapped, data)


def resident_files() -> int:
    """Bytes of mapped files that are resident, by the kernel's count."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


# --- a training


METHODS: dict[str, dict[str, Any]] = {
    "dll": {"epochs": 2, "input_dropout": 0.3, "gradient_dropout": 0.3},
    "dll fed": {"epochs": 2, "keep_features_mib": 0.0, "input_dropout": 0.3},
    "segments of two, last": {"epochs": 2, "segment_size": 2, "choose": "last", "keep_features_mib": 0.0},
    "round robin": {"epochs": 1, "rounds": 4},
    "random robin": {"epochs": 2, "rounds": 3, "permute": True, "input_dropout": 0.4, "keep_features_mib": 0.02},
    "random robin fed": {"epochs": 1, "rounds": 4, "permute": True, "keep_features_mib": 0.0},
    "by batch statistics": {"epochs": 1, "rounds": 4, "permute": True, "first_round": "batch_statistics"},
}


def trained(method: Segmentwise, optimizer: Any) -> tuple[dict[str, Tensor], list[Any], list[Any], dict[str, Any]]:
    """The network, the chain, each optimizer's state at its end and the numbers."""
    watched, model, run = tiny.WatchedOptimizer(optimizer), tiny.chain(), Run.in_memory()
    run._optimizer = watched  # type: ignore[assignment]
    network = method.fit(tiny.problem(), model, run)
    assert all(t.device.type == "cpu" for t in tensors(network))
    lines = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in run.lines]
    return tiny.copied(network), watched.weights_of_trained, lines, run.notes


@pytest.mark.parametrize("case", METHODS)
def test_weights_steps_and_numbers_are_those_without(case: str, moving: None) -> None:
    setting = SGD if "robin" in case else Adamw(lr=0.01)
    network, steps, lines, notes = trained(Segmentwise(**METHODS[case]), setting)
    for where in PLACES:
        theirs = trained(Segmentwise(**METHODS[case], offload=where), setting)
        assert tiny.same(network, theirs[0]) and tiny.same(steps, theirs[1]) and lines == theirs[2]
        assert theirs[3]["segment/chosen"] == notes["segment/chosen"]
        assert theirs[3]["memory/resident_peak_bytes"] < notes["memory/resident_peak_bytes"]
        for unmoved in ("accounted_peak_bytes", "kept_features_bytes"):
            assert theirs[3][f"memory/{unmoved}"] == notes[f"memory/{unmoved}"]


@pytest.mark.parametrize("where", PLACES)
def test_the_contract_of_all_methods_holds(where: Any, moving: None) -> None:
    check_method(Segmentwise(epochs=1, rounds=2, permute=True, offload=where))
    check_method(Segmentwise(epochs=2, keep_features_mib=0.0, offload=where))


MORE: list[tuple[str, int]] = [("disk", 100), ("host", 0), ("host", 100)]
ROBIN = ("method=random_robin", "method.rounds=3", "method.epochs=2", "method.input_dropout=0.4", "optimizer=adamw")
SMALL = ("dataset=digits", "dataset.train_limit=200", "arch.widths=[4,5,6]", "dataset.batch_size=50", "hardware.threads=1")


@pytest.mark.parametrize(
    ("where", "keep_features_mib"), [("disk", 0), *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)]
)
def test_states_of_a_robin_killed_at_any_turn_end_as_those_on_the_device(
    where: str, keep_features_mib: int, tmp_path: Path, moving: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (f"method.keep_features_mib={keep_features_mib}", "optimizer/schedule=multi_step")
    asked = [config.build(config.compose([*ROBIN, *SMALL, *more, f"method.offload={w}"])) for w in ("null", where)]
    alone = carry_out(asked[0], tmp_path / "alone")
    again = tiny.resumed(asked[1], tmp_path / "again", monkeypatch, 1, 3, 8, 13, 17)
    assert of_weights(numbers(Path(again["path"]))) == of_weights(numbers(Path(alone["path"])))
    assert not (Path(again["path"]) / FOLDER).exists()


def of_weights(found: tuple[list[dict[str, Any]], dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return found[0], {k: v for k, v in found[1].items() if k != "memory/resident_peak_bytes"}


# --- what is in memory


def wide(seed: int = 0) -> BlockChain:
    return tiny.perceptron(seed, (160,) * 8)


@pytest.fixture
def nothing_else() -> Iterator[None]:
    """The garbage collector knows of nothing that was there before, so that a walk takes milliseconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def walked(rounds: int, keep_features_mib: float, where: Any) -> tuple[int, int]:
    """Bytes that a walk found at most in a training, and that were planned as resident."""
    problem, setting, model, run = tiny.problem(), Walked(Adamw(lr=0.01)), wide(), Run.in_memory()
    run._optimizer = setting  # type: ignore[assignment]
    method = Segmentwise(epochs=1, rounds=rounds, keep_features_mib=keep_features_mib, offload=where)
    engine = Engine(method.training(problem, model, run), problem, model, run)
    with engine.offload:
        engine.resume()
        costs = segment_costs(engine)
        gc.collect()
        setting.most = 0  # of the rehearsed steps, on copies
        engine.fit()
    del engine, run, model
    gc.collect()
    return setting.most, max(cost.resident for cost in costs)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not list what is mapped")
@pytest.mark.parametrize("keep_features_mib", [0.0, 100.0])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_walk_over_live_storages_finds_no_more_than_was_planned(
    rounds: int, keep_features_mib: float, nothing_else: None
) -> None:
    found, planned = zip(*(walked(rounds, keep_features_mib, where) for where in (None, "disk")), strict=True)
    assert 0.5 * planned[1] < found[1] <= planned[1] < found[0] <= planned[0]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not list what is mapped")
@pytest.mark.parametrize("where", [None, "disk"])
@pytest.mark.parametrize(
    ("method", "most"),
    [({}, True), ({"rounds": 2}, True), ({"record_at": (2,)}, False), ({"partitions": 3, "together": True}, False)],
    ids=str,
)
def test_while_features_are_made_a_walk_finds_no_more_than_was_planned(
    method: dict[str, Any], most: bool, where: Any, nothing_else: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the layer below lie there for a moment beside the new. most: that is more than any step takes."""
    problem = tiny.problem(train=2000, batch_size=64)
    gc.freeze()  # the data are not the training's
    model, run = wide(), Run.in_memory(Adamw(lr=0.01))
    fit = Segmentwise(**{"epochs": 1, "keep_features_mib": 100.0, "offload": where} | method)
    passed, found = Fed.passed, list[int]()

    def walking(fed: Fed, modules: Iterable[nn.Module], x: Tensor) -> Tensor:
        out = passed(fed, modules, x)
        found.append(sum(in_memory().values()))
        return out

    monkeypatch.setattr(Fed, "passed", walking)
    engine = Engine(fit.training(problem, model, run), problem, model, run)
    with engine.offload:
        engine.resume()
        costs = segment_costs(engine)
        gc.collect()
        found.clear()
        engine.fit()
    making = max(cost.feeding_bytes + cost.making_bytes + cost.idle_bytes - cost.away_bytes for cost in costs)
    assert 0.6 * making < max(found) <= max(cost.resident for cost in costs)
    assert most == (max(replace(cost, making_bytes=0).resident for cost in costs) < max(found))
