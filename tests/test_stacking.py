"""Stacks of runs in `execute`: which are settled, what is recorded of each, what a kill leaves, and what stays as it was."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from command import finish, kill, numbers, start, wait_for
from declared import QUICK, declare

from effdl import config
from effdl.config import Spec
from effdl.config.identity import STACK_VERSION
from effdl.records import stacking
from effdl.records.carry import carry_out, fingerprint
from effdl.records.execute import _attempt_all, execute
from effdl.records.networks import load_network
from effdl.records.report import Silent
from effdl.records.run import Run
from effdl.reproduce import ledger
from effdl.reproduce.console import of_runs
from effdl.reproduce.survey import survey
from effdl.training import stacked
from effdl.training.optim import Adamw, Rmsprop, Sgd

SMALL = (
    *("dataset=two_spirals", "dataset.samples=200", "dataset.val_size=50", "dataset.batch_size=16", "hardware=cpu"),
    *("arch=mlp", "arch.hidden=[8,4]", "objective=sigmoid_bce", "method=backprop", "method.epochs=4"),
)
COUNT = 8


def specs(*more: str, count: int = COUNT) -> list[Spec]:
    one = config.build(config.compose([*SMALL, *more]))
    return [replace(one, seed=seed) for seed in range(count)]


def together(runs: Sequence[Spec], root: Path) -> list[dict[str, Any]]:
    """As a worker carries a stack out, in this process."""
    return _attempt_all([replace(spec, stacked=True) for spec in runs], root, Silent(), threads=1)


def run_id(spec: Spec) -> str:
    return config.run_id(spec, fingerprint(spec.dataset))


def close(ours: Any, theirs: Any) -> bool:
    """Lines of metrics or summaries alike, floats to what float32 keeps, without what a stack rounds otherwise."""
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(close(ours[k], theirs[k]) for k in ours if k != "network/sha256")
    return bool(ours == (pytest.approx(theirs, rel=1e-3, abs=1e-5) if isinstance(theirs, float) else theirs))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A sweep of which one run diverges: in a pool as it is, and each run by itself."""
    root, runs = tmp_path_factory.mktemp("made"), specs()
    runs[3] = replace(runs[3], optimizer=Sgd(lr=1e30))
    return execute(runs, root), [carry_out(spec, root, threads=1) for spec in runs]


class TestRecords:
    def test_each_run_has_a_record_with_the_numbers_that_it_has_alone(self, made: Any) -> None:
        for ours, alone in zip(*made, strict=True):
            assert ours["status"] == alone["status"] and ours["seed"] == alone["seed"] and ours["path"] != alone["path"]
            if alone["status"] == "finished":
                assert close(numbers(Path(ours["path"])), numbers(Path(alone["path"]))), ours
                assert load_network(ours["path"]) is not None

    def test_one_that_diverges_is_recorded_as_it_is_alone(self, made: Any) -> None:
        ours, alone = (results[3] for results in made)
        assert ours["status"] == "diverged" and ours["reason"] == alone["reason"]
        assert [one["status"] for one in made[0]].count("finished") == COUNT - 1

    def test_a_record_says_that_it_was_stacked_and_its_config_makes_its_name_again(self, made: Any) -> None:
        for ours in made[0]:
            stored = json.loads((Path(ours["path"]) / "spec.json").read_text())
            assert stored["identity"]["stacked"] == STACK_VERSION and stored["config"]["stacked"] is True
            assert run_id(config.build(stored["config"])) == ours["run_id"]

    def test_they_say_nothing_of_a_process_that_they_share_and_share_its_time(self, made: Any) -> None:
        finished = [one["summary"] for one in made[0] if one["status"] == "finished"]
        assert not any("memory/process_peak_bytes" in summary for summary in finished)
        first, last = finished[0]["time/train_s"], finished[-1]["time/train_s"]
        assert 0.5 * last < first < 2 * last  # a share of the same steps, whoever asked first


