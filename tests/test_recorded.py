"""Recorded features (§6.2.2): a plain loop's numbers wherever they lie, and no step on what was not recorded."""

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import numbers
from torch import nn

from effdl import config
from effdl.archs.chain import ArchFacts
from effdl.costs.segments import segment_costs
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError, DataError
from effdl.methods.recorded import recorded_bytes
from effdl.methods.segmentwise import Segmentwise
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.records.store import Store
from effdl.testing import check_method
from effdl.training.engine import Engine
from effdl.training.hardware import Hardware
from effdl.training.optim import MultiStep, Sgd
from effdl.training.recording import Recording
from effdl.training.sources import Fed

SGD = Sgd(lr=0.05, weight_decay=1e-3, momentum=0.9, schedule=MultiStep(milestones=(0.5,)))
KINDS: list[Any] = ["device", "host", "disk"]
ALL = {"record_at": "all", "input_dropout": 0.2, "choose": "last"}


def reference(recorded: Sequence[int], epochs: Sequence[int], **fields: Any) -> nn.Module:
    """Algorithm 3 with recordings written by hand: batches of the highest recorded layer through the frozen ones above it."""
    model, run, problem = tiny.chain().double(), Run.in_memory(SGD), tiny.problem()
    method = Segmentwise(epochs=tuple(epochs), **fields)
    engine = Engine(method.training(problem, model, run), problem, model, run)
    written: dict[int, list[list[Batch]]] = {}
    for i, count in enumerate(epochs):
        learner = engine.making.learner(i)
        learner.rule.yields, model = True, model.eval()
        base = max((layer for layer in recorded if layer <= i), default=0)
        made = []
        for epoch in range(count):
            if base:
                inputs = written[base][epoch % len(written[base])]
            else:
                number = sum(epochs[:i]) + epoch
                inputs = [batch.passed_on(model.input(batch.x)) for batch in problem.train(number)]
            with torch.no_grad():
                fed = [batch.passed_on(model.blocks[base:i](batch.x)) for batch in inputs]
            made.append([Batch(b.x.clone(), b.y, b.index) for b in learner.train_epoch(fed)])
        written[i + 1] = made
    return model


@pytest.mark.parametrize("store", KINDS)
@pytest.mark.parametrize(("at", "epochs"), [("all", (2, 2, 2)), ((1,), (2, 3, 3)), ((2,), (3, 2, 5)), ("all", (1, 2, 4))])
def test_weights_are_those_of_a_loop_that_writes_down_and_replays(store: Any, at: Any, epochs: tuple[int, ...]) -> None:
    layers = (1, 2) if at == "all" else at
    fields = {"input_dropout": 0.2, "keep_features_mib": 10.0}
    model = tiny.chain().double()
    method = Segmentwise(epochs=epochs, record_at=at, store=store, choose="last", **fields)
    method.fit(tiny.problem(), model, Run.in_memory(SGD))
    # A feednet folds normalisation into convolutions, which rounds; without one between nothing does.
    expected = reference(layers, epochs, **fields)
    if at == "all":
        assert tiny.same(tiny.copied(model.blocks), tiny.copied(expected.blocks))  # type: ignore[arg-type]
    else:
        torch.testing.assert_close(model.blocks.state_dict(), expected.blocks.state_dict(), rtol=1e-10, atol=1e-12)  # type: ignore[union-attr]


def test_it_is_another_network_than_by_outputs_kept_after_training() -> None:
    models = [tiny.chain(), tiny.chain()]
    for model, at in zip(models, (None, "all"), strict=True):
        Segmentwise(epochs=2, record_at=at).fit(tiny.problem(), model, Run.in_memory(SGD))  # type: ignore[arg-type]
    first, second = (tiny.copied(model.blocks) for model in models)
    assert tiny.same(first["conv1.0.weight"], second["conv1.0.weight"])
    assert not tiny.same(first["conv2.0.weight"], second["conv2.0.weight"])


@pytest.mark.parametrize("store", ["device", "disk"])
def test_it_keeps_the_contract_of_all_methods_and_is_taken_up_at_any_epoch(store: Any) -> None:
    check_method(Segmentwise(epochs=2, record_at="all", store=store), optimizer=SGD)


