"""Precision, layout and compilation: what can be held without a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import numbers, run_here
from torch import Tensor, nn

from effdl.config import build, compose
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.records import carry
from effdl.records.carry import carry_out
from effdl.records.run import Run
from effdl.training.features import Stack
from effdl.training.hardware import Hardware, restoring
from effdl.training.optim import Sgd
from effdl.training.sources import Fed

BF16, CHANNELS_LAST = Hardware(precision="bf16"), Hardware(layout="channels_last")
AUTO = Hardware(device="auto", precision="auto", layout="auto")


def fit(hardware: Hardware, method: Any = None, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Run]:
    """A tiny network, trained; and its run."""
    chain = hardware.place(tiny.chain(dropout=0.0).to(dtype), torch.device("cpu"))
    run = Run.in_memory(Sgd(lr=0.05), hardware=hardware)
    return (method or Segmentwise(epochs=2)).fit(tiny.problem(), chain, run), run


def losses(run: Run) -> Tensor:
    return torch.tensor([line["train/loss"] for line in run.lines if "train/loss" in line])


def test_auto_takes_what_there_is_and_settles_it_before_the_run_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert AUTO.resolved(False) == Hardware()
    assert AUTO.resolved(True) == CHANNELS_LAST
    assert build(compose(["arch=shufflenet_v2_x0_5", "arch.size=32"])).hardware == CHANNELS_LAST
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for half, precision in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, half=half: half or including_emulation)
        found = AUTO.resolved(False)
        assert (found.device, found.precision, found.layout, found.compile) == ("cuda", precision, "channels_last", False)


@pytest.mark.parametrize(("said", "bytes_"), [("1048576\n", 2**20), ("max\n", None), (None, None)])
def test_memory_is_the_machines_or_what_a_container_may_take(
    said: str | None, bytes_: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        (tmp_path / "memory.max").write_text(said)
    monkeypatch.setattr("effdl.training.hardware.BOUND", tmp_path / "memory.max")
    (kib,) = [line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")]
    assert Hardware().memory() == (bytes_ or 1024 * int(kib))


def test_what_is_asked_for_is_not_settled_otherwise() -> None:
    asked = Hardware(device="cpu", precision="bf16", layout="contiguous", threads=3, compile=True)
    assert asked.resolved(True) == asked


def test_a_run_leaves_rounding_and_threads_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def now() -> tuple[Any, ...]:
        cudnn: Any = torch.backends.cudnn
        parts = (torch.backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn)
        return torch.get_num_threads(), *(part.fp32_precision for part in parts)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = now()
    for precision, rounding in (("float32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")):
        with restoring():
            Hardware(device="cuda", precision=precision).open(threads=2)  # type: ignore[arg-type]
            assert now() == (2, *[rounding] * 4)
        assert now() == before


def test_a_run_on_a_gpu_leaves_no_trace_in_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    spec = replace(build(compose(["arch=mlp", "method.epochs=1"])), hardware=Hardware(device="cuda"))
    before, seen = torch.backends.cuda.matmul.fp32_precision, []

    def stop(*_: Any) -> None:
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        raise KeyError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(carry, "open_problem", stop)
    with pytest.raises(KeyError):
        carry_out(spec, tmp_path)
    assert seen == ["ieee"] and torch.backends.cuda.matmul.fp32_precision == before


def test_tf32_on_a_cpu_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^hardware\.precision: tf32 is a GPU's"):
        Hardware(precision="tf32").resolved(False)
    assert run_here("hardware.precision=tf32") == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("method", [Backprop(epochs=2), Segmentwise(epochs=2), Segmentwise(epochs=2, keep_features_mib=0)])
def test_limit_channels_last_gives_the_numbers_of_contiguous_in_float64(method: Any) -> None:
    (one, run), (other, again) = (fit(hardware, method, torch.float64) for hardware in (Hardware(), CHANNELS_LAST))
    torch.testing.assert_close(losses(run), losses(again), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [0, 10**9])
@pytest.mark.parametrize("hardware", [Hardware(), BF16, CHANNELS_LAST, Hardware(precision="bf16", layout="channels_last")])
def test_features_come_in_the_precision_and_layout_asked_for_kept_or_not(hardware: Hardware, keep: int) -> None:
    chain = hardware.place(tiny.chain().eval(), torch.device("cpu"))
    source, block = Fed(tiny.problem(), keep, hardware), nn.Sequential(nn.Conv2d(1, 4, 3))
    source.look(Stack((chain.input,), (0,)))
    assert source.look(Stack((chain.input, block), (0, 0))) == (keep > 0)
    last = hardware.layout == "channels_last"
    for batch in (*source.train(0), *source.val()):
        assert batch.x.dtype == (torch.bfloat16 if hardware.precision == "bf16" else torch.float32)
        assert batch.x.is_contiguous(memory_format=torch.channels_last) == last and batch.x.is_contiguous() != last


@pytest.mark.parametrize("method", [Backprop(epochs=2), Segmentwise(epochs=2), Segmentwise(epochs=2, keep_features_mib=0)])
def test_bf16_computes_in_half_precision_with_losses_and_weights_in_float32(method: Any) -> None:
    (network, run), (_, exact) = fit(BF16, method), fit(Hardware(), method)
    assert all(p.dtype == torch.float32 for p in network.parameters())
    found, wanted = losses(run), losses(exact)
    assert not torch.equal(found, wanted), "nothing was rounded"
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)  # bfloat16 has 8 bits: 0.4%, over 10 steps a layer


def test_bf16_rounds_as_a_plain_loop_under_autocast_does() -> None:
    problem, chain = tiny.problem(), tiny.chain(dropout=0.0)
    plain = torch.optim.SGD(chain.parameters(), lr=0.05, momentum=0.9)
    total = []
    for batch in problem.train(0):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = chain.train()(batch.x)
        loss = nn.functional.cross_entropy(logits.float(), batch.y)
        plain.zero_grad()
        loss.backward()
        plain.step()
        total.append(loss.item() * len(batch))
    _, run = fit(BF16, Backprop(epochs=1))
    assert losses(run)[0].item() == pytest.approx(sum(total) / problem.num_train, rel=1e-6)


def test_compiled_blocks_learn_what_the_blocks_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, original = [], torch.compile

    def watched(module: Any) -> Any:
        compiled.append(module)
        return original(module, backend="aot_eager")  # all of compilation but the generated code

    monkeypatch.setattr(torch, "compile", watched)
    method = Segmentwise(epochs=1, keep_features_mib=0)
    (one, run), (other, again) = (fit(hardware, method, torch.float64) for hardware in (Hardware(), Hardware(compile=True)))
    assert len(compiled) >= 3 + 3  # each block as it learns, and each as it feeds
    torch.testing.assert_close(losses(again), losses(run), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dict(other.state_dict()), dict(one.state_dict()), rtol=1e-9, atol=1e-9)


def test_a_compiled_run_interrupted_and_begun_again_ends_in_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: original(module, backend="aot_eager"))
    small = ("dataset.train_limit=60", "dataset.val_size=40", "dataset.batch_size=8", "arch=mlp", "arch.hidden=[6,5]")
    spec = build(compose([*small, "method.epochs=2", "method.keep_features_mib=0", "hardware.compile=true"]))
    expected = numbers(Path(carry_out(spec, tmp_path / "whole")["path"]))
    found = tiny.resumed(spec, tmp_path / "resumed", monkeypatch, 1, 4)
    assert numbers(Path(found["path"])) == expected


@pytest.mark.slow
def test_code_that_torch_compile_generates_learns_the_same(tmp_path: Any) -> None:
    method = Backprop(epochs=1)
    (one, run), (other, again) = (fit(hardware, method) for hardware in (Hardware(), Hardware(compile=True)))
    torch.testing.assert_close(losses(again), losses(run), rtol=1e-4, atol=1e-4)
    assert one.state_dict().keys() == other.state_dict().keys()
