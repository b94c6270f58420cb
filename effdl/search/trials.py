"""The trials of one search: asked of Optuna one by one, carried out by the one executor, told back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from effdl import config
from effdl.config import Spec
from effdl.errors import ConfigError, RecordError
from effdl.records import kept, score
from effdl.records.carry import fingerprint
from effdl.records.execute import Job, Result
from effdl.records.report import DAMAGED, SHOWN
from effdl.records.run import scores
from effdl.records.store import Store
from effdl.search import space as space_of
from effdl.search.setting import Optuna
from effdl.search.storage import held, taken

STATUS, RUN, EPOCHS, REASON = "status", "run_id", "epochs", "reason"  # what a trial is noted with
REFUSED = "refused"  # the status of a trial whose values do not go together
Say = Callable[[str], None]


class Trials:
    """What the executor works off. Processes that share the folder share the trials, each of which is carried out once.

    A trial whose process was killed is told by its lock and goes on, with the values that it had, where its run stopped: a
    search that is cut off anywhere has the trials of one that was left alone, if trials run one by one.

    Args:
        space: distributions by key. fixed: overrides of all trials.
        folder: of the search. root: of the records.
    """

    def __init__(
        self,
        study: Study,
        search: Optuna,
        metric: str,
        space: dict[str, BaseDistribution],
        fixed: Sequence[str],
        folder: Path,
        root: Path,
    ) -> None:
        self.study, self.search, self.metric, self.space, self.fixed = study, search, metric, space, fixed
        self.folder, self.root = folder, root
        self.say: Say = lambda text: None
        self.judged = search.pruner is not None
        self.most = search.most(space)
        self.specs: dict[int, Spec] = {}
        self._trials: dict[int, Trial] = {}
        self._locks: dict[int, int] = {}

    def next(self) -> Job | None:
        while True:
            with held(self.folder / "lock"):
                trial = self._left_behind() or self._new()
                if trial is None:
                    return None
                overrides = self._values(trial)
            try:
                spec = config.build(config.compose([*self.fixed, *overrides]))
            except ConfigError as error:
                self._refused(trial, error)
                continue
            self._trials[trial.number], self.specs[trial.number] = trial, spec
            if not self._seems_hopeless(trial):
                return [(trial.number, spec)]
            self._tell(trial.number, {"status": "stopped"})

    def goes_on(self, key: int, step: int, score: float) -> bool:
        trial = self._trials[key]
        if step not in self._frozen(trial).intermediate_values:
            trial.report(score, step)
        return not trial.should_prune()

    def done(self, key: int, result: Result) -> Result:
        self._tell(key, result)
        return {**result, SHOWN: self._in_words(key, result)}

    def release(self) -> None:
        """Let go of trials that have not ended: another search goes on with them."""
        for lock in self._locks.values():
            os.close(lock)
        self._locks.clear()

    @property
    def left(self) -> int:
        """How many trials have not ended."""
        return self.most - sum(one.state.is_finished() for one in self.study.get_trials(deepcopy=False))

    def _in_words(self, number: int, result: Result) -> str:
        """A trial's score, and what it had; its test numbers are nobody's to look at while values are chosen."""
        score = result.get("summary", {}).get(self.metric)
        told = f"{self.metric} {score:.4g}" if result["status"] == "finished" else f"{result['status']}: {result['reason']}"
        params = self._frozen(self._trials[number]).params
        return f"trial {number}, {' '.join(space_of.shown(params, short=True))}: {told}"

    def _left_behind(self) -> Trial | None:
        """The first trial that this folder began and whose process is gone.

        What else has begun is of another machine, whose own folder has the lock; its storage alone is shared.
        """
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            number = frozen.number
            if number in self._locks or not self._lock(number).exists() or (lock := taken(self._lock(number))) is None:
                continue
            if self.study._storage.get_trial(frozen._trial_id).state != TrialState.RUNNING:  # it ended meanwhile
                os.close(lock)
                continue
            self._locks[number] = lock
            self.study.sampler = self.search.sampler.make(self.space, self.search.seed, number)
            return Trial(self.study, frozen._trial_id)
        return None

    def _new(self) -> Trial | None:
        number = len(self.study.get_trials(deepcopy=False))
        if number >= self.most:
            return None
        trial = self._asked(number)
        if trial.number == number:
            return trial
        self._let_go(number)  # another folder's search had it in the same moment
        self._lock_for(trial.number)
        return Trial(self.study, trial._trial_id)

    def _asked(self, number: int) -> Trial:
        self._lock_for(number)
        return self.study.ask()

    def _lock_for(self, number: int) -> None:
        """Hold the lock of a trial that no other process of this folder has, and take its sampler."""
        lock = taken(self._lock(number))
        assert lock is not None, "the folder is locked, and the trial new"
        self._locks[number] = lock
        self.study.sampler = self.search.sampler.make(self.space, self.search.seed, number)

    def _let_go(self, number: int) -> None:
        os.close(self._locks.pop(number))
        self._lock(number).unlink(missing_ok=True)

    def _values(self, trial: Trial) -> list[str]:
        """The trial's values as overrides."""
        assert trial.relative_params is not None  # those that a sampler draws together, before any by itself
        for place, (name, found) in enumerate(self.space.items()):
            self.study.sampler = self.search.sampler.make(self.space, self.search.seed, trial.number, place)
            space_of.suggest(trial, name, found)
        return space_of.shown(trial.params)

    def _refused(self, trial: Trial, error: ConfigError) -> None:
        """Values that do not go together: a failed trial, and an error where none did yet."""
        self._trials[trial.number] = trial
        self._note(trial, {"status": REFUSED, "reason": str(error)})
        self._close(trial.number, TrialState.FAIL, None)
        known = (one.user_attrs.get(STATUS, REFUSED) for one in self.study.get_trials(deepcopy=False))
        if not self.specs and all(status == REFUSED for status in known):
            raise error
        self.say(f"trial {trial.number}: {error}")

    def _seems_hopeless(self, trial: Trial) -> bool:
        """Whether a trial that another process began was about to be stopped."""
        return self.judged and bool(self._frozen(trial).intermediate_values) and trial.should_prune()

    def _tell(self, number: int, result: Result) -> None:
        """Raises RecordError where a run could not be recorded, since no other could; its trial goes on with the search."""
        trial, status = self._trials[number], result["status"]
        if result.get("exit_code") == RecordError.exit_code:
            raise RecordError(result["reason"])
        curve = [] if kept.METRICS in result.get(DAMAGED, ()) else self._report_rest(trial)  # of another's scores none is told
        passes = result.get("summary", {}).get("data/train_passes", len(curve) + (status in score.FINAL))  # one was begun
        epochs = 0 if self._is_repeated(trial) else passes
        self._note(trial, {**result, EPOCHS: epochs})
        if status == "finished":
            if self.metric not in result["summary"]:
                there = ", ".join(name for name in result["summary"] if name.startswith("val/"))
                raise ConfigError(f"search.metric: runs have no {self.metric}; take one of {there}")
            self._close(number, TrialState.COMPLETE, float(result["summary"][self.metric]))
        elif status in score.FINAL:
            self._close(number, TrialState.COMPLETE, score.worst(self.metric, self.study.direction.name.lower()))
        else:
            self._close(number, TrialState.PRUNED if status == "stopped" else TrialState.FAIL, None)

    def _is_repeated(self, trial: Trial) -> bool:
        """Whether an earlier trial had the same values, so that this one was answered from its record."""
        earlier = self.study.get_trials(deepcopy=False)[: trial.number]
        ended = ("finished", *score.FINAL)
        return any(one.params == trial.params for one in earlier if one.user_attrs.get(STATUS) in ended)

    def _report_rest(self, trial: Trial) -> list[float]:
        """Report what the record knows and the study does not, where processes were killed in between; all scores by epoch."""
        spec = self.specs[trial.number]
        path = self.root / "runs" / config.run_id(spec, fingerprint(spec.dataset)) / "metrics.jsonl"
        curve = scores(Store.lines(path))
        known = self._frozen(trial).intermediate_values
        for step, reached in enumerate(curve if self.judged else []):
            if step not in known:
                trial.report(reached, step)
        return curve

    def _note(self, trial: Trial, result: Result) -> None:
        if (spec := self.specs.get(trial.number)) is not None:
            trial.set_user_attr(RUN, config.run_id(spec, fingerprint(spec.dataset)))
        for name in (STATUS, EPOCHS, REASON):
            if result.get(name) is not None:
                trial.set_user_attr(name, result[name])

    def _close(self, number: int, state: TrialState, value: float | None) -> None:
        self.study.sampler = self.search.sampler.make(self.space, self.search.seed, number)
        try:
            self.study.tell(number, value, state=state)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # a grid's last point stops a loop of Optuna's own; it is told by then
                raise
        self._let_go(number)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)

    def _lock(self, number: int) -> Path:
        return self.folder / "trials" / f"{number}.lock"
