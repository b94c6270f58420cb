"""Kept features on disk: the numbers of those in memory, and where they lie decided by what takes less time, once."""

import errno
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import numbers
from torch import Tensor

from effdl import config
from effdl.archs.chain import ArchFacts
from effdl.costs import on_disk as deciding
from effdl.costs.feeding import Access
from effdl.costs.on_disk import disk_access, laid
from effdl.costs.segments import segment_costs
from effdl.datasets.rows import Rows
from effdl.datasets.split import Samples
from effdl.errors import ConfigError, RecordError
from effdl.methods.segmentwise import Segmentwise
from effdl.records import plan
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.testing import check_method
from effdl.training.engine import Engine
from effdl.training.handle import Memory, SegmentCost
from effdl.training.hardware import Hardware
from effdl.training.optim import Sgd

SGD = Sgd(lr=0.05, momentum=0.9)
LAST = torch.channels_last


def rows(x: Tensor, y: Tensor, folder: Path, chunk: int = 3) -> Rows:
    return Rows(folder, x[:1], x.split(chunk), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize("form", [(7,), (4, 5, 3), (4, 5, 3, 2)])
@pytest.mark.parametrize("last", [False, True])
def test_rows_give_what_samples_in_memory_give_layout_and_all(dtype: Any, form: Any, last: bool, tmp_path: Path) -> None:
    x = (100 * torch.rand(10, *form)).to(dtype)
    x = x.to(memory_format=LAST) if last and x.dim() == 4 else x
    whole = Samples(x, torch.arange(10) % 4)
    ours = rows(x, whole.y, tmp_path)
    assert list(tmp_path.iterdir()) == [], "a file without a name"
    indices = [torch.tensor([3, 4, 5, 0]), torch.tensor([9]), torch.tensor([2, 2, 8, 7])]
    pairs = [*zip(ours.gather(indices), whole.gather(indices), strict=True)]
    pairs += [*zip(ours.batches(4), whole.batches(4), strict=True)]
    part = torch.tensor([1, 8, 3])
    pairs += [*zip(ours.take(part).batches(2), whole.take(part).batches(2), strict=True)]
    for one, other in pairs:
        assert tiny.same([one.x, one.y, one.index], [other.x, other.y, other.index]) and one.x.dtype == dtype
        assert one.x.stride() == other.x.stride()
    assert (len(ours), ours.input_shape, ours.bytes) == (10, whole.input_shape, x.nbytes)
    assert tiny.same(ours.first(), whole.first()) and tiny.same(ours.tensors().x, x)
    if dtype == torch.float32:
        for by_pixel in (False, True):
            torch.testing.assert_close(ours.moments(by_pixel).mean, whole.moments(by_pixel).mean)


def test_rows_that_are_cut_off_are_found(tmp_path: Path) -> None:
    made = rows(torch.rand(10, 6), torch.arange(10), tmp_path)
    os.truncate(made._file.fileno(), 6 * 4 * 8 + 3)
    assert len(next(made.gather([torch.arange(8)]))) == 8
    with pytest.raises(RecordError, match="features that were kept on disk are cut off; run the same command again"):
        next(made.gather([torch.arange(9)]))


KEPT_ON: list[Any] = ["memory", "disk"]
SOME = 4 * 60 * tiny.SIDE**2 * 6 / 2**20  # room for six channels of both splits: the third layer's input beside the first's


def fitted(**fields: Any) -> tuple[dict[str, Tensor], Run]:
    run, model = Run.in_memory(SGD), tiny.chain()
    Segmentwise(**{"epochs": 2, "choose": "last"} | fields).fit(tiny.problem(), model, run)
    return tiny.copied(model), run


@pytest.mark.parametrize(
    "fields",
    [{}, {"rounds": 2}, {"segment_size": 2, "overlap": 1}, {"together": True, "partitions": 2}, {"feed_parts": 2}],
    ids=str,
)
@pytest.mark.parametrize("mib", [0.0, SOME])
def test_weights_are_those_of_features_kept_in_memory(fields: dict[str, Any], mib: float) -> None:
    kept, _ = fitted(**fields)
    ours, run = fitted(**fields, keep_features_mib=mib, keep_features_on="disk")
    assert tiny.same(ours, kept)
    assert run.notes["memory/kept_features_bytes"] <= mib * 2**20
    channels = tiny.WIDTHS[:3] if "together" not in fields else tiny.WIDTHS[:1]
    if mib == 0 and "rounds" not in fields and "overlap" not in fields:
        assert run.notes["data/features_on_disk_bytes"] == 4 * 60 * tiny.SIDE**2 * max(channels)


def test_a_plan_reckons_with_as_many_passes_as_the_run_makes_and_no_memory() -> None:
    for fields in ({}, {"rounds": 3}, {"segment_size": 2, "overlap": 1, "rounds": 2}, {"record_at": (1,), "store": "disk"}):
        for mib in (0.0, SOME):
            run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()
            method = Segmentwise(epochs=2, keep_features_mib=mib, keep_features_on="disk", **fields)
            engine = Engine(method.training(problem, model, run), problem, model, run)
            costs = segment_costs(engine)
            engine.fit()
            assert max(cost.kept_bytes for cost in costs) == run.notes["memory/kept_features_bytes"]
            assert all(cost.made_s > 0 or cost.start == 0 for cost in costs if cost.kept_bytes == 0)


@pytest.mark.parametrize("mib", ["0", "0.3"])
def test_fake_tensors_give_the_bytes_of_real_steps(mib: str) -> None:
    small = ("dataset.train_limit=60", "dataset.val_size=40", "dataset.batch_size=4")
    asked = config.build(
        config.compose(["arch=cnn4", *small, f"method.keep_features_mib={mib}", "method.keep_features_on=disk"])
    )
    told = [
        {key: value for key, value in how(asked, 1).items() if key.startswith("memory/")}
        for how in (plan._count, plan._rehearse)
    ]
    fed = plan._count(replace(asked, method=replace(asked.method, keep_features_on="memory")), 1)
    assert told[0] == told[1] and "unkept" not in plan.cost(asked).beside  # type: ignore[union-attr]
    assert mib != "0" or told[0]["memory/resident_peak_bytes"] < fed["memory/resident_peak_bytes"]


# --- where they lie


def cost(start: int, feed_s: float, feature_bytes: int, epochs: int, place: int) -> SegmentCost:
    """Of ten batches an epoch and two of validation."""
    return SegmentCost(
        start, start + 1, epochs, ((place, epochs),), 10, 10, 10, 2, feed_s, 0.0, Memory(0, {}), 0, 0, feature_bytes, 0, 0
    )


def places(epochs: int, access: Access, room: float = 1e12, always: bool = False, limit: int = 0) -> list[int]:
    """Of three segments whose features are of 100 bytes a sample, 1, 3 and 6 seconds a batch above the raw inputs."""
    costs = [cost(i, seconds, 100, epochs, i) for i, seconds in enumerate((1.0, 3.0, 6.0))]
    return laid(costs, (40, 8), limit, lambda start: access, lambda: room, always)


def test_features_lie_on_disk_where_that_takes_less_time() -> None:
    """By hand, 12 batches an epoch. Writing 1 s and reading 0.25 s: above the input, of one epoch, 12 (1 + 1) + 3 > 12; of
    four, 24 + 12 < 48; above that, 12 (2.25 + 1) + 12 < 48 (2.25); and so on."""
    cheap = Access(1.0, 0.25)
    assert places(1, cheap) == [] and places(4, cheap) == [0, 1, 2]
    # Reading is as slow as the whole feednet of the first, not of the others: 12 (3 + 1) + 48 · 1 < 48 · 3
    assert places(4, Access(1.0, 1.0)) == [1, 2]
    assert places(4, Access(0.0, 3.0)) == [2]  # 12 · 6 + 48 · 3 < 48 · 6
    assert places(4, Access(0.0, 9.0)) == [] and places(4, Access(0.0, 9.0), always=True) == [0, 1, 2]


def test_features_lie_on_disk_where_there_is_room_beside_the_last_ones_and_none_in_memory() -> None:
    cheap, one = Access(0.0, 0.0), 48 * 100
    assert places(4, cheap, room=one - 1) == [] == places(4, cheap, room=one - 1, always=True)
    assert places(4, cheap, room=one) == [0] and places(4, cheap, room=2 * one) == [0, 1, 2]
    assert places(4, cheap, limit=one - 1) == [0, 1, 2] and places(4, cheap, limit=2 * one) == []


def test_above_a_recording_the_validation_set_alone_is_weighed() -> None:
    """By hand: 2 batches an epoch in the place of 12, so that what is read in 0.25 s lies there after fewer epochs of a
    deeper layer alone; and no more than 8 samples need room."""
    costs = [cost(i, seconds, 100, 4, i) for i, seconds in enumerate((1.0, 3.0, 6.0))]

    def lying(access: Access, room: float = 1e12, limit: int = 0, val_limit: int = 0, replays: Any = (1, 2)) -> list[int]:
        return laid(costs, (40, 8), limit, lambda start: access, lambda: room, False, replays, val_limit)

    dear = Access(11.0, 0.25)  # of the second: 2 (3 + 11) + 8 · 0.25 = 30 > 24; of the third 2 (6 + 11) + 2 = 36 < 48
    assert lying(dear) == [2] and lying(dear, room=799) == []
    assert lying(dear, room=800) == [2] and lying(Access(0.0, 0.0), room=800) == [1]  # then from there, for the third 1,600
    assert lying(Access(0.0, 0.0), limit=-1) == [1, 2], "the training set varies, what it is measured on does not"
    assert lying(Access(0.0, 0.0), val_limit=800) == [0, 2] and lying(Access(0.0, 0.0), val_limit=1600) == [0]


def test_a_disk_is_measured_by_what_it_does(tmp_path: Path) -> None:
    small, large = (disk_access(tmp_path, size, 32) for size in (64, 200_000))
    assert 0 < small.read_s < large.read_s and large.write_s > 0 and list(tmp_path.iterdir()) == []


DATA = ["arch=cnn4", "dataset=digits", "dataset.train_limit=300"]
SPEC = ["method=dll", "method.epochs=2", "method.keep_features_mib=0", *DATA]


def test_auto_is_written_down_before_the_first_step_and_holds_for_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = config.build(config.compose([*SPEC, "method.keep_features_on=auto"]))
    kept = config.build(config.compose([*SPEC, "method.keep_features_mib=100"]))
    fast, slow = Access(1e-9, 1e-9), Access(1.0, 1.0)
    monkeypatch.setattr(deciding, "disk_access", lambda folder, sample_bytes, size: fast if sample_bytes == 1024 else slow)
    alone, memory = carry_out(spec, tmp_path / "alone")["summary"], carry_out(kept, tmp_path / "kept")["summary"]
    assert alone["data/features_on_disk"] == [2], "whose features alone are of 1024 bytes"
    monkeypatch.setattr(deciding, "disk_access", lambda *_: slow)
    tiny.interrupt_at_saves(monkeypatch, 1)
    with monkeypatch.context() as patched:
        patched.setattr(deciding, "disk_access", lambda folder, sample_bytes, size: fast if sample_bytes == 1024 else slow)
        with pytest.raises(KeyboardInterrupt):
            carry_out(spec, tmp_path / "again")
    again = carry_out(spec, tmp_path / "again")
    assert again["summary"]["network/sha256"] == alone["network/sha256"]
    assert numbers(Path(again["path"]))[0] == numbers(next((tmp_path / "alone" / "runs").iterdir()))[0]
    assert memory["network/sha256"] and not list((tmp_path / "again").rglob("features"))


@pytest.mark.parametrize("stops", [(1, 2, 3), (4, 5)])
def test_a_run_is_taken_up_at_any_save(stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = config.build(config.compose([*SPEC, "method.keep_features_on=disk"]))
    alone, again = carry_out(spec, tmp_path / "alone"), tiny.resumed(spec, tmp_path / "again", monkeypatch, *stops)
    assert numbers(Path(alone["path"])) == numbers(Path(again["path"]))


def test_it_keeps_the_contract_of_all_methods() -> None:
    check_method(Segmentwise(epochs=2, keep_features_mib=0, keep_features_on="disk"), optimizer=SGD)


@pytest.mark.parametrize("full_disk", ["stop", "feed"])
def test_a_disk_that_fills_up_stops_the_run_or_the_feednet_takes_over(full_disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, opened = list[int](), tempfile.TemporaryFile

    def full(*args: Any, **more: Any) -> Any:
        made.append(1)
        if len(made) > 4:  # two splits of features each, after those that measure the disk
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(*args, **more)

    monkeypatch.setattr(deciding, "disk_access", lambda *_: Access(0.0, 0.0))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    fields = {"keep_features_mib": 0.0, "keep_features_on": "disk", "full_disk": full_disk}
    if full_disk == "stop":
        with pytest.raises(RecordError, match=r"features: No space left on device; free some space and run the same command"):
            fitted(**fields)
        return
    said = list[str]()
    monkeypatch.setattr(Run, "say", lambda self, text: said.append(text))
    ours, run = fitted(**fields)
    assert [text.split("features: ")[1] for text in said] == ["No space left on device; the blocks below feed the segment"]
    kept, _ = fitted()
    torch.testing.assert_close(ours, kept, rtol=1e-4, atol=1e-5)
    assert run.notes["data/features_on_disk"] == [0, 1, 2]


def test_what_it_does_not_go_with_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^method\.keep_features_on: of several processes"):
        Segmentwise(keep_features_on="auto").check(tiny.problem().facts, ArchFacts(3, 1), Hardware(processes=2))
