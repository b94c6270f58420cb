"""Averaging between real processes, against replicas that a single process trains by torch's own optimizers."""

from pathlib import Path
from typing import Any

import pytest
import ranks_worker
import tiny
import torch
from averaging_worker import CASES, EPOCHS, LR, MEAN, TRAIN, fit
from test_ddp import launched
from torch import Tensor, nn

from effdl.compression import decode
from effdl.config import build, compose
from effdl.errors import ConfigError
from effdl.methods.segmentwise import Segmentwise
from effdl.training.averaging import Averaging, mean
from effdl.training.handle import CannotGoOn
from effdl.training.ranks import AGAIN, SWAP_HEAD, Ranks, bounds
from effdl.training.wire import Wire

Ended = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return launched("averaging_worker", tmp_path_factory.mktemp("averaging"), 2)


def replicas(size: int, how: Averaging) -> dict[str, Tensor]:
    """Networks side by side, each on its part of every batch, averaged by hand; the outer step is torch's own SGD."""
    models = [ranks_worker.chain().train() for _ in range(size)]
    for model in models:
        model.input.eval()
    inner = [torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9) for model in models]
    outer = [p.detach().clone() for p in models[0].parameters()]
    step = torch.optim.SGD(outer, lr=how.outer_lr, momentum=how.outer_momentum, nesterov=True)

    @torch.no_grad()
    def average() -> None:
        means = [torch.stack(all_).mean(0) for all_ in zip(*(model.parameters() for model in models), strict=True)]
        if how.outer == "nesterov":
            for anchor, found in zip(outer, means, strict=True):
                anchor.grad = anchor - found
            step.step()
            means = outer
        for model in models:
            for p, found in zip(model.parameters(), means, strict=True):
                p.copy_(found)

    for epoch in range(EPOCHS):
        steps = 0
        for batch in ranks_worker.problem(TRAIN).train(epoch):
            for rank, (model, optimizer) in enumerate(zip(models, inner, strict=True)):
                part = slice(*bounds(len(batch), rank, size))
                if part.start < part.stop:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(batch.x[part]), batch.y[part]).backward()
                    optimizer.step()
            steps += 1
            if steps == how.every:
                average()
                steps = 0
        if steps:
            average()
    return tiny.copied(models[0])


