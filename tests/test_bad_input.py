"""Bad input as a user meets it: one clear line from `python run.py`, an exit code, and nothing left behind."""

import fcntl
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from command import HOW_FAR, IdxSet, answer, files, finish, flipped, kill, numbers, run, run_here, start, wait_for

from effdl.records.carry import fingerprint

IMAGES, LABELS, TEST_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
TINY = IdxSet.OVERRIDES
LONG = (*TINY, "method.epochs=150")
Damage = Callable[[IdxSet], object]
Row = tuple[tuple[str, ...], int, tuple[str, ...]]


def config(overrides: str, *words: str) -> Row:
    return tuple(overrides.split()), 2, words


def data(damage: Damage, *words: str, more: str = "") -> tuple[Damage, Row]:
    return damage, ((*TINY, *more.split()), 3, words)


def magic(s: IdxSet) -> None:
    s.rewrite(IMAGES, lambda content: struct.pack(">I", 0x802) + content[4:])


# In a process of its own: one row at least for each exit code, for data that cannot be read, and for a sweep.
ROWS: dict[str, Row] = {
    "unknown choice": config("arch=cnn7", "arch=cnn7", "cnn4", "vgg13_bn"),
    "sweep with a bad value": config("-m method.epochs=1,0", "method.epochs:", "0"),
    "data set not there": (("dataset=mnist",), 3, ("MNIST", "data", "EFFDL_DATA", "download")),
    "no GPU": ((*TINY, "hardware=gpu"), 5, ("hardware.device=cuda", "hardware=cpu")),
    "results below a file": (("results=a_file/results",), 4, ("a_file", "Not a directory", "results")),
}
DATA_ROWS = {
    "wrong checksum": data(lambda s: s.compress(IMAGES, lambda content: flipped(content, -6)), f"{IMAGES}.gz", "CRC"),
}
# All others, in this process.
MORE: dict[str, Row] = {
    "unknown key": config("method.epoch=3", "method.epoch:", "epochs", "segment_size"),
    "wrong type": config("method.epochs=many", "method.epochs:", "integer", "many"),
    "out of range": config("optimizer.momentum=1.5", "optimizer.momentum:", "less than 1", "1.5"),
    "impossible pair": config("dataset=sine arch=mlp", "objective:", "linear_mse"),
    "batch larger than the data": config("dataset.batch_size=1300", "dataset.batch_size:", "1300", "1200"),
    "image too small": config("arch.widths=[4,4,4,4]", "arch.size", "8 pixels", "arch.size=16"),
    "unknown nested choice": config("method/decision=poll", "method/decision=poll", "down_conv", "vgg"),
    "network that no library has": config("arch=library arch.name=resnet19", "arch.name:", "resnet19", "resnet18"),
    "cut that is not there": config("arch=library arch.name=resnet18 arch.cuts=[layer9]", "arch.cuts:", "layer9", "layer4"),
    "images it does not take": config("arch=library arch.name=vit_b_32 arch.size=48", "arch.size:", "48×48", "arch.size=64"),
    "unknown root key": config("sede=3", "sede:", "seed", "test_every"),
    "unknown group": config("model=cnn4", "model:", "arch"),
    "unknown group with a slash": config("model/head=cnn4", "model/head:", "method/decision"),
    "key of another choice": config("method=backprop method.lr_factor=0.8", "method.lr_factor:", "epochs", "checkpoint"),
    "added key": config("+method.lrfactor=0.8", "method.lrfactor:", "lr_factor"),
    "unknown option": config("--epochs 3", "--epochs", "key=value"),
    "option at the end": config("-m seed=0,1 -cn", "-cn: needs a value"),
    "option before another": config("-cn -m seed=0,1", "-cn: needs a value"),
    "option behind overrides": config("seed=0,1 -m method.epoch=3", "method.epoch:", "epochs"),
    "no value": config("method.epochs", "method.epochs"),
    "unclosed list": config("method.epochs=[1", "method.epochs=[1"),
    "group set to null": config("optimizer=null", "optimizer=null"),
    "missing environment variable": config("+dataset.root=${oc.env:EFFDL_NOT_SET}", "dataset", "EFFDL_NOT_SET"),
    "true is no number": config("dataset.batch_size=true", "dataset.batch_size:", "integer", "True"),
    "list too long": config("method.epochs=[1,2,3,4,5]", "method.epochs", "5 segments", "3"),
    "not finite": config("optimizer.lr=nan", "optimizer.lr:", "finite"),
    "workers": config("workers=0", "workers:", "from 1"),
    "seed": config("seed=-1", "seed:", "from 0"),
    "test_every": config("test_every=step", "test_every:", "epoch, segment, run"),
    "not a class of the group": config("method._target_=effdl.archs.mlp.Mlp", "method._target_", "Method"),
    "class that is not there": config("method._target_=effdl.Nothing", "method._target_", "effdl.Nothing"),
    "nesterov without momentum": config("optimizer.nesterov=true optimizer.momentum=0", "optimizer.nesterov", "momentum"),
    "targets out of reach": config("dataset=sine arch=mlp objective=sigmoid_bce", "objective:", "[0, 1]", "[-1, 1]", "tanh"),
    "preset that needs an optimizer": config("method=dll_regularized optimizer=none", "optimizer/schedule", "optimizer=none"),
    "images from vectors": config("dataset=sine objective=linear_mse", "arch:", "arch=mlp"),
    "method without optimizer": config("optimizer=none", "optimizer:", "sgd"),
    "nothing left to train on": config("dataset.val_size=1442", "dataset.val_size:", "1442"),
    "results without a name": config("results=null", "results:", "folder"),
    "results that no folder can be": (("results=/proc/effdl",), 4, ("/proc/effdl", "results")),
    "results that are a file": (("results=a_file",), 4, ("a_file", "results")),
    "sweep without -m": config("method=dll,backprop", "method=dll,backprop", "-m"),
    "sweep with an unknown choice": config("-m method=dll,dlll", "method=dlll", "backprop"),
    "sweep with an unknown key": config("-m seed=0,1 method.epoch=3", "method.epoch:", "epochs"),
    "sweep over Hydra itself": config("-m hydra.job.name=a,b", "hydra.job.name"),
    "sweep over what glob cannot find": config("-m seed=glob(*)", "-m:", "glob", "a,b,c"),
    "resolve without a config to print": config("--resolve", "--resolve:", "--cfg job"),
    "unknown config": config("-cn foo", "--config-name foo:", "--config-dir"),
    "config by a path that is not there": config(
        "--config-name some/path/best.yaml", "there is no some/path/best.yaml", "--config-dir some/path --config-name best"
    ),
    "config by its path": config("-cn data/mine", "without its folder", "--config-dir data --config-name mine"),
    "config's file for its folder": config("-cd data/mine.yaml", "say --config-dir data --config-name mine"),
    "config that is not in the folder": config(
        "--config-dir data --config-name other", "other: there is no such config in data"
    ),
    "folder of configs that is not there": config("-m -cd nowhere seed=0,1", "--config-dir nowhere: there is no such folder"),
    "best of a search that is not there": config(
        "+best=mine", "+best=mine:", "--config-dir results/searches/mine +best=mine", "results/searches has no search"
    ),
    "best of a search without its folder": config(
        "-m +best=found seed=0,1 results=data", "say --config-dir data/searches/found +best=found"
    ),
    "best of a search in another folder": config(
        "--config-dir data +best=mine results=data", "the searches in data/searches are found"
    ),
    "best of a search without a plus": config("--config-dir data/searches/found best=found", "with a plus: +best=found"),
    "option of another command": config("--again seed=1", "--again:", "effdl run --again seed=1"),
    "option in the place of a value": config("--workers 3", "--workers:", "workers=<number>"),
    "space without -m": config("optimizer.lr=tag(log,interval(1e-4,1))", "optimizer.lr:", "-m search=optuna"),
    "space without a search": config("-m optimizer.lr=interval(1e-4,1)", "optimizer.lr: interval(1e-4,1)", "-m search=optuna"),
    "choices without -m": config("optimizer.lr=choice(1,2)", "optimizer.lr: choice(1,2)", "with -m", "-m search=optuna"),
    "steps without -m": config("method.epochs=range(1,4)", "method.epochs:", "with -m", "-m search=optuna"),
    "pattern without -m": config("method=glob(d*)", "method:", "with -m", "-m search=optuna"),
    "config that is a choice": config("--config-name dataset/mnist", "is a choice of dataset; say dataset=mnist"),
    "what effdl notes": config("chosen=", "chosen=: chosen is no key of a config"),
    "a package and no config": config("-p method arch._target_=", "arch._target_: '' names no module"),
    "no choice, with a plus": config("-m +arch=null", "+arch=null: arch takes a choice by its name; there are cnn10, cnn4"),
    "number for a choice": config("-m arch=1", "arch=1: arch takes a choice by its name; there are cnn10, cnn4"),
    "artefact": config("table-6.1", "table-6.1: values are given as key=value; effdl run table-6.1"),
    "space of no search": config("-m hydra.sweeper.params={seed:1}", "hydra.sweeper.params: is the space of a search"),
    "value of no search": config("-m search=optuna hydra.sweeper.trials=3", "hydra.sweeper.trials: unknown key", "--cfg hydra"),
    "option without its value": config("--cfg", "--cfg:", "job, hydra, all"),
    "option with another value": config("-i everything", "-i:", "defaults-tree"),
    "abstract class": config(
        "~method +method={_target_:effdl.methods.method.Method}", "method._target_:", "lacks network", "dll"
    ),
    "abstract class over the default": config("+method={_target_:effdl.methods.method.Method}", "method._target_:", "dll"),
    "class without a module": config(
        "method._target_=nothing", "method._target_:", "'nothing'", "effdl.methods.backprop.Backprop"
    ),
    "choice of nothing": config("method={}", "method={}:", "by its name", "platonic"),
    "nested choice of nothing": config("method.decision={}", "method.decision={}:", "by its name", "down_conv"),
    "sweep with a choice of nothing": config("-m method={} seed=0,1", "method={}:", "by its name"),
    "value taken from a preset": config("~method.epochs", "~method.epochs:", "set method.epochs"),
    "unclosed quote": config("method.epochs='1", "method.epochs='1:", "quote", "not closed"),
    "unclosed call": config("-m seed=range(3", "seed=range(3:", "bracket", "not closed"),
    "colon for an equals sign": config("method.epochs:3", "method.epochs:3:", "key=value"),
    "two equals signs": config("dataset.root=a=b", "dataset.root=a=b:", "\"dataset.root='a=b'\""),
    "a sign that means something": config("dataset.root=!x", "dataset.root=!x:", "in quotes", "\"dataset.root='!x'\""),
    "no key": config("=3", "=3:", "key=value"),
    "half of a name with a blank": config("dataset.root=my images", "images:", "key=value"),
    "sweep below a file": (("-m", "seed=0,1", "results=a_file/results"), 4, ("a_file", "Not a directory", "results")),
}
MORE_DATA = {
    "truncated file": data(lambda s: s.rewrite(IMAGES, lambda content: content[:-5]), IMAGES, "truncated"),
    "wrong magic number": data(magic, IMAGES, "0x00000802", "0x00000803"),
    "label out of range": data(lambda s: s.relabel(LABELS, 3, 10), "label 10", "0..9"),
    "class missing": data(lambda s: s.relabel(TEST_LABELS, 7, 8), "class 7", "test split"),
    "truncated header": data(lambda s: s.rewrite(LABELS, lambda content: content[:6]), LABELS, "truncated"),
    "truncated gzip": data(lambda s: s.compress(IMAGES, lambda c: c[:-20]), f"{IMAGES}.gz", "cannot be read"),
    "no gzip": data(lambda s: s.compress(LABELS, lambda c: b"<html>not found</html>"), f"{LABELS}.gz", "cannot be read"),
    "fewer labels": data(lambda s: s.write(LABELS, s.labels(LABELS)[:-1]), "400 training images", "399 labels"),
    "class missing from training": data(
        lambda s: None, "class", "training split", "dataset.train_limit=10", more="dataset.train_limit=8 dataset.batch_size=8"
    ),
    "class missing from validation": data(
        lambda s: None, "class", "validation split", "dataset.val_size=10", more="dataset.val_size=5"
    ),
    "class missing by a plain draw": data(
        lambda s: None, "class", "training split", "dataset.stratify=true", more="dataset.train_limit=20 dataset.stratify=false"
    ),
    "class without samples": data(lambda s: s.relabel(LABELS, 7, 8), "class 7", "training split", "fetch or write it again"),
}