class TestWhatIsStacked:
    def kind(self, runs: Sequence[Spec], root: Path, on: bool = True) -> set[bool | None]:
        return {spec.stacked for spec in stacking.settled(runs, root, on)}

    def test_small_networks_that_differ_in_seed_and_optimizer(self, tmp_path: Path) -> None:
        runs = [replace(spec, optimizer=Sgd(lr=0.1 / (1 + spec.seed))) for spec in specs()]
        assert self.kind(runs, tmp_path) == {True}

    @pytest.mark.parametrize("method", ["dfa", "shallow", "gaussian_features", "ntk", "ntk_sigmoid"])
    @pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
    def test_under_every_method_that_says_so(self, method: str, optimizer: str, tmp_path: Path) -> None:
        assert self.kind(specs(f"method={method}", f"optimizer={optimizer}"), tmp_path) == {True}

    def test_a_lone_run_never_and_few_neither(self, tmp_path: Path) -> None:
        assert self.kind(specs(count=1), tmp_path) == self.kind(specs(count=COUNT - 1), tmp_path) == {False}
        (result,) = execute(specs(count=1), tmp_path)
        assert result["run_id"] == run_id(specs()[0])

    def test_none_where_nobody_wants_any_and_all_names_are_as_before(self, tmp_path: Path) -> None:
        runs = specs()
        off = stacking.settled(runs, tmp_path, on=False)
        assert [spec.stacked for spec in off] == [False] * COUNT
        assert [*map(run_id, off)] == [*map(run_id, runs)]
        assert config.dump(off[0]) == config.dump(runs[0]) and "stacked" not in config.dump(runs[0])

    @pytest.mark.parametrize(
        "more",
        [
            ("arch.hidden=[2000,2000]",),
            ("arch.batch_norm=true",),
            ("hardware.threads=1",),
            ("filter=random_subset",),
            ("probe=stable_rank",),
            ("method.checkpoint=block",),
            ("method=dll",),
        ],
        ids=lambda more: more[0],
    )
    def test_others_are_by_themselves(self, more: tuple[str, ...], tmp_path: Path) -> None:
        assert self.kind(specs(*more), tmp_path) == {False}

    def test_runs_that_do_not_agree_fall_apart(self, tmp_path: Path) -> None:
        mixed = [*specs(count=5), *specs("arch.hidden=[8,5]", count=5), *specs("optimizer=adamw", count=5)]
        assert self.kind(mixed, tmp_path) == {False}
        settled = stacking.settled([*mixed, *specs("method.epochs=3")], tmp_path)
        assert [spec.stacked for spec in settled] == [False] * 15 + [True] * COUNT

    def test_records_that_are_there_count_and_kinds_are_not_mixed(self, tmp_path: Path) -> None:
        def done(spec: Spec) -> None:
            folder = tmp_path / "runs" / run_id(spec)
            folder.mkdir(parents=True)
            (folder / "summary.json").touch()

        runs = specs(count=20)
        for spec in runs[:14]:
            done(spec)
        assert self.kind(runs, tmp_path) == {True}  # 20 in a stack take less than 6 by themselves
        assert self.kind(runs[:16], tmp_path) == {False}
        done(runs[14])
        assert self.kind(runs[:15], tmp_path) == {False}  # nothing is left
        for spec in runs[:10]:
            done(replace(spec, stacked=True))
        assert self.kind(runs, tmp_path) == {True}
        assert {spec.stacked for spec in stacking.kept(runs, tmp_path)} == {False}

    def test_what_was_said_stays(self, tmp_path: Path) -> None:
        said = [replace(spec, stacked=spec.seed % 2 == 0) for spec in specs()]
        assert stacking.settled(said, tmp_path) == said

    def test_stacks_are_as_many_as_there_is_room_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runs = [replace(spec, stacked=spec.seed < 40) for spec in specs(count=42)]
        assert sorted(map(len, stacking.split_up(runs, 1))) == [1, 1, 40]
        assert sorted(map(len, stacking.split_up(runs, 2))) == [1, 1, 20, 20]
        monkeypatch.setattr(stacking, "_room", lambda workers: 11.5 * stacking.bytes_of(runs[0]))
        parts = [*stacking.split_up(runs, 1)]
        assert sorted(map(len, parts)) == [1, 1, 10, 10, 10, 10] and sorted(chain(*parts)) == [*range(42)]


class Stop(BaseException):
    """As abrupt as a kill can be within a process: nothing catches it."""


CUT = [("backprop", Sgd()), ("backprop", Adamw()), ("dfa", Rmsprop()), ("gaussian_features", Sgd()), ("ntk", Rmsprop())]


