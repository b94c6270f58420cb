"""Jobs of Hydra's other launchers and sweepers: what they leave and give, in this process, by Hydra's basic launcher."""

import json
import math
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, IdxSet, run_here

from effdl import cli, config, jobs
from effdl.errors import ConfigError, EffdlError
from effdl.jobs import Wanted

MAXIMIZE = Wanted(("maximize",))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a data set."""
    IdxSet(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    monkeypatch.setattr(cli, "_results", [])
    monkeypatch.setattr(cli, "_sweeps", [])
    monkeypatch.setattr(cli, "_jobs", [])
    return tmp_path


def swept(capfd: pytest.CaptureFixture[str], *overrides: str, code: int = 0) -> tuple[list[dict[str, Any]], str]:
    """The runs of a sweep by Hydra's basic launcher, and what stood on standard error."""
    assert run_here("-m", *IdxSet.OVERRIDES, "hydra/launcher=basic", *overrides) == code
    told = capfd.readouterr()
    assert told.out.count("\n") == 1, told.err
    return json.loads(told.out)["runs"], told.err


def test_each_job_is_a_run_of_the_executor_and_leaves_its_id(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs, err = swept(capfd, "seed=3,4", "hydra.sweep.dir=sweep")
    assert [(one["seed"], one["status"]) for one in runs] == [(3, "finished"), (4, "finished")]
    left = [json.loads((folder / "sweep" / str(number) / "run.json").read_text()) for number in (0, 1)]
    assert [one["run_id"] for one in left] == [one["run_id"] for one in runs] and left[1]["overrides"][-1] == "seed=4"
    assert {path.name for path in (folder / "results" / "runs").iterdir()} == {one["run_id"] for one in runs}
    assert err.splitlines()[0] == "effdl: jobs by basic; each leaves run.json in its folder in sweep"
    alone = config.run_id(spec := config.build(config.compose([*IdxSet.OVERRIDES, "seed=3"])), spec.dataset.fingerprint())
    assert alone == runs[0]["run_id"]

    kept = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")}
    again, _ = swept(
        capfd, "seed=4,3", "hydra.sweep.dir=sweep"
    )  # from the records; what lay in the folder is not of this sweep
    assert again == runs[::-1]
    fewer, _ = swept(capfd, "seed=3", "hydra.sweep.dir=sweep")
    assert fewer == runs[:1]
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")} == kept


def test_a_job_that_diverges_leaves_the_others_finished(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs, err = swept(capfd, "optimizer.lr=1e30,0.05", "dataset.train_limit=200,8", "dataset.batch_size=8", code=1)
    assert [one["status"] for one in runs] == ["diverged", "error", "finished", "error"]
    assert "training split" in runs[1]["reason"] and "trace" not in runs[1]
    assert f"{runs[0]['name']}: diverged: " in err and "Traceback" not in err
    assert err.splitlines()[-1].endswith("2 of 4 runs did not end; the same command tries them again")


def test_a_mistake_in_any_run_is_said_before_the_first_starts(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    for wrong, told in (
        ("seed=0,-1", "seed: a whole number from 0, not -1"),
        ("method=dll,dlll", "method=dlll: unknown choice"),
    ):
        assert run_here("-m", *IdxSet.OVERRIDES, "hydra/launcher=basic", wrong) == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1) and err.startswith(f"effdl: {told}")
    assert sorted(folder.rglob("*")) == before


def test_jobs_that_left_nothing_are_missing(tmp_path: Path) -> None:
    for number, status in ((2, "finished"), (10, "diverged")):
        place = jobs.Job(tmp_path / f"{number}", number, ("seed=1",), None)
        place.folder.mkdir()
        place.leave({"status": status, "trace": "long", "path": "runs/1"})
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / jobs.RESULT).write_text('{"job": 3, "sta')  # was being written
    found = jobs.gather(tmp_path, {}, ["seed=0", "seed=1", "seed=2"])
    assert [(one.get("name"), one["status"]) for one in found] == [
        ("seed=0", "missing"),
        ("seed=1", "missing"),
        (None, "finished"),
        (None, "diverged"),
    ]
    assert jobs.shown(found[2:]) == [{"status": "finished", "path": "runs/1"}, {"status": "diverged", "path": "runs/1"}]
    assert jobs.gather(tmp_path, jobs.left(tmp_path)) == []


def composed(*overrides: str) -> list[Any]:
    return [config.compose([*IdxSet.OVERRIDES, *one.split()]) for one in overrides]


def test_a_sweeper_that_searches_gets_the_score_that_chooses_and_the_worst_of_what_diverged(folder: Path) -> None:
    vectors = ("dataset=sine", "dataset.samples=300", "objective=linear_mse", "method=backprop")
    for more, wanted, metric, worst in (((), MAXIMIZE, "val/acc", 0.0), (vectors, Wanted(("minimize",)), "val/mse", math.inf)):
        for lr in (0.01, 1e30):  # one by one, which takes no processes
            node = config.compose([*IdxSet.OVERRIDES, *more, f"optimizer.lr={lr}"])
            (score,) = cli.sweep([node], wanted)
            result = cli._results[-1]
            assert result["status"] == ("diverged" if lr > 1 else "finished")
            assert score == (worst if lr > 1 else result["summary"][metric])


def test_a_run_without_an_end_or_that_cannot_be_is_an_error_of_its_own(folder: Path) -> None:
    found = cli.sweep(composed("dataset.train_limit=8 dataset.batch_size=8", "dataset.batch_size=9999"), MAXIMIZE)
    assert isinstance(found[0], EffdlError) and "training split" in str(found[0])
    assert isinstance(found[1], ConfigError) and "dataset.batch_size" in str(found[1])


@pytest.mark.parametrize(
    ("overrides", "directions", "told"),
    [
        ("seed=1", ("minimize",), r"hydra\.sweeper\.direction: minimize, but runs have one score, val/acc; say maximize"),
        ("seed=1", ("maximize", "maximize"), r"hydra\.sweeper\.direction: maximize,maximize, but runs have one score"),
        ("dataset.val_size=0", ("maximize",), r"dataset\.val_size: a search chooses by validation samples"),
    ],
)
def test_a_search_for_the_worst_is_refused_before_anything_runs(
    overrides: str, directions: tuple[str, ...], told: str, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        cli.sweep(composed(overrides), Wanted(directions))
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("hydra/launcher=ray", "hydra/launcher=ray: needs the package hydra-ray-launcher, which is not installed"),
        ("hydra/sweeper=optuna", "hydra/sweeper=optuna: needs the package hydra-optuna-sweeper, which is not installed"),
        ("hydra/launcher=slurm", "hydra/launcher=slurm: unknown choice; there are basic, effdl"),
        ("hydra/launcher=basic search=optuna", "hydra/launcher=basic: a search carries its trials out itself"),
    ],
)
def test_another_launcher_or_sweeper_that_cannot_be_is_said(
    wrong: str, told: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if "optuna-sweeper" in told and find_spec("hydra_plugins.hydra_optuna_sweeper") is not None:
        pytest.skip("it is there, which our own environment has not")
    assert run_here("-m", *IdxSet.OVERRIDES, *wrong.split(), "seed=0,1") == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith(f"effdl: {told}")


SLURM = "hydra/launcher=submitit_slurm: needs a Slurm cluster, whose "


@pytest.mark.parametrize(
    ("there", "told"),
    [((), "sbatch and srun are not in PATH: "), (("srun",), "sbatch is not in PATH: "), (("sbatch", "srun"), "")],
)
def test_slurm_is_missed_before_anything_is_written_and_what_works_without_is_named(
    there: tuple[str, ...], told: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in there:
        (folder / name).write_text("#!/bin/sh\nexit 3\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    if not told:
        jobs.check_launcher("submitit_slurm")
        return
    if find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        pytest.skip("needs hydra-submitit-launcher, which `pip install 'effdl[clusters]'` brings")
    before = sorted(folder.rglob("*"))
    assert run_here("-m", *IdxSet.OVERRIDES, "hydra/launcher=submitit_slurm", "seed=0,1") == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith(f"effdl: {SLURM}{told}")
    assert "hydra/launcher=submitit_local or hydra/launcher=joblib" in err and sorted(folder.rglob("*")) == before


def test_a_missing_package_is_found_at_the_end_of_the_chain() -> None:
    from hydra.errors import InstantiationException

    try:
        try:
            try:
                import no_such_package.part  # type: ignore[import-not-found]  # noqa: F401
            except ImportError as error:
                raise ImportError("Error loading 'optuna.samplers.CmaEsSampler'") from error
        except ImportError as error:
            raise InstantiationException("Error locating target 'x'\nfull_key: hydra.sweeper.sampler") from error
    except InstantiationException as error:
        told = str(config.composition_error(error))
    assert told == "hydra.sweeper.sampler: needs the package no_such_package, which is not installed"


def test_a_key_of_a_part_that_is_varied_goes_with_each_choice_of_it() -> None:
    """Before a sweep Hydra composes what does not vary, with the usual choice."""
    given = ["dataset=parity,parity_thesis", "dataset.k=1", "+dataset.more=[1,2]", "arch.hidden=[8]", "seed=0,1"]
    sent = config.grammar.with_their_groups(given)
    assert sent == [given[0], "dataset.k=choice(1)", "+dataset.more=choice([1,2])", *given[3:]]
    assert config.grammar.with_their_groups(given[1:]) == given[1:]
    one, *_ = (run for run, _ in config.grammar.sweep(sent))
    assert one == ("dataset=parity", "dataset.k=1", "+dataset.more=[1,2]", "arch.hidden=[8]", "seed=0")


def test_a_sweep_over_data_sets_takes_a_key_that_the_usual_one_has_not(tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here("-m", "dataset=parity,parity_thesis", "dataset.k=0", "workers=1") == 2
    assert "dataset.k: Input should be greater than or equal to 1" in capfd.readouterr().err


def test_commands_of_the_page_on_clusters_compose() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)).replace("\\\n", " ").replace("$i", "1")
    commands = re.findall(r"^(?:python run\.py|effdl plan) -m (.*)$", blocks, flags=re.MULTILINE)
    counts = []
    for command in commands:
        overrides = [one for one in shlex.split(command, comments=True) if not one.startswith(cli.OF_HYDRA)]
        runs = config.grammar.sweep(overrides)
        counts.append(len(runs))
        assert all(config.compose(run) for run, _ in runs[:2] + runs[-2:])
    assert counts == [6, 6, 2, 6, 6, 20, 80]
