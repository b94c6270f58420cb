"""What run.py promises beside training: the help page, the JSON line, records that answer, networks that load, no leaks."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, IdxSet, answer, environment, numbers, run, run_here

from effdl import config
from effdl.datasets.digits import Digits
from effdl.datasets.split import Samples
from effdl.methods.lazy import Lazy
from effdl.records import kept
from effdl.records.execute import execute

SMALL = ("arch.widths=[4,6,8]", "dataset.train_limit=400", "hardware.threads=1")


def python(code: str, cwd: Path = ROOT) -> str:
    """Standard output of a fresh interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=True).stdout


def test_help_names_every_group_and_choice_and_its_examples() -> None:
    done = run("--help", cwd=ROOT, fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    folders = [p for p in config.CONFIGS.rglob("*") if p.is_dir()]
    assert {str(p.relative_to(config.CONFIGS)) for p in folders} == set(config.GROUPS)
    paragraphs = {part.splitlines()[0].rstrip(":"): part for part in done.stdout.split("\n\n")}
    for group in config.GROUPS:
        named = [line[2:].split()[0] for line in paragraphs[group].splitlines()[1:]]
        assert named == config.choices(group)
        undescribed = [line for line in paragraphs[group].splitlines()[1:] if len(line[2:].split()) < 3]
        assert undescribed == []
    assert "python run.py -m method=dll,backprop" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 128


def test_help_page_and_bad_overrides_do_not_wait_for_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['run.py', {!r}]\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted(set(sys.modules) & {{'torch', 'pandas', 'sklearn', 'torchvision', 'timm'}}))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    helped = python(code.format("--help"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert helped.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert python(code.format("arch=nothing")).splitlines()[-1] == "[]"


def test_importing_effdl_and_its_command_line_does_not_import_torch() -> None:
    assert python("import effdl, effdl.cli, effdl.config, sys; print('torch' in sys.modules)") == "False\n"


def test_last_line_on_standard_output_is_the_only_one_and_holds_the_promised_numbers(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    done = run(*IdxSet.OVERRIDES, cwd=tmp_path, fresh=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    said = answer(done)
    assert said["status"] == "finished" and Path(said["path"]).name == said["run_id"]
    summary = said["summary"]
    assert 0 <= summary["test/acc"] <= 1 and 0 <= summary["val/acc"] <= 1
    assert summary["memory/accounted_peak_bytes"] > 0 and summary["time/train_s"] > 0
    stored = json.loads((tmp_path / said["path"] / "summary.json").read_text())
    assert {
        **kept.without_note(stored),
        "path": said["path"],
    } == said  # the path is where it lies now, and not stored


def test_no_validation_set_means_no_validation_numbers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(*SMALL, "method=backprop", "method.epochs=1", "dataset.val_size=0", f"results={tmp_path}") == 0
    summary = json.loads(capfd.readouterr().out)["summary"]
    assert "test/acc" in summary and "val/acc" not in summary


def test_sweep_prints_one_json_object_with_its_runs_in_order(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    done = run("-m", *IdxSet.OVERRIDES, "method=dll,backprop", "seed=0,1", "workers=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    runs = answer(done)["runs"]
    assert [(one["name"].split()[0], one["seed"]) for one in runs] == [
        ("dll", 0),
        ("dll", 1),
        ("backprop", 0),
        ("backprop", 1),
    ]
    assert len({one["run_id"] for one in runs}) == 4
    assert all(one["status"] == "finished" and "test/acc" in one["summary"] for one in runs)


NETWORKS = {
    "dll": SMALL,
    "backprop": (*SMALL, "method=backprop"),
    "vgg decision": (*SMALL, "method/decision=vgg", "method.decision.hidden=[7,5]", "method.decision.size=2"),
    "down-convolutions of larger segments": (*SMALL, "method/decision=down_conv_4", "method.segment_size=2"),
    "sine": ("dataset=sine", "dataset.samples=300", "objective=linear_mse", "arch=mlp", "arch.hidden=[9,8]"),
}
LOAD = """
import json, sys, effdl
from effdl import config
for path in sys.stdin.read().split():
    spec = config.build(json.load(open(path + "/spec.json"))["config"])
    _, test = spec.dataset.load()
    logits = effdl.load_network(path)(test.x).detach()
    if test.y.is_floating_point():
        print((logits - test.y).square().mean().item())
    else:
        print((logits.argmax(1) == test.y).double().mean().item())
"""


def test_saved_networks_take_raw_inputs_in_a_fresh_process_and_give_the_test_number(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for overrides in NETWORKS.values():
        assert run_here(*overrides, "method.epochs=2", f"results={tmp_path}") == 0
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    command = [sys.executable, "-c", LOAD]
    paths = "\n".join(one["path"] for one in said)
    loaded = subprocess.run(command, input=paths, env=environment(), cwd=ROOT, capture_output=True, text=True, check=True)
    *accuracies, mse = map(float, loaded.stdout.split())
    assert accuracies == [one["summary"]["test/acc"] for one in said[:-1]]
    assert mse == pytest.approx(said[-1]["summary"]["test/mse"], rel=1e-6)
    assert "test/acc" not in said[-1]["summary"]


def test_asked_again_when_done_it_answers_from_its_record_and_touches_nothing(tmp_path: Path) -> None:
    IdxSet(tmp_path)
    first = run(*IdxSet.OVERRIDES, cwd=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run(*IdxSet.OVERRIDES, cwd=tmp_path)
    assert again.returncode == 0
    assert answer(again) == answer(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_same_config_said_otherwise_is_the_same_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(*SMALL, "method=segmentwise", "method.epochs=1", f"results={tmp_path}") == 0
    assert run_here("method=dll", "method.epochs=1", *SMALL, "workers=3", f"results={tmp_path}") == 0
    one, two = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert one == two


@pytest.mark.slow
@pytest.mark.alone
def test_answering_from_a_record_takes_at_most_a_second_over_the_import_of_torch(tmp_path: Path) -> None:
    import time

    run(*SMALL, "method.epochs=1", cwd=tmp_path)
    torch_s, again_s = [], []
    for _ in range(3):
        start = time.perf_counter()
        python("import torch")
        middle = time.perf_counter()
        run(*SMALL, "method.epochs=1", cwd=tmp_path)
        torch_s.append(middle - start)
        again_s.append(time.perf_counter() - middle)
    assert min(again_s) - min(torch_s) < 1


def blind(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without times and without what was measured on the test split."""
    return {name: value for name, value in metrics.items() if not name.startswith("test/")}


CLOSED = ["elm", "output_layer", "platonic"]  # without epochs, of linear layers
PEERS = ["kernel_ridge", "ntk_ridge", "pseudoinverse_learning", "ridge_regression"]  # without epochs, of forms of their own
PARTITIONED = [name for name in config.choices("method") if getattr(config.build_choice("method", name), "partitions", None)]
LINEAR = [name for name in config.choices("method") if isinstance(config.build_choice("method", name), Lazy)]
FEWER = {
    **dict.fromkeys(PARTITIONED, ("method.partitions=2",)),  # of the blocks there are
    **dict.fromkeys(LINEAR, ("arch=mlp",)),  # as most of them ask for
}
LEAKS = {
    **{
        name: (*SMALL[name in LINEAR :], f"method={name}", "method.epochs=2", *FEWER.get(name, ()))
        for name in config.choices("method")
        if name not in (*CLOSED, *PEERS)
    },
    **{name: (f"method={name}", "arch=mlp", *SMALL[1:]) for name in CLOSED},
    **{name: (f"method={name}", *SMALL[1:]) for name in PEERS},
    "pseudoinverse_learning": ("method=pseudoinverse_learning", "arch=mlp", "arch.hidden=[400]", *SMALL[1:]),
    "dropouts": (*SMALL, "method=dll", "method.input_dropout=0.4", "method.gradient_dropout=0.5", "method.epochs=2"),
    "patience": (*SMALL, "method=dll", "method.patience=1", "method.epochs=4"),
    "adam, schedule": (*SMALL, "method=dll", "optimizer=adamw", "optimizer/schedule=multi_step", "method.epochs=2"),
}


@pytest.mark.parametrize("overrides", LEAKS.values(), ids=LEAKS)
def test_shuffled_test_labels_move_no_weight_and_no_other_number(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = config.build(config.compose(overrides))
    (honest,) = execute([spec], tmp_path / "honest")
    load = Digits.load

    def shuffled(self: Digits) -> tuple[Samples, Samples]:
        train, test = load(self)
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
        return train, Samples(test.x, test.y[order])

    monkeypatch.setattr(Digits, "load", shuffled)
    (fooled,) = execute([spec], tmp_path / "fooled")
    assert honest["run_id"] == fooled["run_id"] and honest["status"] == fooled["status"] == "finished"
    assert honest["summary"]["test/loss"] != fooled["summary"]["test/loss"]
    lines, summary = numbers(Path(honest["path"]))
    fooled_lines, fooled_summary = numbers(Path(fooled["path"]))
    assert "network/sha256" in summary
    assert blind(summary) == blind(fooled_summary)
    assert list(map(blind, lines)) == list(map(blind, fooled_lines))
