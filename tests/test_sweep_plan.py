"""`effdl plan -m` lists the runs that `run.py -m` of the same overrides would carry out, and carries out none."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command import run_here
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from effdl import commands, config
from effdl.errors import ConfigError
from effdl.records import plan as plans

RUN = ("arch=mlp", "arch.hidden=[8,8]", "dataset.train_limit=256", "dataset.batch_size=64", "hardware=cpu", "method.epochs=2")


def plan(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[int, str, str]:
    """The command in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        commands.main(["plan", "--results", str(root), "-m", *RUN, *arguments])
    told = capsys.readouterr()
    return int(stopped.value.code or 0), told.out, told.err


def planned(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> dict[str, Any]:
    code, out, err = plan(capsys, root, *arguments, "--json")
    assert code == 0 and out.count("\n") == 1, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (["a=1"], [["a=1"]]),
        (
            ["a=1,2", "b=3", "c=x,y"],
            [["a=1", "b=3", "c=x"], ["a=1", "b=3", "c=y"], ["a=2", "b=3", "c=x"], ["a=2", "b=3", "c=y"]],
        ),
        (["a=range(1,4)"], [["a=1"], ["a=2"], ["a=3"]]),
        (["a=choice([1,2],[3])"], [["a=[1,2]"], ["a=[3]"]]),
        (["a=1", "a=2,3"], [["a=2"], ["a=3"]]),
        (["probe=glob([a*,n*])"], [["probe=alignment"], ["probe=nearest"], ["probe=none"]]),
        (["filter=glob(r*)", "~b"], [["filter=random_subset", "~b"]]),
        (["a='x y',true,null"], [["a='x y'"], ["a=True"], ["a=null"]]),
    ],
)
def test_runs_of_a_sweep_are_those_of_hydras_basic_sweeper(arguments: list[str], runs: list[list[str]]) -> None:
    assert [list(run) for run, _ in config.grammar.sweep(arguments)] == runs
    if not any("glob" in one for one in arguments):  # for which Hydra looks into the folders of a running application
        ((*batch,),) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(arguments), None)
        assert batch == runs


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("a=interval(0,1)", "a: an interval is searched, which search=optuna does; a sweep takes a,b,c or range"),
        ("seed=glob(*)", r"seed: glob\(\.\.\.\) is of a group's choices; a sweep takes a,b,c or range"),
        (
            "probe=glob(x*)",
            r"probe: no choice is like that; there are alignment, bit_rate, by_region, discriminative_intervals",
        ),
    ],
)
def test_what_cannot_be_swept_is_said(argument: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.grammar.sweep([argument])


def test_each_run_has_its_cost_and_its_record_and_nothing_is_started(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = tmp_path / "results"
    sweep = ("method=dll,backprop", "seed=0,1")
    first = planned(capsys, root, *sweep)
    assert not root.exists() and first["left"] == 4 and [one["record"] for one in first["runs"]] == [None] * 4
    assert [one["overrides"] for one in first["runs"]] == [
        [*RUN, f"method={method}", f"seed={seed}"] for method in ("dll", "backprop") for seed in (0, 1)
    ]
    assert [one["epochs"] for one in first["runs"]] == [4, 4, 2, 2] and first["epochs"] == 12  # two layers of two epochs each

    assert run_here("-m", *RUN, *sweep, f"results={root}", "workers=1") == 0
    carried_out = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert [one["run_id"] for one in carried_out] == [one["run_id"] for one in first["runs"]]
    counted = ("memory/accounted_peak_bytes", "memory/resident_peak_bytes")
    for ran, told in zip(carried_out, first["runs"], strict=True):
        assert {key: told[key] for key in counted} == {key: ran["summary"][key] for key in counted}

    more = planned(capsys, root, "method=dll,backprop", "seed=0,1,2")
    assert [one["record"] for one in more["runs"]] == ["finished", "finished", None] * 2
    assert more["left"] == 2 and more["epochs"] == 6
    of = {one["run_id"]: one["time/estimate_s"] for one in more["runs"] if one["record"] is None}
    assert 0 < more["time/estimate_s"] <= sum(of.values())

    code, out, err = plan(capsys, root, "method=dll,backprop", "seed=0,1,2", "workers=1")
    lines = out.splitlines()
    assert code == 0 and err.count("\n") == 1, err
    assert lines[0].split() == ["run", "id", "epochs", "time", "step", "resident", "record"]
    number = r"[0-9.]+ [KM]iB"
    assert re.fullmatch(
        rf"method=dll seed=0 +{first['runs'][0]['run_id']} +4 +[0-9.]+ s +{number} +{number}  finished", lines[1]
    )
    assert re.fullmatch(rf"method=backprop seed=2 +[0-9a-f]{{16}} +2 +[0-9.]+ s +{number} +{number}", lines[6])
    assert re.fullmatch(
        r"2 runs left of 6, 6 epochs: about [0-9.]+ s with 1 process on this machine\. Nothing was started\.", lines[-1]
    )


def test_a_plan_says_that_it_knows_nothing_of_what_probes_take(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for seeds, probe, ending in (
        ("seed=0,1", "probe=weight_entropy", " on this machine, without probes. Nothing was started."),
        ("seed=0,1", "probe=none", " on this machine. Nothing was started."),
    ):
        code, out, _ = plan(capsys, tmp_path, seeds, probe, "workers=1")
        assert code == 0 and out.splitlines()[-1].endswith(ending)
    with pytest.raises(SystemExit) as stopped:
        commands.main(["plan", "--time", *RUN, "probe=[weight_entropy,stable_rank]"])
    told = capsys.readouterr().out.splitlines()[-1]
    assert not stopped.value.code and told.endswith(" on this machine, without its probes (stable_rank, weight_entropy).")


def test_runs_that_differ_by_their_seeds_are_planned_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, cost = [], plans.cost
    monkeypatch.setattr(plans, "cost", lambda spec, *given, **named: asked.append(spec) or cost(spec, *given, **named))
    found = planned(capsys, tmp_path, "seed=range(0,40)", "optimizer.lr=0.1,0.2")
    assert len(found["runs"]) == 80 and len(asked) == 2


def test_equal_runs_count_once_as_they_run_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = planned(capsys, tmp_path, "method=dll,segmentwise", "method.epochs=2")
    assert len({one["run_id"] for one in found["runs"]}) == 1 and (found["left"], found["epochs"]) == (1, 4)
    assert found["time/estimate_s"] == found["runs"][0]["time/estimate_s"]


def test_a_begun_run_and_one_that_diverged_are_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = planned(capsys, tmp_path, "optimizer.lr=0.1,1e30", "method=backprop")["runs"]
    begun = tmp_path / "runs" / runs[0]["run_id"]
    begun.mkdir(parents=True)
    (begun / "spec.json").write_text('{"config": {}}')
    run_here(*RUN, "optimizer.lr=1e30", "method=backprop", f"results={tmp_path}")
    capsys.readouterr()
    found = planned(capsys, tmp_path, "optimizer.lr=0.1,1e30", "method=backprop")
    assert [one["record"] for one in found["runs"]] == ["begun", "diverged"] and found["left"] == 1
    assert found["runs"][0]["time/estimate_s"] > 0 and found["runs"][1]["time/estimate_s"] is None, "no run of it is left"


def test_what_no_plan_tells_is_left_open(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A closed form, of which only a run tells; seconds on a GPU, which no machine without one can measure."""
    closed = [one for one in RUN if not one.startswith("method.")]
    with pytest.raises(SystemExit):
        commands.main(["plan", "--results", str(tmp_path), "-m", *closed, "method=elm", "objective=linear_mse", "seed=0,1"])
    out = capsys.readouterr().out
    assert "2 runs left of 2; what they take shows once some have run. Nothing was started." in out
    (run,) = planned(capsys, tmp_path, "hardware=gpu", "hardware.layout=contiguous")["runs"]
    assert run["memory/accounted_peak_bytes"] > 0 and run["time/estimate_s"] is None


def test_a_search_says_how_many_epochs_it_would_try(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    search = ("search=optuna", "search.n_trials=30", "optimizer.lr=tag(log,interval(1e-3,1))", "method=dll", "workers=2")
    found = planned(capsys, tmp_path, *search)
    assert {**found, "time/estimate_s": 0} == {"trials": 30, "epochs": 120, "time/estimate_s": 0}
    code, out, _ = plan(capsys, tmp_path, *search)
    assert code == 0 and re.fullmatch(
        r"30 trials of 4 epochs, 120 in all: at most about [0-9.]+ (s|min) with 2 processes on this machine\. "
        r"Nothing was started\.\n",
        out,
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "trials"),
    [
        (("search.n_trials=7",), 7),
        (("hydra.sweeper.n_trials=5", "search.n_trials=7"), 5),
        (("+hydra.sweeper.params={optimizer.lr: '0.1,0.2,0.3'}", "+hydra.sweeper.sampler={_target_: GridSampler}"), 3),
    ],
)
def test_trials_are_counted_as_they_are_asked_for(
    said: tuple[str, ...], trials: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = planned(capsys, tmp_path, "search=optuna", "optimizer.weight_decay=0.1,0.2", *said)
    assert found["trials"] == (trials if trials > 3 else 2 * trials)


WRONG = {
    "no such setting of a search": (
        ("search=optuna", "hydra.sweeper.trials=5", "optimizer.lr=interval(0,1)"),
        "hydra.sweeper.trials: unknown key; ",
    ),
    "a wrong key": (("method.nothing=1,2",), "method.nothing: unknown key; there are "),
    "a wrong choice": (("method=dll,dlll",), "method=dlll: unknown choice; there are "),
    "a wrong value in the second run": (("seed=0,-1",), "seed: a whole number from 0, not -1"),
    "nothing searched": (("search=optuna",), "search: nothing is searched; say what"),
}


@pytest.mark.parametrize(("arguments", "told"), WRONG.values(), ids=WRONG)
def test_mistakes_are_answered_in_one_line(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = plan(capsys, tmp_path, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"effdl: {told}")


def test_m_goes_anywhere_but_not_with_an_artefact(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in ([*RUN, "-m", "seed=0,1"], [*RUN, "seed=0,1", "--multirun"]):
        with pytest.raises(SystemExit) as stopped:
            commands.main(["plan", *arguments, "--results", str(tmp_path)])
        assert stopped.value.code == 0 and "2 runs left of 2" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        commands.main(["plan", "table-6.1", "-m"])
    assert stopped.value.code == 2 and "effdl: -m: belongs to overrides" in capsys.readouterr().err