def close(ours: Any, theirs: Any, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("name", ["tensors", "nesterov", "every step"])
def test_it_is_the_mean_of_replicas_and_torchs_nesterov(name: str, ended: Ended) -> None:
    how = CASES[name]
    assert isinstance(how, Averaging)
    close(ended[0][name]["weights"], replicas(2, how))


@pytest.mark.parametrize("name", CASES)
def test_all_processes_end_with_the_same_bits_and_lines(name: str, ended: Ended) -> None:
    (ours, *others) = (one[name] for one in ended)
    assert all(tiny.same(ours["weights"], other["weights"]) for other in others)
    for line in ours["lines"]:
        assert {k for k in line if k.startswith("sync/bytes")} == (
            {"sync/bytes", "sync/bytes/0", "sync/bytes/1"} if isinstance(CASES[name], Averaging) else set()
        )


def test_segment_by_segment_it_is_each_segments_own(ended: Ended) -> None:
    ours, theirs = (one["dll"] for one in ended)
    assert tiny.same(ours["weights"], theirs["weights"])
    alone = fit(Ranks(), None, method=Segmentwise(epochs=EPOCHS))
    assert [line["segment"] for line in ours["lines"]] == [line["segment"] for line in alone["lines"]]
    assert all(line["sync/bytes/1"] > 0 for line in ours["lines"])


def test_quantised_by_two_processes_it_is_what_one_makes(ended: Ended) -> None:
    close(ended[1]["quantised"]["weights"], fit(Ranks(), CASES["quantised"])["weights"])


def test_with_lossless_packets_it_is_averaging_without_packets_bit_for_bit(ended: Ended) -> None:
    assert tiny.same(ended[0]["tensors"]["weights"], ended[0]["lossless"]["weights"])
    assert not tiny.same(ended[0]["tensors"]["weights"], ended[0]["none"]["weights"])


@pytest.mark.parametrize("form", ["tensors", "lossless"])
def test_with_one_process_it_is_plain_training_bit_for_bit(form: Any) -> None:
    how = Averaging(every=2, form=form)
    assert tiny.same(fit(Ranks(), how)["weights"], fit(Ranks(), None)["weights"])


def test_what_is_lost_is_little_and_less_of_changes_with_error_feedback(ended: Ended) -> None:
    def off(name: str) -> float:
        exact, found = ended[0]["tensors"]["weights"], ended[0][name]["weights"]
        return max(float((exact[k] - found[k]).abs().max()) for k in exact)

    assert 0 < off("8 bits") < off("8 bits, weights") < 0.05 and 0 < off("float16") < off("bfloat16, weights") < 0.02


def test_bytes_are_those_of_the_tensors_and_of_packets(ended: Ended) -> None:
    raw = sum(p.nbytes for p in ranks_worker.chain().parameters())
    for line in ended[0]["tensors"]["lines"]:  # six steps: averaged after the fourth and at the end
        assert line["sync/bytes/0"] == line["sync/bytes/1"] == 2 * (raw + SWAP_HEAD) and line["sync/bytes"] == 4 * (raw + 8)
    by_form = {name: ended[0][name]["lines"][0]["sync/bytes"] for name in ("8 bits", "float16", "tensors", "lossless")}
    # Of two matrices that are worth to be quantised one has 270 weights of 8 bytes, the other has fewer than 256.
    assert by_form["float16"] < by_form["8 bits"] < by_form["tensors"] < by_form["lossless"] < 1.5 * by_form["tensors"]
    packet = Wire("lossless").write(dict(ranks_worker.chain().named_parameters()))
    assert by_form["lossless"] == pytest.approx(4 * (len(packet) + SWAP_HEAD), abs=4 * 8 * 16)  # a rule's names are longer


def test_a_run_that_goes_on_from_its_checkpoint_ends_in_the_same_numbers(ended: Ended) -> None:
    for one in ended:
        assert tiny.same(one["resumed"]["whole"], one["resumed"]["again"])


def test_a_packet_damaged_on_its_way_is_said_and_nobody_goes_on(ended: Ended) -> None:
    for one in ended:
        assert one["damaged"].startswith("what rank 1 (process ") and one["damaged"].endswith(
            "came damaged (packet: damaged, its checksum is of other bytes; have it sent again); "
            "the same command goes on where this one stopped"
        )


def test_one_that_does_not_answer_is_named_within_the_time(ended: Ended) -> None:
    said, after = ended[0]["hung"]
    assert said.startswith("rank 1 (process ") and 1.4 < after < 4
    assert said.endswith(") has not answered within sync.timeout_s=1.5 seconds of an exchange; " + AGAIN)
    assert [one["swapped"] for one in ended] == [[b"\0", b"\1\1"]] * 2


@pytest.mark.slow
def test_four_processes(tmp_path: Path) -> None:
    found = launched("averaging_worker", tmp_path, 4)
    for name in ("tensors", "nesterov"):
        how = CASES[name]
        assert isinstance(how, Averaging)
        close(found[3][name]["weights"], replicas(4, how))
    assert all(tiny.same(found[0][name]["weights"], one[name]["weights"]) for one in found for name in CASES)
    raw = sum(p.nbytes for p in ranks_worker.chain().parameters())
    assert found[0]["tensors"]["lines"][0]["sync/bytes/2"] == 2 * 3 * (raw + SWAP_HEAD)
    assert tiny.same(found[2]["resumed"]["whole"], found[2]["resumed"]["again"])


# --- what is sent, and settings


def test_the_mean_is_the_same_in_every_order_of_asking_and_of_one_itself() -> None:
    one = torch.randn(1000)
    assert torch.equal(mean([one]).float(), one)
    found = mean([one, one * 3, -one])
    torch.testing.assert_close(found, one.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["tensors", "lossless", "float16", "bfloat16", "plain", "huffman"])
def test_a_form_reads_what_it_wrote_in_the_bytes_that_it_can_have(form: Any) -> None:
    tensors = {"w": torch.randn(30, 20), "b": torch.randn(7), "none": torch.empty(0, 3)}
    wire = Wire(form, 8 if form in ("plain", "huffman") else None)
    data = wire.write(tensors)
    found = wire.read(data, tensors)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in tensors.items()}
    assert len(data) <= wire.most(tensors) and torch.allclose(found["w"], tensors["w"], atol=0.03)
    assert wire.is_exact == tiny.same(found, tensors)
    for other in (data[:-1], data + b"\0", b""):
        with pytest.raises(ValueError):
            wire.read(other, tensors)
    if form != "tensors":
        assert len(decode(data)) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("sync.every=0",), r"^sync\.every: "),
        (("sync.bits=8",), r"^sync\.bits: sync\.form=lossless quantises nothing"),
        (("sync.outer_momentum=1",), r"^sync\.outer_momentum: "),
        (("sync.timeout_s=0",), r"^sync\.timeout_s: "),
    ],
)
def test_what_cannot_be_is_said_in_a_line(more: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(compose(["arch=mlp", "dataset=digits", "method=backprop", "sync=averaging", *more]))


def test_averaging_goes_on_from_its_checkpoint_with_another_number_of_processes_never() -> None:
    saved = fit(Ranks(), MEAN)["saved"][0]
    saved["learners"][0]["syncing"]["parts"] *= 2
    with pytest.raises(CannotGoOn) as raised:
        fit(Ranks(), MEAN, saved=[saved])
    assert str(raised.value.__cause__) == "a checkpoint of 2 processes"
