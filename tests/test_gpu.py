"""What only a GPU can show: `make test-gpu`. On a machine without one these are skipped; the slow tier runs on the CPU those
that can run there, so that at least the tests themselves are known to work."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import ROOT, answer, environment

from effdl.augment.standard import Standard
from effdl.config import Spec, build, compose
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.datasets.parity import Parity
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.objectives.losses import SoftmaxCe
from effdl.records.carry import build_network, carry_out, open_problem
from effdl.records.run import Run
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.engine import Engine
from effdl.training.hardware import Hardware
from effdl.training.learner import Learner
from effdl.training.optim import Sgd

NONE = not torch.cuda.is_available()
gpu = [pytest.mark.gpu, pytest.mark.skipif(NONE, reason="no CUDA device here; `make test-gpu` where there is one")]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=gpu)]
DIGITS = ("dataset=digits", "method.epochs=4", "test_every=run")


def spec(hardware: Hardware, *overrides: str) -> Spec:
    """Real digits on this hardware."""
    return replace(build(compose([*DIGITS, "hardware=cpu", *overrides])), hardware=hardware)


def losses(done: dict[str, Any]) -> list[float]:
    """Training losses, epoch by epoch."""
    lines = map(json.loads, (Path(done["path"]) / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_auto_takes_the_gpu_in_half_precision_where_it_has_it(device: str) -> None:
    found = build(compose(["hardware=auto"])).hardware
    half = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "float32"
    assert (found.device, found.precision, found.layout) == (device, half, "channels_last")


EXACT, HALF = Hardware(), Hardware(precision="bf16", layout="channels_last")
COMPILED = pytest.param(replace(HALF, device="cuda", compile=True), marks=gpu)  # on the CPU it takes minutes
WAYS = [*(pytest.param(replace(way, device=d.values[0]), marks=d.marks) for way in (EXACT, HALF) for d in DEVICES), COMPILED]


@pytest.mark.parametrize("method", ["backprop", "dll"])
@pytest.mark.parametrize("hardware", WAYS, ids=lambda h: f"{h.device}-{h.precision}-{h.compile}")
def test_real_digits_are_learned(hardware: Hardware, method: str, tmp_path: Path) -> None:
    done = carry_out(spec(hardware, f"method={method}"), tmp_path)
    assert done["status"] == "finished" and done["summary"]["test/acc"] >= 0.9, done


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_tf32_learns_real_digits(device: str, tmp_path: Path) -> None:
    done = carry_out(spec(Hardware(device="cuda", precision="tf32"), "method=dll"), tmp_path)
    assert done["summary"]["test/acc"] >= 0.9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["backprop", "dll"])
def test_losses_in_float32_are_the_cpus(method: str, device: str, tmp_path: Path) -> None:
    overrides = (f"method={method}", "method.epochs=1")
    here, there = (carry_out(spec(Hardware(device=d), *overrides), tmp_path / d) for d in ("cpu", device))  # type: ignore[arg-type]
    assert losses(there) == pytest.approx(losses(here), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", [0, 2048])
def test_killed_and_resumed_it_ends_where_a_run_left_alone_does(
    keep: int, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    asked = spec(
        Hardware(device=device), "method=dll", "method.epochs=2", f"method.keep_features_mib={keep}", "optimizer=adamw"
    )  # type: ignore[arg-type]
    alone = carry_out(asked, tmp_path / "alone")
    again = tiny.resumed(asked, tmp_path / "resumed", monkeypatch, 2, 5)
    assert losses(again) == pytest.approx(losses(alone), rel=1e-4)
    assert again["summary"]["segment/chosen"] == alone["summary"]["segment/chosen"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("where", ["host", "disk"])
@pytest.mark.parametrize("keep", [0, 2048])
def test_a_robin_off_the_device_ends_where_one_on_it_does(
    keep: int, where: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    robin = ("method=random_robin", "method.rounds=2", "method.epochs=1", f"method.keep_features_mib={keep}", "optimizer=adamw")
    asked = [spec(Hardware(device=device), *robin, f"method.offload={w}") for w in ("null", where)]  # type: ignore[arg-type]
    alone = carry_out(asked[0], tmp_path / "alone")
    away = tiny.resumed(asked[1], tmp_path / "away", monkeypatch, 2, 5)
    assert losses(away) == pytest.approx(losses(alone), rel=1e-4)
    assert away["summary"]["segment/chosen"] == alone["summary"]["segment/chosen"]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_only_what_learns_and_a_block_below_it_are_on_the_gpu(device: str) -> None:
    """What the allocator has given out between two turns, beside the samples: next to nothing of a network of 40 MB."""
    asked = spec(
        Hardware(device="cuda"),
        "method=round_robin",
        "method.rounds=2",
        "arch=vgg13_bn",
        "method.offload=host",
        "method.keep_features_mib=0",
    )
    problem, held, begin = open_problem(asked, *asked.dataset.load()).to(asked.hardware.open()), list[int](), Engine._begin
    before = torch.cuda.memory_allocated()

    def begun(self: Engine, place: int, resumed: bool) -> Any:
        held.append(torch.cuda.memory_allocated() - before)
        return begin(self, place, resumed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_begin", begun)
        network = asked.method.fit(problem, build_network(asked, problem, torch.device(device)), Run.in_memory(asked.optimizer))
    assert {t.device.type for t in network.state_dict().values()} == {device}
    assert len(held) == 20 and max(held) < 2**24


@pytest.mark.parametrize("device", DEVICES)
def test_the_whole_set_lies_on_the_device(device: str) -> None:
    asked = spec(Hardware(device=device))  # type: ignore[arg-type]
    problem: Problem = open_problem(asked, *asked.dataset.load()).to(asked.hardware.open())
    network = build_network(asked, problem, problem.train_tensors().y.device)
    batch = next(problem.train(0))
    tensors = [problem.train_tensors().x, problem.val_tensors().x, batch.x, batch.y, batch.index, *network.parameters()]
    assert {t.device.type for t in tensors} == {device}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", ["cifar10", "svhn", None])
def test_augmented_images_are_the_cpus_bit_for_bit(policy: Any, device: str) -> None:
    images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    change = Standard(auto_augment=policy, cutout=16).prepare(Samples(images, torch.zeros(len(images))))
    for seed in range(3):
        here, there = (change(x, torch.Generator().manual_seed(seed)) for x in (images, images.to(device)))
        assert torch.equal(here, there.cpu())


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_counted_memory_is_the_allocators(segment: int, device: str) -> None:
    """Within a third and 32 MiB: the allocator rounds up, and cuDNN takes workspace that no tensor holds. Not yet measured."""
    asked = spec(Hardware(device="cuda"), "arch=vgg13_bn", "dataset.batch_size=512")
    problem = open_problem(asked, *asked.dataset.load()).to(asked.hardware.open())
    chain = build_network(asked, problem, torch.device(device)).eval()
    shapes, batch = chain.shapes(problem.input_shape), next(problem.train(0))
    rule = DecisionRule(chain[segment : segment + 1], Pool().build(shapes[segment], 10).to(device), SoftmaxCe())
    learner = Learner(rule, Sgd().build(rule.parameters()), seed=lambda e, s: s)
    prefix = Prefix(batch, chain.input, *chain[:segment])
    counted = Rehearsal(learner, prefix).memory().peak
    fed = prefix.fed()

    def step() -> None:
        for _ in learner.train_epoch([replace(batch, x=fed)]):
            pass

    step()  # momentum, and what libraries hold once they have been called
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    held = sum(t.nbytes for t in (*rule.parameters(), *rule.buffers(), fed))
    held += sum(t.nbytes for s in learner.optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor))
    peak = torch.cuda.max_memory_allocated() - before + held
    assert counted * 2 / 3 - 2**25 <= peak <= counted * 4 / 3 + 2**25


@two_gpus
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_two_gpus_learn_what_one_does_by_nccl(device: str, tmp_path: Path) -> None:
    overrides = [*DIGITS, "hardware=ddp", "hardware.precision=float32", "method=dll", "arch=mlp", "method.epochs=1"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "run.py"),
        *overrides,
    ]
    env = {k: v for k, v in environment().items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=True)
    result = answer(done)
    alone = carry_out(
        spec(Hardware(device="cuda", layout="channels_last"), "method=dll", "arch=mlp", "method.epochs=1"), tmp_path
    )
    assert losses({"path": tmp_path / result["path"]}) == pytest.approx(losses(alone), rel=1e-3)


# --- the commands, here without a GPU


@pytest.mark.skipif(not NONE, reason="there is a GPU")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["bash", "scripts/gpu_session.sh", "5", "OUT"], 3),
        pytest.param(["make", "--no-print-directory", "test-gpu", "VENV=VENV"], 0, marks=pytest.mark.slow),
        pytest.param(["make", "--no-print-directory", "bench-gpu", "VENV=VENV"], 0, marks=pytest.mark.slow),
    ],
)
def test_without_a_gpu_a_command_says_so_in_one_line(command: list[str], code: int, tmp_path: Path) -> None:
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (venv / "python").chmod(0o755)
    (venv.parent / ".installed").touch()
    asked = [part.replace("VENV=VENV", f"VENV={venv.parent}").replace("OUT", str(tmp_path / "out")) for part in command]
    done = subprocess.run(asked, cwd=ROOT, env=environment(PYTHON=sys.executable), capture_output=True, text=True, timeout=120)
    said = (done.stdout + done.stderr).splitlines()
    assert (done.returncode, len(said)) == (code, 1) and "no CUDA device on this machine, nothing done" in said[0], said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["5"], ["soon", "OUT"], ["0", "OUT"], ["5", "OUT", "more"]])
def test_a_session_asked_for_in_another_way_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "gpu_session.sh", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("gpu_session: ") and done.stderr.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_a_session_keeps_to_its_time_and_copies_what_there_is(tmp_path: Path) -> None:
    """With a stand-in for Python that claims a GPU and, for every step, takes longer than there is time."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "record").touch()
    stand_in = tmp_path / "python"
    stand_in.write_text(
        '#!/bin/sh\ncase "$*" in -c* | *gpu_there*) exit 0;; *at_scale*) echo table-6.1 small; echo demo small;;\n'
        "*bench*) exit 3;; *) echo begun; exec sleep 100;; esac\n"
    )
    stand_in.chmod(0o755)
    env = {**environment(), "PYTHON": str(stand_in), "RESULTS": str(tmp_path / "results")}
    command = ["bash", ROOT / "scripts" / "gpu_session.sh", "1", str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert [line.split(" after")[0] for line in summary] == [
        "tests: cut short",
        "bench: 3",
        "table-6.1: cut short",
        "table-6.1-report: no time left",
        "demo: no time left",
        "demo-report: no time left",
    ]
    assert (tmp_path / "out" / "results" / "record").exists() and (tmp_path / "out" / "tests.log").read_text() == "begun\n"


@pytest.mark.slow
def test_the_benchmark_runs_as_it_would_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bench = runpy.run_path(str(ROOT / "scripts" / "bench.py"))
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)  # type: ignore[func-returns-value]
    rows = list(bench["on_device"]("cnn4", torch.device("cpu"), batch_size=8, steps=2, seconds=0.0))
    assert len(rows) == 2 * 2 + 3 and len(compiled) == 3 + 1  # blocks in the engine, the whole network in the bare loop
    assert all(value > 0 for _, value, _ in rows[:4])
    if NONE:
        assert list(bench["gpu"]()) == []
        assert capsys.readouterr().err == "bench gpu: no CUDA device on this machine, nothing to measure\n"


@pytest.mark.parametrize("device", DEVICES)
def test_samples_made_anew_are_made_on_the_device_and_those_of_any_other(device: str) -> None:
    here, _ = Parity(digits="digits").load()
    there, index = here.to(torch.device(device)), torch.arange(40, 90)
    for epoch in range(2):
        (ours,) = there.epoch(epoch, 5 + epoch).gather([index.to(device)])
        (expected,) = here.epoch(epoch, 5 + epoch).gather([index])
        assert {ours.x.device.type, ours.y.device.type} == {device}
        assert torch.equal(ours.x.cpu(), expected.x) and torch.equal(ours.y.cpu(), expected.y)