@pytest.mark.parametrize("store", KINDS)
def test_a_robin_replays_its_own_rounds(store: Any) -> None:
    """Each round's lower layers have learned anew: what they put out in the round before is nothing to learn from."""
    model, run = tiny.chain(), Run.in_memory(SGD)
    Segmentwise(epochs=2, rounds=3, record_at="all", store=store, choose="last").fit(tiny.problem(), model, run)
    plain, other, problem = tiny.chain(), Run.in_memory(SGD), tiny.problem()
    method = Segmentwise(epochs=2, rounds=3)
    engine = Engine(method.training(problem, plain, other), problem, plain, other)
    learners = [engine.making.learner(i) for i in range(3)]
    for number in range(3):
        epochs = [[b.passed_on(plain.input(b.x)) for b in problem.train(6 * number + e)] for e in range(2)]
        for learner in learners:
            learner.rule.yields = True
            epochs = [[Batch(b.x.clone(), b.y, b.index) for b in learner.train_epoch(batches)] for batches in epochs]
    assert tiny.same(tiny.copied(model.blocks), tiny.copied(plain.blocks))


def recording(folder: Path, store: Any = "disk") -> Recording:
    return Recording("0", store, torch.device("cpu"), lambda: folder)


@pytest.mark.parametrize("store", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_batches_come_back_as_they_were_layout_and_all(tmp_path: Path, store: Any, dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 5, 5).to(dtype)
    batches = [
        Batch(x, torch.arange(4), torch.arange(9)[3:7], sample_weight=torch.rand(4), loss=torch.rand(4)),
        Batch(x.to(memory_format=torch.channels_last), torch.rand(4, 2), torch.arange(4)),
        Batch(torch.randn(2, 7).t()[:2].to(dtype), torch.arange(2), torch.arange(2)),
    ]
    made = recording(tmp_path, store)
    for _ in made.passing(batches):
        pass
    again = recording(tmp_path, store)
    again.load_state_dict(json.loads(json.dumps(made.state_dict())))
    for found in (made, again):
        for one, other in zip(found.epoch(5), batches, strict=True):
            for name in Batch.__slots__:
                a, b = getattr(one, name), getattr(other, name)
                assert (a is None and b is None) or tiny.same(a, b)
            if other.x.dim() == 4:
                assert one.x.stride() == other.x.stride()
    assert made.bytes == sum(t.nbytes for b in batches for n in Batch.__slots__ if (t := getattr(b, n)) is not None)


def test_an_epoch_that_is_not_drained_leaves_nothing(tmp_path: Path) -> None:
    made = recording(tmp_path)
    flow = iter(made.passing([Batch(torch.ones(2, 3), torch.zeros(2), torch.arange(2))] * 3))
    next(flow)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    del flow
    assert list(tmp_path.iterdir()) == [] and len(made) == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def of_another_run(path: Path) -> None:
    (other := path.parent / "other").mkdir()
    for _ in recording(other).passing([Batch(torch.ones(2, 3), torch.zeros(2), torch.arange(2))]):
        pass
    (other / "0-0.epoch").replace(path)


DAMAGE: dict[str, Callable[[Path], Any]] = {"a bit": flip, "no file": Path.unlink, "another run's": of_another_run}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_what_was_recorded_is_found_before_a_step_is_made_on_it(tmp_path: Path, damage: Any) -> None:
    run, stepped = Run.in_memory(SGD), list[int]()
    run.folder = lambda name: tmp_path  # type: ignore[method-assign]

    def progress(segment: int, *_: Any) -> bool:
        stepped.append(segment)
        return False

    def save(state: Any) -> None:
        if len(run.lines) == 2:  # of the first segment both epochs are recorded
            damage(tmp_path / "0-1.epoch")

    run.progress, run.save = progress, save  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"0-1\.epoch: a recorded epoch is (gone|damaged)"):
        Segmentwise(epochs=2, record_at="all", store="disk").fit(tiny.problem(), tiny.chain(), run)
    steps = tiny.problem().steps
    assert stepped.count(0) == 2 * steps and stepped.count(1) == steps, "the second segment learned from its first epoch alone"


DATA = ["arch=cnn4", "dataset=digits", "dataset.train_limit=300"]
SPEC = ["method=segmentwise", "method.epochs=2", "method.record_at=all", *DATA]