@pytest.mark.parametrize(("method", "optimizer"), CUT, ids=lambda one: one if isinstance(one, str) else one.snake_name())
def test_a_stack_that_was_cut_off_goes_on_to_the_same_numbers(
    method: str, optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its runs have ended, some have a checkpoint of another epoch, one has none."""
    runs = [replace(spec, optimizer=optimizer) for spec in specs(f"method={method}", count=5)]
    expected = [numbers(Path(one["path"])) for one in together(runs, tmp_path / "undisturbed")]
    save, left, sizes = Run.save, iter([*range(5 + 5 + 3), None]), list[int]()

    def stop(self: Run, state: Callable[[], dict[str, Any]]) -> None:
        self._saved_at = float("inf") if "seed 4" in self.name else float("-inf")  # the last has no checkpoint
        save(self, state)
        if next(left) is None:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stop)
        with pytest.raises(Stop):
            together(runs, tmp_path / "cut")
    assert len([*(tmp_path / "cut" / "runs").glob("*/checkpoint")]) == 4
    learned = stacked.LearnEpoch._learned.__func__  # type: ignore[attr-defined]

    def counted(cls: type, asked: Sequence[Any]) -> Any:
        sizes.append(len(asked))
        return learned(cls, asked)

    monkeypatch.setattr(stacked.LearnEpoch, "_learned", classmethod(counted))
    results = together(runs, tmp_path / "cut")
    assert [numbers(Path(one["path"])) for one in results] == expected
    assert sizes[0] == 5  # at whatever epoch each is


def test_a_plan_gives_a_stack_to_one_worker() -> None:
    one_each = {False: 4, True: 8}  # seconds with two workers, of eight runs of a second
    for in_stack, expected in one_each.items():
        assert of_runs({replace(spec, stacked=in_stack): 1.0 for spec in specs()}, workers=2) == expected


def test_a_stack_waits_for_nobody_who_waits_for_it(tmp_path: Path) -> None:
    """Records are owned in one order; a finished one is answered."""
    runs = specs(count=3)
    first = together(runs[:2], tmp_path)
    again = together(runs[::-1], tmp_path)
    assert [one["run_id"] for one in again[:0:-1]] == [one["run_id"] for one in first]
    assert all(one["status"] == "finished" for one in again)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["backprop", "gaussian_features", "ntk"])
def test_killed_in_the_middle_of_a_stack_the_same_command_ends_in_the_same_numbers(method: str, tmp_path: Path) -> None:
    of_method = (f"method={method}", "dataset.samples=1000", "method.epochs=20")
    command = ("-m", *SMALL, *of_method, "workers=1", f"seed=range({COUNT})")
    whole = finish(start(*command, f"results={tmp_path / 'whole'}", cwd=tmp_path))
    assert whole.returncode == 0, whole.stderr
    killed = start(*command, f"results={tmp_path / 'killed'}", cwd=tmp_path)
    wait_for(lambda: len([*(tmp_path / "killed").glob("runs/*/checkpoint")]) >= COUNT // 2, killed)
    kill(killed)
    killed.communicate()
    assert not [*(tmp_path / "killed").glob("runs/*/summary.json")]
    again = finish(start(*command, f"results={tmp_path / 'killed'}", cwd=tmp_path))
    assert again.returncode == 0, again.stderr
    names = {path.name for path in (tmp_path / "whole" / "runs").iterdir()}
    assert names == {path.name for path in (tmp_path / "killed" / "runs").iterdir()} and len(names) == COUNT
    for name in names:
        stored = json.loads((tmp_path / "killed" / "runs" / name / "spec.json").read_text())
        assert stored["identity"]["stacked"] == STACK_VERSION
        assert numbers(tmp_path / "killed" / "runs" / name) == numbers(tmp_path / "whole" / "runs" / name)


def test_a_cell_is_settled_collected_and_published_as_one_kind(tmp_path: Path) -> None:
    settings = {name: value for name, value in QUICK.items() if name != "hardware.threads"}
    declaration, root = declare(tmp_path, {"set": settings, "scales/smoke/seeds": COUNT}), tmp_path / "results"
    cell, said = "data=few,method=base", list[str]()
    (found,) = survey(declaration, "smoke", root, cell)
    assert [spec.stacked for spec in found.left] == [True] * COUNT
    _attempt_all(found.left[:2], root, Silent(), threads=1)
    (found,) = survey(declaration, "smoke", root, cell)
    assert [spec.stacked for spec in found.left] == [True] * (COUNT - 2)
    _attempt_all(found.left, root, Silent(), threads=1)
    (found,) = survey(declaration, "smoke", root, cell)
    assert len(found.specs) == COUNT and not found.left
    ledger.publish(declaration, "smoke", root, said.append)
    (line,) = (line for line in ledger.read(root, "toy") if line["runs"])
    assert line["spec"]["stacked"] is True and ledger.run_ids(line) == [run["run_id"] for run in line["runs"]]
    assert [run["seed"] for run in line["runs"]] == [*range(COUNT)]

    shutil.rmtree(root / "runs")
    (found,) = survey(declaration, "smoke", root, cell, stack=False)
    assert len(found.left) == COUNT
    carry_out(found.left[0], root, threads=1)
    ledger.publish(declaration, "smoke", root, said.append)
    assert ["not mixed" in text for text in said] == [False, True, False]
    assert [one for one in ledger.read(root, "toy") if one["runs"]] == [line]
