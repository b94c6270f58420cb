"""Accounted memory against bytes worked out by hand, torch's own tracker, and itself on fake tensors."""

import copy
import resource
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from effdl.archs.chain import BlockChain
from effdl.archs.cnn import Cnn4
from effdl.archs.vgg import Vgg
from effdl.config import build_choice, choices
from effdl.costs import rehearsal as rehearsing
from effdl.costs.memory import LiveStorages
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.objectives.losses import SoftmaxCe
from effdl.training.decision import Decision, Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.handle import KINDS, Memory
from effdl.training.learner import Learner
from effdl.training.local_loss import Position
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, Optimizer, Sgd

MNIST = Facts((1, 28, 28), "classes", 10, 60000, 0, 10000, 128)
ARCHS = {"cnn4": Cnn4(), "vgg13_bn": Vgg(batch_norm=True)}


def rehearsal(learner: Learner, feednet: nn.Module, data: Batch, fake: bool = False) -> Rehearsal:
    pieces = feednet if isinstance(feednet, nn.Sequential) else [feednet]
    return Rehearsal(learner, Prefix(data, *pieces, fake=fake))


def segment(
    chain: BlockChain,
    start: int,
    stop: int,
    decision: Decision | None = None,
    optimizer: Optimizer | None = None,
    checkpoint: bool = False,
) -> tuple[Learner, nn.Module]:
    """A segment (without a decision block: under the chain's own head) and its feednet."""
    shape = chain.shapes(MNIST.input_shape)[stop - 1]
    head = decision.build(shape, MNIST.outputs) if decision else chain.head
    rule = DecisionRule(chain[start:stop], head, SoftmaxCe(), checkpoint=checkpoint)
    learner = Learner(rule, (optimizer or Sgd()).build(rule.parameters()), seed=lambda epoch, step: step)
    return learner, nn.Sequential(chain.input, *chain[:start]).eval()


def arch(name: str) -> BlockChain:
    reseed(0)
    return ARCHS[name].build(MNIST)


def batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (size, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Batch(x, torch.arange(size) % 10, torch.arange(size))


def backprop(name: str, **options: object) -> tuple[Learner, nn.Module]:
    chain = arch(name)
    return segment(chain, 0, len(chain), **options)  # type: ignore[arg-type]


def under(loss: str) -> tuple[Learner, nn.Module]:
    """A middle segment of two blocks under a local loss."""
    chain, built = arch("cnn4"), build_choice("method/loss", loss)
    shape, at = chain.shapes(MNIST.input_shape)[2], Position(0, 3)
    term = built.build(shape, MNIST, at)
    assert term is not None
    head = Pool().build(shape, MNIST.outputs)
    rule = DecisionRule(chain[1:3], head, SoftmaxCe(), penalty=term, share=built.share(at), wants_inputs=built.wants_inputs)
    learner = Learner(rule, Sgd().build(rule.parameters()), seed=lambda epoch, step: step)
    return learner, nn.Sequential(chain.input, *chain[:1]).eval()


def middle(name: str, decision: Decision | None = None) -> tuple[Learner, nn.Module]:
    chain = arch(name)
    half = len(chain) // 2
    return segment(chain, half, half + 1, decision or Pool())


def bias_free_mlp(widths: tuple[int, int, int, int]) -> Learner:
    """Two blocks of linear and ReLU, a linear head, no biases; SGD with momentum."""
    a, b, c, d = widths
    first, second, head = nn.Linear(a, b, bias=False), nn.Linear(b, c, bias=False), nn.Linear(c, d, bias=False)
    blocks = nn.Sequential(nn.Sequential(first, nn.ReLU()), nn.Sequential(second, nn.ReLU()))
    rule = DecisionRule(blocks, head, SoftmaxCe())
    return Learner(rule, Sgd(momentum=0.9).build(rule.parameters()), seed=lambda epoch, step: 0)


def state_of(learner: Learner) -> dict[str, object]:
    """All that a step might change."""
    return {"weights": dict(learner.rule.state_dict()), **learner.state_dict()}


def vectors(size: int, width: int, classes: int) -> Batch:
    return Batch(torch.rand(size, width), torch.arange(size) % classes, torch.arange(size))


def test_peak_of_a_small_batch_is_the_bytes_worked_out_by_hand_at_the_first_layers_gradient() -> None:
    # Widths 64-100-50-10, 8 samples, float32 (4 bytes), int64 (8 bytes). The weights' gradients outweigh the activations,
    # so the peak is when the last of them, the first layer's, has just been computed. Alive then:
    weights = 4 * (64 * 100 + 100 * 50 + 50 * 10)  # 47,600: parameters; as much momentum; as much gradient
    data = 4 * 8 * 64 + 8 * 8 + 8 * 8  # the batch: inputs, labels, indices
    outputs = 4 * 8 * 50  # the blocks' outputs, which train_epoch is about to yield
    loss = 4 * 8 + 4 + 4  # per-sample losses, their mean, and the gradient 1 that backward starts from
    arriving = 4 * 8 * 100  # the gradient at the first layer's output, of which the weight's is made
    by_hand = 3 * weights + data + outputs + loss + arriving
    assert by_hand == 149_816

    memory = rehearsal(bias_free_mlp((64, 100, 50, 10)), nn.Sequential(), vectors(8, 64, 10)).memory()
    assert memory.peak == by_hand
    assert memory.by_kind == {
        "parameter": weights,
        "gradient": weights,
        "optimizer": weights,
        "feednet": 0,
        "activation": data + outputs + loss + arriving,
    }


def test_peak_of_a_large_batch_is_the_bytes_worked_out_by_hand_at_the_first_relu() -> None:
    # 512 samples: activations outweigh the weights. The peak is in the backward pass of the first ReLU, before the first
    # layer has its gradient. Alive then:
    parameters = 4 * (64 * 100 + 100 * 50 + 50 * 10)
    gradients = 4 * (100 * 50 + 50 * 10)  # of the second layer and the head
    data = 4 * 512 * 64 + 8 * 512 + 8 * 512
    outputs = 4 * 512 * 50
    loss = 4 * 512 + 4 + 4
    relu = 3 * 4 * 512 * 100  # its saved output, the gradient that arrives and the one that leaves
    by_hand = 2 * parameters + gradients + data + outputs + loss + relu
    assert by_hand == 975_320

    memory = rehearsal(bias_free_mlp((64, 100, 50, 10)), nn.Sequential(), vectors(512, 64, 10)).memory()
    assert memory.peak == by_hand
    assert memory.by_kind["gradient"] == gradients


def test_widening_a_feednet_layer_raises_the_peak_by_its_weights_where_the_peak_stays() -> None:
    def peak(width: int) -> Memory:
        feednet = nn.Sequential(nn.Linear(64, width, bias=False), nn.ReLU(), nn.Linear(width, 32, bias=False))
        return rehearsal(bias_free_mlp((32, 400, 50, 10)), feednet, vectors(8, 64, 10)).memory()

    narrow, wide = peak(16), peak(24)
    weights = 4 * (64 * 8 + 8 * 32)  # eight more hidden units: rows of the first layer, columns of the second
    assert wide.peak - narrow.peak == weights
    assert wide.by_kind["feednet"] - narrow.by_kind["feednet"] == weights
    # The feednet's activations (float32, eight samples) count when they are themselves the peak.
    assert peak(40_000).peak > 4 * (64 + 32 + 8) * 40_000


def oracle(learner: Learner, feednet: nn.Module, data: Batch) -> int:
    """The peak of the second of two plain steps, by torch's own tracker."""
    rule, optimizer = learner.rule.train(), learner.optimizer
    assert isinstance(rule, DecisionRule)

    def step() -> None:
        with torch.no_grad():
            x = feednet(data.x)
        outputs = [rule.forward(x)]
        loss = rule.objective.loss(rule.decision(outputs[0]), data.y)
        if not rule.yields:  # else somebody holds them
            outputs.clear()
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    held = [t for slots in optimizer.state.values() for t in slots.values() if isinstance(t, torch.Tensor)]
    tracker = MemTracker()
    tracker.track_external(rule, feednet, *held, data.x, data.y, data.index)
    with tracker:
        step()
    return sum(kinds["Total"] for kinds in tracker.get_tracker_snapshot("peak").values())


ORACLE_CASES: dict[str, Callable[[], tuple[Learner, nn.Module]]] = {
    "cnn4 backprop": lambda: backprop("cnn4"),
    "cnn4 middle": lambda: middle("cnn4"),
    "vgg13_bn backprop": lambda: backprop("vgg13_bn"),
    "vgg13_bn middle": lambda: middle("vgg13_bn"),
    **{
        f"cnn4 backprop {choice}": lambda choice=choice: backprop("cnn4", optimizer=build_choice("optimizer", choice))  # type: ignore[misc]
        for choice in ("adamw", "adam", "adagrad", "adadelta", "rmsprop", "rmsprop_torch")
    },
    "cnn4 middle down_conv": lambda: middle("cnn4", build_choice("method/decision", "down_conv")),
}


@pytest.mark.parametrize(("case", "size"), [*((case, 3) for case in ORACLE_CASES), ("cnn4 backprop", 50), ("cnn4 middle", 50)])
def test_peak_equals_torchs_memory_tracker_to_the_byte(case: str, size: int) -> None:
    learner, feednet = ORACLE_CASES[case]()
    ours = rehearsal(learner, feednet, batch(size)).memory().peak
    assert ours == oracle(learner, feednet, batch(size))


FAKE_CASES: dict[str, Callable[[], tuple[Learner, nn.Module]]] = {
    **ORACLE_CASES,
    "vgg13_bn checkpointed": lambda: backprop("vgg13_bn", checkpoint=True),
    "cnn4 checkpointed Adamw": lambda: backprop("cnn4", checkpoint=True, optimizer=Adamw()),
    **{
        f"cnn4 middle {name}": lambda name=name: middle("cnn4", build_choice("method/decision", name))  # type: ignore[misc]
        for name in choices("method/decision")
    },
    **{
        f"cnn4 middle under {name}": lambda name=name: under(name)  # type: ignore[misc]
        for name in choices("method/loss")
        if name != "none"
    },
}


@pytest.mark.parametrize("case", FAKE_CASES)
def test_fake_tensors_give_the_real_count_to_the_byte_and_kinds_sum_to_the_peak(case: str) -> None:
    learner, feednet = FAKE_CASES[case]()
    real = rehearsal(learner, feednet, batch(2)).memory()
    fake = rehearsal(learner, feednet, batch(2), fake=True).memory()
    assert fake == real
    assert set(real.by_kind) == set(KINDS) and sum(real.by_kind.values()) == real.peak


def test_a_view_counts_the_whole_storage_that_it_keeps_alive_once() -> None:
    live, whole = LiveStorages(), torch.zeros(10)
    live.book([whole[2:4], whole[:1], None], "feednet")
    with live:
        half = whole[:5].clone()
    assert live.memory() == Memory(40 + 20, {kind: {"feednet": 40, "activation": 20}.get(kind, 0) for kind in KINDS})
    assert half.numel() == 5


def test_all_decision_blocks_are_among_the_cases() -> None:
    blocks = [
        "auxiliary",
        "auxiliary_cnn",
        "auxiliary_infopro",
        "down_conv",
        "down_conv_4",
        "linear",
        "pool",
        "pool_2048",
        "vgg",
    ]
    assert choices("method/decision") == blocks


def test_checkpointing_lowers_backprops_peak() -> None:
    plain, checkpointed = (rehearsal(*backprop("vgg13_bn", checkpoint=c), batch(64), fake=True).memory() for c in (False, True))
    assert checkpointed.peak < 0.8 * plain.peak
    assert checkpointed.by_kind["parameter"] == plain.by_kind["parameter"]


def test_fake_tensors_allocate_next_to_nothing() -> None:
    learner, feednet = middle("cnn4")
    huge = Batch(torch.zeros(1, 1, 28, 28).expand(100_000, 1, 28, 28), *2 * [torch.zeros(100_000, dtype=torch.long)])
    rehearsal(learner, feednet, batch(2), fake=True).memory()  # imports are not what is measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = rehearsal(learner, feednet, huge, fake=True).memory()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert memory.peak > 8e9
    assert grown < 50e6


@pytest.mark.parametrize("fake", [False, True])
def test_a_batch_that_is_a_slice_of_the_set_counts_itself_only(fake: bool) -> None:
    learner, feednet = middle("cnn4")
    whole = batch(500)
    part = Batch(whole.x[4:8], whole.y[4:8], whole.index[4:8])
    assert rehearsal(learner, feednet, part, fake=fake).memory() == rehearsal(learner, feednet, batch(4)).memory()


@pytest.mark.parametrize("fake", [False, True])
def test_a_rehearsal_leaves_the_original_as_it_was(fake: bool) -> None:
    learner, feednet = backprop("cnn4")
    data = batch(4)
    for _ in learner.train_epoch([Batch(feednet(data.x), data.y, data.index)]):
        pass  # so that there is momentum to spoil
    before = copy.deepcopy((state_of(learner), feednet.state_dict()))
    modes = [m.training for m in learner.rule.modules()]
    tried = rehearsal(learner, feednet, data, fake=fake)
    tried.memory()
    if not fake:
        tried.seconds()
    torch.testing.assert_close((state_of(learner), feednet.state_dict()), before, rtol=0, atol=0)
    assert learner.epoch == 1 and [m.training for m in learner.rule.modules()] == modes
    assert all(p.grad is None for p in learner.rule.parameters())
    assert torch.equal(data.x, batch(4).x)


def test_segments_of_one_form_are_copied_and_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copied, timed, chain = list[Learner](), list[object](), arch("cnn4")
    copy_of, usual = Prefix.copy, rehearsing.usual
    monkeypatch.setattr(Prefix, "copy", lambda self, learner: copied.append(learner) or copy_of(self, learner))
    monkeypatch.setattr(rehearsing, "usual", lambda call, *more: timed.append(call) or usual(call, *more))
    prefix = Prefix(batch(8), chain.input, *chain.blocks[:2])
    before, (first, _), (second, _) = len(timed), *(segment(chain, 2, 3, Pool()) for _ in range(2))
    peaks = [Rehearsal(learner, prefix).memory() for learner in (first, second)]
    assert peaks[0] == peaks[1] and copied == [first]
    seconds = prefix.seconds
    prefix.climb(nn.Identity(), nn.Identity())
    assert len(timed) == before + 1 and prefix.seconds > seconds


def test_what_a_call_usually_takes_is_the_mean_after_one_that_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, takes = [0.0], iter([1.9, 0.2, 0.1, 0.9, 0.1, 0.3, 5.0])
    monkeypatch.setattr(rehearsing, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(takes)

    assert rehearsing.usual(call, torch.device("cpu"), 1.5) == pytest.approx(0.32)  # of 0.2, 0.1, 0.9, 0.1, 0.3
    assert rehearsing.usual(call, torch.device("cpu"), 1.5) == pytest.approx(5.0) and next(takes, None) is None


def test_training_after_a_rehearsal_gives_the_same_bits_as_without() -> None:
    def trained(rehearse: bool) -> dict[str, object]:
        learner, feednet = middle("cnn4", build_choice("method/decision", "vgg"))  # with dropout
        data = batch(4)
        if rehearse:
            rehearsal(learner, feednet, data).memory()
        for _ in learner.train_epoch([Batch(feednet(data.x), data.y, data.index)] * 2):
            pass
        return state_of(learner)

    torch.testing.assert_close(trained(True), trained(False), rtol=0, atol=0)


def test_issue_vgg13_bn_heads_decide_what_the_first_layer_costs() -> None:
    # VGG-13 with batch normalisation, MNIST, 128 samples: pooled to 7×7 the first layer's head costs about 0.39 of
    # backprop's peak, unpooled (32×32) it has 34 million weights and costs more than backprop itself.
    whole = rehearsal(*backprop("vgg13_bn"), batch(128), fake=True).memory().peak
    shares = {}
    for size in (7, 32):
        chain = arch("vgg13_bn")
        head = Pool(size=size, hidden=(512, 512), dropout=0.5)
        shares[size] = rehearsal(*segment(chain, 0, 1, head), batch(128), fake=True).memory().peak / whole
    assert 0.35 < shares[7] < 0.43
    assert 1.25 < shares[32] < 1.41