@pytest.mark.parametrize("store", ["device", "disk"])
def test_a_run_is_taken_up_at_any_save_and_leaves_no_recording_behind(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = config.build(config.compose([*SPEC, f"method.store={store}"]))
    alone = carry_out(spec, tmp_path / "alone")
    again = tiny.resumed(spec, tmp_path / "again", monkeypatch, 1, 2, 3, 4, 5)
    paths = [Path(answer["path"]) for answer in (alone, again)]
    assert numbers(paths[0]) == numbers(paths[1])
    for path in paths:
        assert [p.name for p in path.rglob("*epoch*")] == []
    assert again["summary"]["data/recorded_bytes"] == alone["summary"]["data/recorded_bytes"] > 0


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_run_whose_recording_was_damaged_meanwhile_begins_anew(
    damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = config.build(config.compose([*SPEC, "method.store=disk"]))
    with monkeypatch.context() as patched:
        tiny.interrupt_at_saves(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            carry_out(spec, tmp_path)
    [file] = tmp_path.rglob("0-1.epoch")
    damage(file)
    told = list[str]()
    monkeypatch.setattr(Store, "_set_aside", lambda self, path, reason: told.append(reason) or path.unlink())
    again = carry_out(spec, tmp_path)
    assert len(told) == 1 and re.search(r"0-1\.epoch: a recorded epoch is (gone|damaged).*; the run begins anew$", told[0])
    assert numbers(Path(again["path"])) == numbers(Path(carry_out(spec, tmp_path / "alone")["path"]))


def test_recorded_bytes_are_those_that_were_reckoned_with() -> None:
    run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()
    Segmentwise(epochs=2, record_at=(2,)).fit(problem, model, run)
    beside = 8 + 8 + 4
    assert run.notes["data/recorded_bytes"] == 2 * 40 * (4 * tiny.WIDTHS[2] * tiny.SIDE**2 + beside)
    needed = run.notes["data/recorded_bytes"] / 2**20
    for mib in (needed, needed - 1e-6):
        method = Segmentwise(epochs=2, record_at=(2,), keep_features_mib=mib)
        if mib == needed:
            method.training(problem, model, run)
        else:
            with pytest.raises(ConfigError, match=r"^method\.record_at: 0\.1 MiB would be recorded up to layer 2"):
                method.training(problem, model, run)


@pytest.mark.parametrize("store", ["device", "disk"])
def test_a_plan_counts_the_cropped_feednet_and_the_recordings_that_are_in_memory(store: Any) -> None:
    run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()
    costs = {}
    for at in (None, (1,), "all"):
        method = Segmentwise(epochs=2, record_at=at, store=store)  # type: ignore[arg-type]
        costs[at] = segment_costs(Engine(method.training(problem, model, run), problem, model, run))
    weights = [sum(t.nbytes for t in block.state_dict().values()) for block in model.blocks]
    below = [cost.memory.by_kind["feednet"] for cost in costs[(1,)]]
    assert below[1:] == [0, weights[1]] and below[0] > 0
    assert [cost.memory.by_kind["feednet"] for cost in costs["all"]][1:] == [0, 0]
    # The segment itself takes what it always does, but its outputs are held where they are recorded.
    assert costs["all"][2].memory.by_kind["parameter"] == costs[None][2].memory.by_kind["parameter"]
    assert costs["all"][0].memory.peak >= costs[None][0].memory.peak
    sample, beside = 4 * tiny.SIDE**2, 8 + 8 + 4
    made = [2 * 40 * (width * sample + beside) for width in tiny.WIDTHS[1:3]]
    val = [20 * width * sample for width in tiny.WIDTHS[1:3]]
    recorded = [made[0] + made[1] + val[0], made[1] + val[1]] if store == "device" else val
    assert [cost.kept_bytes for cost in costs["all"]][1:] == recorded
    assert costs["all"][2].idle_bytes - costs[None][2].idle_bytes >= sum(weights[:2])


def test_auto_records_where_it_takes_least() -> None:
    run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()  # 4 and 5 channels below the last layer
    assert Segmentwise(record_at="auto").training(problem, model, run).record == {0}
    assert Segmentwise(record_at="auto", epochs=(9, 2, 2)).training(problem, model, run).record == {1}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"record_at": (3,)}, r"no segment below another one ends with layer 3: take one of 1, 2$"),
        ({"record_at": (1,), "segment_size": 2}, r"no segment below another one ends with layer 1: take 2$"),
        ({"record_at": "all", "segment_size": 3}, r"there is one segment alone"),
        ({"record_at": "all", "permute": True, "rounds": 2}, r"in a random order"),
        ({"record_at": "all", "together": True}, r"^method\.record_at is of segments that take turns"),
    ],
)
def test_what_cannot_be_recorded_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Segmentwise(**fields).check(tiny.problem().facts, ArchFacts(3, 1), Hardware())