def check(code: int, out: str, err: str, row: Row) -> None:
    """The exit code, one line on standard error with all the words in it, nothing on standard output."""
    _, expected, words = row
    assert code == expected, err
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("effdl: "), err
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert out == ""


def prepare(name: str, rows: dict[str, Row], data_rows: dict[str, tuple[Damage, Row]], folder: Path) -> tuple[Row, set[str]]:
    """The row and what is in the folder before."""
    (folder / "a_file").write_text("not a folder")
    for path in (folder / "data" / "mine.yaml", folder / "data" / "searches" / "found" / "best" / "found.yaml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("defaults: [config]")
    damage, row = data_rows[name] if name in data_rows else ((lambda s: None), rows[name])
    if name != "data set not there":
        damage(IdxSet(folder))
    return row, files(folder)


def without_cost(stderr: str) -> str:
    """What a run says of its cost and where it is, is no error."""
    return "".join(line for line in stderr.splitlines(True) if line.startswith("effdl: "))


@pytest.mark.parametrize("name", [*ROWS, *DATA_ROWS])
def test_bad_input_gets_one_line_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    row, before = prepare(name, ROWS, DATA_ROWS, tmp_path)
    done = run(*row[0], cwd=tmp_path)
    check(done.returncode, done.stdout, done.stderr, row)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", [*MORE, *MORE_DATA])
def test_variants_of_bad_input_get_one_line_too(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    row, before = prepare(name, MORE, MORE_DATA, tmp_path)
    fingerprint.cache_clear()  # of another test's files under the same name, which these are for the next
    request.addfinalizer(fingerprint.cache_clear)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    code = run_here(*row[0])
    check(code, *capfd.readouterr(), row)
    assert files(tmp_path) == before


OUT_OF_MEMORY = ("out of memory", "dataset.batch_size", "method=dll", "method.checkpoint=block")


@pytest.mark.parametrize(
    ("limit", "overrides", "code", "words"),
    [
        (("FSIZE", "100"), (), 4, ("File too large", "free some space")),
        (("FSIZE", "5000"), ("arch.hidden=[100]",), 4, ("checkpoint", "File too large", "free some space")),
        (("AS", "200000000"), ("arch.hidden=[8000,8000]",), 5, OUT_OF_MEMORY),
        (("AS", "200000000"), ("arch=cnn4", "arch.widths=[16000]", "dataset.batch_size=300"), 5, OUT_OF_MEMORY),
    ],
    ids=["disk full at once", "disk full at a checkpoint", "no memory for weights", "no memory for activations"],
)
def test_running_out_gets_one_line_and_leaves_nothing_behind(
    limit: tuple[str, str], overrides: tuple[str, ...], code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    IdxSet(tmp_path)
    before = files(tmp_path)
    overrides = (*(o for o in TINY if not (o.startswith("arch") and "arch=cnn4" in overrides)), *overrides)
    done = run(*limit, *overrides, cwd=tmp_path, script="tests/limited.py")
    check(done.returncode, done.stdout, without_cost(done.stderr), (overrides, code, words))
    assert files(tmp_path) == before


def test_disk_that_fills_up_keeps_the_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    IdxSet(tmp_path)
    full = run("FSIZE", "20000", *LONG, cwd=tmp_path, script="tests/limited.py")
    assert full.returncode == 4
    assert "metrics.jsonl: File too large; free some space" in without_cost(full.stderr)
    (checkpoint,) = tmp_path.glob("results/runs/*/checkpoint")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    assert run_here(*LONG) == 0
    assert run_here(*LONG, "results=undisturbed") == 0
    assert numbers(checkpoint.parent) == numbers(tmp_path / "undisturbed" / "runs" / checkpoint.parent.name)


def test_divergence_is_final_says_where_and_is_answered_from_its_record(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    overrides = (*TINY, "optimizer.lr=1e30", "method.epochs=2")
    first = run(*overrides, cwd=tmp_path)
    assert first.returncode == 6
    (line,) = without_cost(first.stderr).splitlines()
    assert "diverged" in line and "segment 1 of 1, epoch 1, step" in line and "optimizer.lr" in line
    said = answer(first)
    assert said["status"] == "diverged" and said["summary"] == {}
    folder = tmp_path / said["path"]
    assert json.loads((folder / "summary.json").read_text())["reason"] == said["reason"]
    assert not (folder / "checkpoint").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run(*overrides, cwd=tmp_path)
    assert (again.returncode, answer(again)) == (6, said)
    assert re.fullmatch(re.escape(line) + r" \(from the record of \d{4}-\d\d-\d\d \d\d:\d\d\)\n", again.stderr)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_loss_that_is_not_finite_on_validation_only_is_a_divergence_too_and_on_test_only_is_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    IdxSet(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    one_step = (*TINY, "optimizer.lr=1e13", "objective=linear_mse", "method=backprop")  # weights stay finite, squares do not
    assert run_here(*one_step, "dataset.batch_size=300") == 6
    out, err = capfd.readouterr()
    assert "validation loss is inf after segment 1 of 1, epoch 1" in without_cost(err)
    assert json.loads(out)["status"] == "diverged"
    assert run_here(*one_step, "dataset.batch_size=400", "dataset.val_size=0") == 0
    out, _ = capfd.readouterr()
    assert json.loads(out)["summary"]["test/loss"] is None
    assert "Infinity" not in out and "NaN" not in out


def test_failing_runs_of_a_sweep_leave_the_others_finished(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    sizes = ("dataset.train_limit=200,8", "dataset.batch_size=8")
    done = run("-m", *TINY, "optimizer.lr=0.05,1e30", *sizes, "workers=2", cwd=tmp_path)
    runs = answer(done)["runs"]
    assert [one["status"] for one in runs] == ["finished", "error", "diverged", "error"]
    assert "training split" in runs[1]["reason"] and "segment 1 of 1" in runs[2]["reason"]
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("effdl: 1 of 4 runs diverged or failed, which the same command would only say again; ")
    assert last.endswith("2 of 4 runs did not end; the same command tries them again")
    assert "Traceback" not in done.stderr
    kept = {path.name for path in (tmp_path / "results" / "runs").iterdir()}
    assert kept == {runs[0]["run_id"], runs[2]["run_id"]}


def test_sweep_in_which_no_run_can_start_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    IdxSet(tmp_path)
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    assert run_here("-m", *TINY, "dataset.train_limit=8", "dataset.batch_size=8", "seed=0") == 1
    (one,) = json.loads(capfd.readouterr().out)["runs"]
    assert one["status"] == "error" and "training split" in one["reason"]
    assert files(tmp_path) == before


@pytest.mark.parametrize("named", ["precious", "precious/new/newer"])
@pytest.mark.parametrize("own", ["thesis.txt", "multirun.yaml"])
def test_failing_sweep_takes_back_its_own_file_from_a_folder_of_the_user_and_nothing_else(
    own: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious" / "empty").mkdir(parents=True)
    (tmp_path / "precious" / own).write_text("ten years of work")
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_here("-m", f"hydra.sweep.dir={named}", "seed=0,1", "dataset.batch_size=99999") == 2
    assert "dataset.batch_size" in capfd.readouterr().err
    assert files(tmp_path) == before
    assert (tmp_path / "precious" / own).read_text() == "ten years of work"


def test_second_process_asked_for_the_same_run_says_so_waits_and_answers_from_the_record(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    finished = answer(run(*TINY, cwd=tmp_path))
    folder = tmp_path / finished["path"]
    summary = (folder / "summary.json").read_bytes()
    (folder / "summary.json").unlink()
    with (folder / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = start(*TINY, cwd=tmp_path)
        assert second.stderr is not None
        said = next(line for line in second.stderr if not HOW_FAR.match(line))
        (folder / "summary.json").write_bytes(summary)
    done = finish(second)
    assert "another process" in said and finished["run_id"] in said
    assert done.returncode == 0
    assert answer(done) == finished


def test_damaged_checkpoint_and_record_line_are_named_set_aside_and_the_rest_used(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    killed = start(*LONG, cwd=tmp_path)
    checkpoints = wait_for(lambda: list(tmp_path.glob("results/runs/*/checkpoint")), killed)
    metrics = checkpoints[0].with_name("metrics.jsonl")
    wait_for(lambda: metrics.read_bytes().count(b"\n") > 40, killed)
    kill(killed)
    killed.communicate()
    folder = checkpoints[0].parent.relative_to(tmp_path / "results")
    shutil.copytree(tmp_path / "results", tmp_path / "other")
    checkpoints[0].write_bytes(flipped(checkpoints[0].read_bytes(), -3000, bit=5))
    first, *rest = metrics.read_bytes().splitlines(True)
    (tmp_path / "other" / folder / "metrics.jsonl").write_bytes(b"\x00\xff" + first[2:] + b"".join(rest))
    anew, going_on = (finish(p) for p in [start(*LONG, cwd=tmp_path), start(*LONG, "results=other", cwd=tmp_path)])
    assert anew.returncode == going_on.returncode == 0
    assert "checkpoint is damaged" in anew.stderr and (checkpoints[0].with_name("checkpoint.damaged")).exists()
    assert "metrics.jsonl: 1 damaged line(s) set aside" in going_on.stderr
    assert first[2:] in (tmp_path / "other" / folder / "metrics.jsonl.damaged").read_bytes()
    lines, summary = numbers(tmp_path / "results" / folder)
    other_lines, other_summary = numbers(tmp_path / "other" / folder)
    assert (other_lines, other_summary) == (lines, summary)  # the checkpoint holds the damaged line too
