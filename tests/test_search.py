"""Searches: the space in the override grammar, trials that go on, the best and how it is taken; no test number plays a part."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, run, run_here
from optuna.trial import TrialState
from seeking import LR, SMALL, Quiet, searched, study, trials

from effdl import config
from effdl.errors import ConfigError, RecordError
from effdl.records.carry import carry_out
from effdl.records.score import worst
from effdl.search import space
from effdl.search.search import search
from effdl.search.setting import Cmaes, Grid, Hyperband, Median, Optuna, Random, Tpe

# A search


def test_a_search_ends_with_its_best_trial_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    told = searched(tmp_path, LR, n_trials=4)
    kept = json.loads((Path(told["path"]) / "search.json").read_text())
    assert kept == told and (told["trials"], told["failed"], told["stopped"], told["epochs"]) == (4, 0, 0, 8)
    done = study(told).trials
    values = [one.value for one in done]
    assert told["best"]["value"] == max(values) and told["metric"] == "val/acc"
    best = tmp_path / "runs" / told["best"]["run_id"]
    assert json.loads((best / "summary.json").read_text())["summary"]["val/acc"] == max(values)
    names = {path.name for path in Path(told["path"]).iterdir()}
    assert {"best.yaml", "trials.csv", "history.png", "parallel.png", "search.json"} <= names
    assert not list((Path(told["path"]) / "trials").iterdir()), "no lock stays"

    shown: list[Quiet] = []
    again = searched(tmp_path, LR, n_trials=6, shown=lambda left: shown.append(Quiet(left)) or shown[0])
    assert again["study"] == told["study"] and again["trials"] == 6 and shown[0].left == 2
    assert study(again).trials[:4] == done
    assert all("test" not in result["shown"] and "val/acc" in result["shown"] for result in shown[0].results)
    assert searched(tmp_path, LR, n_trials=6, shown=pytest.fail) == again, "nothing is left to do"
    assert searched(tmp_path / "other", LR, n_trials=6)["best"]["params"] == again["best"]["params"]


def test_the_best_is_taken_by_its_config(tmp_path: Path) -> None:
    told = searched(tmp_path, "method.patience=null,1", LR, n_trials=2, study_name="mine")
    for arguments in (("--config-name=best",), ("+best=mine",), ("+best=mine", "seed=1")):
        done = run(f"--config-dir={told['path']}", *arguments, f"results={tmp_path}", cwd=ROOT)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.splitlines()[-1])
        assert (answer["run_id"] == told["best"]["run_id"]) == (arguments[-1] != "seed=1")


@pytest.mark.parametrize("results", ["results", "a folder/it's mine"])
def test_what_a_search_prints_at_its_end_takes_the_best_where_the_user_stands(
    results: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = f'results="{results}"'
    assert run_here("-m", "search=optuna", "search.n_trials=2", *SMALL, LR, given, "workers=1") == 0
    said = capfd.readouterr()
    told = json.loads(said.out.splitlines()[-1])
    commands = [
        shlex.split(line.partition(":")[2]) for line in said.err.splitlines() if line.startswith(("The best", "or with"))
    ]
    assert [command[:2] for command in commands] == [["python", str(ROOT / "run.py")]] * 2
    for command, again in zip(commands, (True, False), strict=True):
        assert run_here(*command[2:]) == 0
        done = capfd.readouterr()
        assert (json.loads(done.out)["run_id"] == told["best"]["run_id"]) == ("from the record" in done.err) == again
    assert [*Path().iterdir()] == [Path(results.partition("/")[0])]


MINE = """\
defaults: [config, {override /method: backprop}, _self_]
method: {epochs: 2}
dataset: {train_limit: 256}
hydra: {sweeper: {n_trials: 2, params: {optimizer.lr: "interval(0.01,0.1)"}}}
"""


def test_what_a_config_of_the_users_says_is_of_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It was taken for the space alone, and the trials had our defaults."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINE)
    command = ("-m", "--config-dir", ".", "--config-name", "mine", "search=optuna", "arch=mlp", "arch.hidden=[8]", "workers=1")
    for more, epochs in (((), 2), (("method.epochs=1",), 1)):
        assert run_here(*command, *more) == 0
        told = json.loads(capfd.readouterr().out)
        spec = json.loads(Path(told["best"]["path"], "spec.json").read_text())["config"]
        assert told["trials"] == 2 and told["epochs"] == 2 * epochs
        assert (spec["method"]["_target_"], spec["method"]["epochs"]) == ("effdl.methods.backprop.Backprop", epochs)
        assert spec["dataset"]["train_limit"] == 256


def test_run_py_searches(tmp_path: Path) -> None:
    space = ("optimizer.weight_decay=tag(log,interval(1e-6,1e-2))", "optimizer=sgd,adamw")
    settings = ("search=optuna", "search.n_trials=3", "search/sampler=random", "search/pruner=median", "hydra.sweeper.n_jobs=2")
    done = run("-m", *settings, *SMALL, LR, *space, "results=here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["trials"] == 3 and set(told["best"]["params"]) == {"optimizer.lr", "optimizer.weight_decay", "optimizer"}
    assert "trial  val/acc" in done.stderr and "+best=" in done.stderr
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["runs", "searches"]
    assert not any(word in (tmp_path / told["path"] / "best.yaml").read_text() for word in ("search:", "results", "here"))
    fewer = run("-m", *settings, *SMALL, LR, *space, "search.n_trials=2", "workers=1", "results=here", cwd=tmp_path)
    assert json.loads(fewer.stdout.splitlines()[-1]) == told, "the same search, of which nothing is left"


def test_what_is_searched_may_be_a_group_whose_choices_have_keys_of_their_own(tmp_path: Path) -> None:
    more = ("optimizer=sgd,adamw", "optimizer.weight_decay=0.001", "optimizer/schedule=none,multi_step")
    done = searched(tmp_path, "method=dll,backprop", "method.epochs=1", *more, n_trials=3)
    assert done["trials"] == 3 and done["failed"] == 0
    with pytest.raises(ConfigError, match=r"method\.segment_size"):  # which only some choices have: those trials fail
        searched(tmp_path / "other", "method=backprop,dll", "method.segment_size=2", n_trials=3)
    some = searched(tmp_path / "some", "method=dll,backprop", "method.segment_size=2", sampler=Grid())
    assert some["failed"] == 1 and some["best"]["params"] == {"method": "dll"}


def test_a_search_without_any_result_says_why_and_fails(tmp_path: Path) -> None:
    done = run("-m", "search=optuna", "search/sampler=grid", *SMALL, "optimizer.lr=1e29,1e30", cwd=tmp_path)
    told = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, told["best"], told["failed"]) == (1, None, 2)
    assert "no trial came to its end" in done.stderr and "trials.csv" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["search=optuna"], "run.py -m search=..."), (["-m", "hydra/sweeper=effdl_search", LR], "say search=optuna")],
)
def test_a_search_by_half_is_refused(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here(*arguments) == 2 and told in capsys.readouterr().err


def test_a_trial_that_diverges_has_the_worst_score_and_ends_nothing(tmp_path: Path) -> None:
    told = searched(tmp_path, "optimizer.lr=0.05,1e30", sampler=Grid())
    states = {one.params["optimizer.lr"]: (one.state, one.value, one.user_attrs["status"]) for one in study(told).trials}
    assert states["1e+30"] == (TrialState.COMPLETE, 0.0, "diverged") and states["0.05"][2] == "finished"
    assert (told["failed"], told["trials"], told["best"]["params"]) == (1, 2, {"optimizer.lr": "0.05"})
    assert told["epochs"] == 2 + 1, "the epoch in which it diverged was begun"
    assert worst("val/mse", "minimize") == float("inf") and worst("val/loss", "maximize") == -float("inf")


def test_epochs_of_values_that_come_again_are_counted_once(tmp_path: Path) -> None:
    told = searched(tmp_path, "optimizer.lr=0.1,0.2", n_trials=6)
    assert len({one.user_attrs["run_id"] for one in study(told).trials}) == 2 and told["trials"] == 6
    assert told["epochs"] == 2 * 2 and [one.user_attrs["epochs"] for one in study(told).trials].count(0) == 4


@pytest.mark.parametrize("key", ["seed", "results", "workers"])
def test_what_is_no_setting_is_not_searched(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: .*(chance|not searched)"):
        searched(tmp_path, f"{key}=1,2")


def test_squared_errors_are_minimised_where_there_are_no_classes(tmp_path: Path) -> None:
    sine = ("dataset=sine", "dataset.samples=200", "dataset.val_size=50", "objective=linear_mse", "dataset.batch_size=32")
    told = search(Optuna(sampler=Random(), n_trials=3), [*SMALL[:4], "hardware=cpu", *sine, LR], tmp_path, 1, Quiet)
    assert (told["metric"], told["direction"]) == ("val/mse", "minimize")
    assert told["best"]["value"] == min(one.value for one in study(told).trials)


def test_more_failed_trials_than_allowed_fail_the_search_which_is_whole_all_the_same(tmp_path: Path) -> None:
    space = "optimizer.lr=0.1,1e29,1e30"
    for rate, code in ((0.5, 1), (0.7, 0)):
        settings = ("search=optuna", "search/sampler=grid", f"hydra.sweeper.max_failure_rate={rate}")
        done = run("-m", *settings, *SMALL, space, "results=here", cwd=tmp_path)
        told = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode, told["failed"], told["best"]["params"]) == (code, 2, {"optimizer.lr": "0.1"})
        assert ("2 of 3 trials failed, more than hydra.sweeper.max_failure_rate" in done.stderr) == bool(code)


def test_values_that_do_not_go_together_are_a_failed_trial(tmp_path: Path) -> None:
    told = searched(tmp_path, "dataset.batch_size=32,10000,64", sampler=Grid())
    assert (told["trials"], told["failed"]) == (3, 1)
    for _ in range(2):  # the same mistake has the same answer
        with pytest.raises(ConfigError, match="batch_size"):
            searched(tmp_path, "dataset.batch_size=10000,20000,30000", sampler=Grid())


def test_a_full_disk_ends_a_search_and_spends_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(jobs: Any, *_: Any) -> None:
        ((key, _),) = jobs.next()
        jobs.done(key, {"status": "error", "reason": "No space left; free some space", "exit_code": RecordError.exit_code})

    with monkeypatch.context() as patch:
        patch.setattr("effdl.search.search.work_off", full)
        with pytest.raises(RecordError, match="free some space"):
            searched(tmp_path, LR, n_trials=2)
    told = searched(tmp_path, LR, n_trials=2)
    assert (told["trials"], told["failed"]) == (2, 0)
    assert told["best"]["params"] == searched(tmp_path / "other", LR, n_trials=2)["best"]["params"]


def test_a_name_is_of_one_search_alone(tmp_path: Path) -> None:
    searched(tmp_path, LR, n_trials=1, study_name="mine")
    with pytest.raises(ConfigError, match="study_name: mine searched another space"):
        searched(tmp_path, "optimizer.lr=interval(0,1.0)", n_trials=1, study_name="mine")
    with pytest.raises(ConfigError, match="another fixed"):
        searched(tmp_path, LR, "seed=3", n_trials=1, study_name="mine")


@pytest.mark.parametrize(
    ("settings", "arguments", "told"),
    [
        ({}, ["dataset.val_size=0", LR], "chooses by validation samples"),
        ({"metric": "val/nothing"}, [LR], "runs have no val/nothing; take one of val/"),
        ({"storage": "nosuch://x"}, [LR], "search.storage"),
        ({"sampler": Cmaes()}, [LR], "cmaes: needs two ranges"),
        ({}, ["~method.epochs", LR], "none can be taken away"),
        ({}, ["optimizer.lr=tag(log,interval(1e-3"], "optimizer.lr=tag"),
    ],
)
def test_a_search_that_cannot_be_is_refused(settings: dict[str, Any], arguments: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        searched(tmp_path, *arguments, **{"n_trials": 1, **settings})


def test_test_numbers_may_not_choose() -> None:
    with pytest.raises(ValueError, match="may choose nothing"):
        Optuna(sampler=Random(), metric="test/acc")


SHUFFLED = """
import torch
from effdl.datasets.digits import Digits
from effdl.datasets.split import Samples
from effdl.setting import setting