@pytest.mark.slow
@pytest.mark.parametrize("full_disk", ["stop", "feed"])
def test_a_disk_that_fills_up_in_mid_recording_loses_nothing(full_disk: str, tmp_path: Path) -> None:
    """The first layer's outputs of an epoch are 2.5 MB, and files may have 2; checkpoints are smaller."""
    whole = [*SPEC, "method.store=disk", "dataset.train_limit=null"]
    arguments = [*whole, f"method.full_disk={full_disk}", f"results={tmp_path / 'limited'}"]
    limited = Path(__file__).with_name("limited.py")
    ended = subprocess.run([sys.executable, limited, "FSIZE", "2000000", *arguments], capture_output=True, text=True)
    if full_disk == "feed":
        assert ended.returncode == 0, ended.stderr
        assert "nothing is recorded, the blocks below feed the next segment" in ended.stderr
        summary = json.loads(ended.stdout.splitlines()[-1])["summary"]
        assert summary["data/unrecorded_turns"] == [0] and summary["data/recorded_bytes"] > 0
        return
    assert ended.returncode != 0 and ended.stdout == ""
    assert re.search(r"0-0\.epoch: File too large; free some space and run the same command again$", ended.stderr.strip())
    assert list(tmp_path.rglob("*.part")) == []
    spec = config.build(config.compose(whole))
    again, alone = (carry_out(spec, tmp_path / name) for name in ("limited", "alone"))
    assert numbers(Path(again["path"])) == numbers(Path(alone["path"]))


def test_above_a_recording_only_validation_features_are_kept_and_no_training_set_is_passed_again() -> None:
    run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()
    method = Segmentwise(epochs=2, record_at="all")
    engine = Engine(method.training(problem, model, run), problem, model, run)
    planned = [cost.kept_bytes for cost in segment_costs(engine)]
    seen, passed = list[int](), Fed.passed

    def counting(self: Any, modules: Any, x: Any) -> Any:
        modules = list(modules)
        if any(module is not model.input for module in modules):
            seen.append(len(x))
        return passed(self, modules, x)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Fed, "passed", counting)
        engine.fit()
    assert max(seen) <= problem.batch_size and sum(seen) <= 2 * (problem.num_val + problem.batch_size)
    val = [4 * problem.num_val * width * tiny.SIDE**2 for width in tiny.WIDTHS[:-1]]
    assert engine.active.through.kept_bytes == val[2] and planned[2] > val[2]


def test_what_a_run_has_recorded_is_room_for_it_when_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, problem, model = Run.in_memory(SGD), tiny.problem(), tiny.chain()
    monkeypatch.setattr(run, "folder", lambda name: tmp_path)
    needed = recorded_bytes(Segmentwise(epochs=3).training(problem, model, run).segments, [3] * 3, problem, model, run)[0]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed // 3))
    method = Segmentwise(epochs=3, record_at=(1,), store="disk")
    with pytest.raises(ConfigError, match=r"^method\.record_at: .* there is room for"):
        method.training(problem, model, run)
    assert Segmentwise(epochs=3, record_at=(1,), store="disk", full_disk="feed").training(problem, model, run).record == {0}
    (tmp_path / "0-0.epoch").write_bytes(bytes(needed))
    assert method.training(problem, model, run).record == {0}


def test_where_the_disk_takes_no_file_at_all_the_blocks_below_feed_and_the_disk_is_left_clean(tmp_path: Path) -> None:
    run, told, saved = Run.in_memory(SGD), list[str](), list[Any]()
    run.folder = lambda name: tmp_path  # type: ignore[method-assign]
    run.say, run.save = told.append, lambda state: saved.append(state())  # type: ignore[method-assign]
    opened = Path.open

    def full(self: Path, *args: Any, **more: Any) -> Any:
        if self.name == "0-1.epoch.part":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *args, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "open", full)
        method = Segmentwise(epochs=3, record_at=(1,), store="disk", full_disk="feed", choose="last")
        method.fit(tiny.problem(), (model := tiny.chain()), run)
    assert run.notes["data/unrecorded_turns"] == [0] and told[0].startswith(
        "recorded: what layer 1 put out, up to 0.1 MiB on disk"
    )
    assert told[1].endswith("0-1.epoch: No space left on device; nothing is recorded, the blocks below feed the next segment")
    assert len(told) == 2
    assert list(tmp_path.glob("*.epoch*")) == []
    plain = tiny.chain()
    Segmentwise(epochs=3, choose="last").fit(tiny.problem(), plain, Run.in_memory(SGD))
    assert tiny.same(tiny.copied(model.blocks), tiny.copied(plain.blocks))
