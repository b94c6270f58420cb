"""Trials of several processes and machines: each is done once, and one that was cut off is as if it had not been."""

import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from seeking import LR, searched, study, trials

from effdl.search import space
from effdl.search.setting import Cmaes, Grid, Random, Tpe
from effdl.search.storage import taken
from effdl.search.trials import Trials


@pytest.mark.parametrize("sampler", [Random(), Tpe(n_startup_trials=1), Cmaes(), Grid()])
@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_trial_cut_off_while_it_was_asked_for_has_the_values_that_it_would_have_had(
    sampler: Any, known: int, tmp_path: Path
) -> None:
    """So many of its values were stored when its process was killed."""
    arguments = ["arch.hidden=[8],[16]", "optimizer.lr=range(0.1,0.5,0.1)", "optimizer.momentum=range(0.0,0.9,0.3)"]
    settings: dict[str, Any] = {"sampler": sampler, "n_trials": 3}
    whole = searched(tmp_path / "whole", *arguments, **settings)
    cut = searched(tmp_path / "cut", *arguments, **{**settings, "n_trials": 2})
    here, found = study(cut), space.read(arguments)[0]
    here.sampler = sampler.make(found, 0, 2)
    Path(cut["path"], "trials", "2.lock").touch()
    trial = here.ask()
    assert trial.relative_params is not None
    for place, (name, one) in enumerate(list(found.items())[:known]):
        here.sampler = sampler.make(found, 0, 2, place)
        space.suggest(trial, name, one)
    assert trials(searched(tmp_path / "cut", *arguments, **settings)) == trials(whole)


def test_a_trial_of_a_process_that_lives_is_left_to_it(tmp_path: Path) -> None:
    told = searched(tmp_path, LR, n_trials=1)
    study(told).ask()
    lock = taken(Path(told["path"]) / "trials" / "1.lock")
    assert lock is not None
    done = searched(tmp_path, LR, n_trials=3)
    assert [one.state.name for one in study(done).trials] == ["COMPLETE", "RUNNING", "COMPLETE"]
    os.close(lock)
    assert [one.state.name for one in study(searched(tmp_path, LR, n_trials=3)).trials] == ["COMPLETE"] * 3


def test_two_folders_may_share_a_storage_and_leave_each_others_trials_alone(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"storage": f"sqlite:///{tmp_path / 'trials.db'}", "study_name": "shared"}
    here, there = tmp_path / "here", tmp_path / "there"
    searched(here, LR, n_trials=1, **settings)
    shared = optuna.load_study(study_name="shared", storage=settings["storage"])
    shared.ask()  # as the other machine's, which works on it; what it began is not told by a lock that is here
    lock = there / "searches" / "shared" / "trials" / "1.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    told = searched(here, LR, n_trials=3, **settings)
    assert [one.state.name for one in shared.trials] == ["COMPLETE", "RUNNING", "COMPLETE"] and told["left"] == 1
    told = searched(there, LR, n_trials=3, **settings)
    assert [one.state.name for one in shared.trials] == ["COMPLETE"] * 3 and told["left"] == 0
    alone = searched(tmp_path / "alone", LR, n_trials=3)
    assert [one.params for one in shared.trials] == [one.params for one in study(alone).trials]


@pytest.mark.parametrize("sampler", [Random(), Tpe(n_startup_trials=1), Grid()])
def test_a_number_that_another_machine_took_in_the_same_moment_is_left_to_it(
    sampler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["optimizer.lr=range(0.1,0.5,0.1)", "optimizer.momentum=range(0.0,0.9,0.3)"]
    settings: dict[str, Any] = {"sampler": sampler, "storage": f"sqlite:///{tmp_path / 'trials.db'}", "study_name": "shared"}
    searched(tmp_path / "here", *arguments, n_trials=1, **settings)
    asked, found = Trials._asked, space.read(arguments)[0]

    def after_another(self: Trials, number: int) -> Any:
        if number == 1:
            self.study.sampler = sampler.make(found, 0, 1)
            self.study.ask()
        return asked(self, number)

    monkeypatch.setattr(Trials, "_asked", after_another)
    searched(tmp_path / "here", *arguments, n_trials=3, **settings)
    shared = optuna.load_study(study_name="shared", storage=settings["storage"])
    assert [one.state.name for one in shared.trials] == ["COMPLETE", "RUNNING", "COMPLETE"]
    assert sorted(path.name for path in Path(tmp_path, "here/searches/shared/trials").iterdir()) == []


def test_a_journal_that_lost_the_end_of_a_line_goes_on(tmp_path: Path) -> None:
    told = searched(tmp_path, LR, n_trials=2)
    journal = Path(told["path"]) / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"half a l')
    assert searched(tmp_path, LR, n_trials=3)["trials"] == 3