@setting
class Shuffled(Digits):
    def load(self):
        train, test = super().load()
        return train, Samples(test.x, test.y[torch.randperm(len(test.y), generator=torch.Generator().manual_seed(0))])
"""


def test_no_trial_depends_on_test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "dataset").mkdir(parents=True)
    digits = (
        (config.CONFIGS / "dataset" / "digits.yaml").read_text().replace("effdl.datasets.digits.Digits", "shuffled.Shuffled")
    )
    (tmp_path / "configs" / "dataset" / "shuffled.yaml").write_text(digits)
    (tmp_path / "shuffled.py").write_text(SHUFFLED)
    monkeypatch.setenv("EFFDL_PLUGINS", str(tmp_path))
    settings: dict[str, Any] = {"sampler": Tpe(n_startup_trials=2), "pruner": Median(n_startup_trials=1), "n_trials": 5}
    true = searched(tmp_path / "true", LR, "dataset=digits", **settings)
    shuffled = searched(tmp_path / "shuffled", LR, "dataset=shuffled", **settings)
    assert trials(true) == trials(shuffled)

    def tested(told: dict[str, Any]) -> float:
        return json.loads(Path(told["best"]["path"], "summary.json").read_text())["summary"]["test/acc"]

    assert tested(shuffled) < 0.3 < tested(true)


def test_scores_of_a_damaged_record_are_told_to_no_search(tmp_path: Path) -> None:
    def again() -> tuple[list[int], list[float]]:
        told = searched(tmp_path, "optimizer.lr=0.1,0.01", sampler=Grid(), pruner=Median(n_startup_trials=9))
        found = study(told).trials
        shutil.rmtree(told["path"])
        return [len(one.intermediate_values) for one in found], [one.value for one in found]

    first, values = again()
    assert first == [2, 2] and again() == (first, values)
    damaged = min(tmp_path.glob("runs/*/metrics.jsonl"))
    damaged.write_text(damaged.read_text().replace('"val/acc": 0.', '"val/acc": 0.9'))
    second, same = again()
    assert sorted(second) == [0, 2] and same == values


# Trials that are cut off


def test_a_run_that_a_search_stopped_goes_on_by_itself_to_what_it_would_have_been(tmp_path: Path) -> None:
    told = searched(
        tmp_path,
        "optimizer.lr=0.3,0.2,0.1,1e-3,1e-4,1e-5",
        "method.epochs=3",
        sampler=Grid(),
        pruner=Median(n_startup_trials=0),
    )
    stopped = [one for one in study(told).trials if one.state == TrialState.PRUNED]
    assert max(one.last_step for one in stopped) < 2, "after the last epoch nothing is left to spare"
    assert all(len(one.intermediate_values) == 3 for one in study(told).trials if one.state == TrialState.COMPLETE)
    assert stopped and told["stopped"] == len(stopped) and told["epochs"] < 18
    (first, *_) = stopped
    assert not (tmp_path / "runs" / first.user_attrs["run_id"] / "summary.json").exists()
    spec = config.build(config.compose([*SMALL, "method.epochs=3", *space.shown(first.params)]))
    alone, resumed = carry_out(spec, tmp_path / "alone"), carry_out(spec, tmp_path)
    assert resumed["run_id"] == first.user_attrs["run_id"] == alone["run_id"]
    assert resumed["summary"]["network/sha256"] == alone["summary"]["network/sha256"]
    assert resumed["summary"]["data/train_passes"] == 3


def test_pruners_and_samplers_are_optunas() -> None:
    made: dict[str, Callable[[], Any]] = {"MedianPruner": Median().make, "HyperbandPruner": Hyperband().make}
    found = space.read(["a=range(1,3)", "b=range(1,3)"])[0]
    made |= {f"{name}Sampler": (lambda one=one: one.make(found, 0, 0)) for name, one in SAMPLERS.items()}
    assert {name: type(make()).__name__ for name, make in made.items()} == {name: name for name in made}


SAMPLERS: dict[str, Any] = {"TPE": Tpe(), "Random": Random(), "CmaEs": Cmaes(), "Grid": Grid()}
