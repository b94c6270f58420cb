"""Everything around a segment: the two dropouts of §6.6.3, rates by layer, schedules, decision blocks."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.config import build_choice, build_setting, choices, compose
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.learner import Learner
from effdl.training.loop import reseed
from effdl.training.optim import Adamw, MultiStep, Sgd

SGD = Sgd(lr=0.05, weight_decay=1e-3)
DECISIONS = choices("method/decision")


class FirstStep:
    """One step of a float64 segment: what it puts out, and the gradients at its output and in both its halves."""

    def __init__(self, p: float, seed: int = 0) -> None:
        model = tiny.chain().double()
        reseed(7)
        decision = Pool(size=3).build((tiny.WIDTHS[2], tiny.SIDE, tiny.SIDE), tiny.CLASSES).double()
        blocks = model[0:2]
        rule = DecisionRule(blocks, decision, SoftmaxCe(), gradient_dropout=p)
        learner = Learner(rule, SGD.build(rule.parameters()), seed=lambda epoch, step: seed_for(seed, "step", epoch, step))
        rule.train()
        reseed(seed_for(seed, "step", 0, 0))
        blocks[-1].register_forward_hook(lambda module, x, out: out.register_hook(self.keep) and None)
        batch = next(tiny.problem(train=40, batch_size=40).train(0))
        output = learner.step(replace(batch, x=model.input(batch.x)))
        self.outputs, self.loss = output.x, output.loss
        self.decision = [parameter.grad for parameter in decision.parameters()]
        self.blocks = [parameter.grad for parameter in blocks.parameters()]

    def keep(self, gradient: Tensor) -> None:
        self.arriving = gradient.clone()


@pytest.mark.parametrize("p", [0.5, 0.75])  # 1 / (1 − p) is exact
def test_gradient_dropout_masks_what_leaves_the_decision_block_and_nothing_else(p: float) -> None:
    whole, dropped = FirstStep(0.0), FirstStep(p)
    assert whole.outputs.dtype == torch.float64
    assert torch.equal(whole.outputs, dropped.outputs)
    assert torch.equal(whole.loss, dropped.loss)
    assert tiny.same(whole.decision, dropped.decision)
    assert (whole.arriving != 0).all()
    ratio = dropped.arriving / whole.arriving
    assert set(ratio.unique().tolist()) == {0.0, 1 / (1 - p)}
    share = (ratio == 0).double().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / ratio.numel()) ** 0.5)
    assert not any(torch.equal(a, b) for a, b in zip(whole.blocks, dropped.blocks, strict=True))


def test_gradient_dropout_draws_another_mask_at_every_step_seed() -> None:
    masks = [FirstStep(0.5, seed).arriving == 0 for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_gradient_dropout_is_the_same_in_all_epochs() -> None:
    shares: list[float] = []

    def measure(gradient: Tensor) -> None:
        shares.append((gradient == 0).double().mean().item())

    watch = nn.Linear(4, 500)
    watch.register_forward_hook(lambda m, x, out: out.register_hook(measure) and None if m is watch and m.training else None)
    data = Samples(torch.randn(40, 4), torch.arange(40) % 2)
    problem = Problem(data, data, SoftmaxCe(), outputs=2, batch_size=40)
    Segmentwise(epochs=6, gradient_dropout=0.6).fit(problem, BlockChain([watch], nn.Linear(500, 2)), Run.in_memory(SGD))
    assert len(shares) == 6
    assert shares == pytest.approx([0.6] * 6, abs=0.02)


class InputWatch:
    """The share of zeros and the largest value in what each block takes while it trains, step by step."""

    def __init__(self, model: BlockChain) -> None:
        self.zeros: list[list[float]] = [[] for _ in range(len(model))]
        self.largest: list[list[float]] = [[] for _ in range(len(model))]
        for i, block in enumerate(model.blocks):
            block.register_forward_pre_hook(lambda m, args, i=i, block=block: self.look(i, m is block and m.training, args[0]))

    def look(self, i: int, training: bool, x: Tensor) -> None:
        if training:  # and no copy of the block, on which memory is counted
            self.zeros[i].append((x == 0).double().mean().item())
            self.largest[i].append(x.abs().max().item())


@pytest.mark.parametrize("drop_raw_input", [True, False])
@pytest.mark.parametrize("keep_features_mib", [0.0, 100.0])
def test_forward_dropout_decays_by_epoch_and_restarts_at_each_segment(drop_raw_input: bool, keep_features_mib: float) -> None:
    width, epochs = 1000, 4
    torch.manual_seed(0)
    model = BlockChain([nn.Sequential(nn.Linear(width, width), nn.Sigmoid()) for _ in range(3)], nn.Linear(width, 2))
    watch = InputWatch(model)
    data = Samples(torch.ones(64, width), torch.arange(64) % 2)
    problem = Problem(data, data, SoftmaxCe(), outputs=2, batch_size=32)
    method = Segmentwise(epochs=epochs, input_dropout=0.8, drop_raw_input=drop_raw_input, keep_features_mib=keep_features_mib)
    method.fit(problem, model, Run.in_memory(Sgd(lr=1e-3)))
    expected = [rate for rate in (0.8, 0.8 * 0.95, 0.8 * 0.95**2, 0.8 * 0.95**3) for _ in range(2)]
    assert watch.zeros[1] == pytest.approx(expected, abs=0.01)
    assert watch.zeros[2] == pytest.approx(expected, abs=0.01)
    assert watch.zeros[0] == (pytest.approx(expected, abs=0.01) if drop_raw_input else [0.0] * 2 * epochs)
    kept = [1 / (1 - p) for p in expected] if drop_raw_input else [1.0] * 2 * epochs
    assert watch.largest[0] == pytest.approx(kept, rel=1e-6)


def test_without_forward_dropout_inputs_stay_whole() -> None:
    model = BlockChain([nn.Sequential(nn.Linear(50, 50), nn.Sigmoid()) for _ in range(2)], nn.Linear(50, 2))
    watch = InputWatch(model)
    data = Samples(torch.ones(8, 50), torch.arange(8) % 2)
    Segmentwise(epochs=2).fit(Problem(data, data, SoftmaxCe(), outputs=2, batch_size=8), model, Run.in_memory(SGD))
    assert watch.zeros == [[0.0] * 2] * 2


@pytest.mark.parametrize("base", [SGD, Adamw(lr=0.01, weight_decay=0.1)], ids=["sgd", "adamw"])
def test_segment_i_learns_at_base_times_factor_to_the_i(base: Any) -> None:
    watched = tiny.WatchedOptimizer(base)
    method = Segmentwise(epochs=1, lr_factor=0.8, weight_decay_factor=1.15)
    method.fit(tiny.problem(), tiny.chain(), Run.in_memory(watched))
    groups = [group for optimizer in watched.trained for group in optimizer.param_groups]
    assert [len(group["params"]) for group in groups] == [3 + 2] * 3  # a block's and its decision block's, nothing below
    assert [g["lr"] for g in groups] == pytest.approx([base.lr, base.lr * 0.8, base.lr * 0.64], rel=1e-12)
    decays = [base.weight_decay, base.weight_decay * 1.15, base.weight_decay * 1.3225]
    assert [g["weight_decay"] for g in groups] == pytest.approx(decays, rel=1e-12)


def test_the_schedule_restarts_at_each_segment() -> None:
    watched = tiny.WatchedOptimizer(Sgd(lr=0.1, schedule=MultiStep(milestones=(0.5, 0.75), gamma=0.1)))
    problem = tiny.problem(batch_size=40)
    Segmentwise(epochs=(4, 8, 4), lr_factor=0.5).fit(problem, tiny.chain(), Run.in_memory(watched))
    quarters = [1, 1, 0.1, 0.01]
    expected = [
        [0.1 * q for q in quarters],
        [0.05 * q for q in quarters for _ in range(2)],
        [0.025 * q for q in quarters],
    ]
    assert [len(rates) for rates in watched.rates_of_trained] == [4, 8, 4]
    for rates, wanted in zip(watched.rates_of_trained, expected, strict=True):
        assert rates == pytest.approx(wanted, rel=1e-12)


def test_the_last_entry_of_epochs_holds_for_all_further_segments() -> None:
    run = Run.in_memory(SGD)
    Segmentwise(epochs=(1, 3)).fit(tiny.problem(), tiny.chain(), run)
    assert [line["segment"] for line in run.lines] == [0, 1, 1, 1, 2, 2, 2]


def test_the_folder_of_decision_blocks_has_five_of_the_thesis_and_four_of_its_rivals() -> None:
    ours, rivals = ["down_conv", "down_conv_4", "linear", "pool", "vgg"], ["auxiliary", "auxiliary_cnn", "auxiliary_infopro"]
    assert sorted([*ours, *rivals, "pool_2048"]) == DECISIONS


@pytest.mark.parametrize("arch", ["cnn4", "vgg13_bn"])
@pytest.mark.parametrize("decision", DECISIONS)
def test_every_decision_block_fits_first_middle_and_last_segment(arch: str, decision: str) -> None:
    node = compose([f"arch={arch}", f"method/decision={decision}"])
    facts = Facts((1, 8, 8), "classes", 7, 4, 0, 0, 4)
    reseed(0)
    model = build_setting(node.arch, "arch").build(facts)
    setting = build_setting(node.method.decision, "method/decision")
    shapes = model.shapes(facts.input_shape)
    x = model.input(torch.randint(0, 16, (4, 1, 8, 8)))
    for start in (0, len(model) // 2, len(model) - 1):
        with torch.no_grad():
            features = model[:start].eval()(x)
        block = setting.build(shapes[start], facts.outputs)
        blocks = model[start : start + 1].train()
        logits = block(blocks(features))
        assert logits.shape == (4, 7)
        rule = DecisionRule(blocks, block, SoftmaxCe())
        parameters = list(rule.parameters())
        learner = Learner(rule, SGD.build(parameters), seed=lambda epoch, step: step)
        output = learner.step(Batch(features, torch.tensor([0, 6, 3, 1]), torch.arange(4)))
        assert output.loss.shape == (4,)
        assert output.loss.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in parameters)


def test_the_vgg_decision_block_has_three_linear_layers_on_seven_by_seven() -> None:
    block = build_setting(compose(["method/decision=vgg"]).method.decision, "method/decision").build((64, 32, 32), 10)
    linears = [(m.in_features, m.out_features) for m in block.modules() if isinstance(m, nn.Linear)]
    assert linears == [(64 * 7 * 7, 512), (512, 512), (512, 10)]
    assert [m.p for m in block.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_the_linear_decision_block_is_one_affine_map_of_the_whole_output() -> None:
    block = build_choice("method/decision", "linear").build((3, 5, 4), 10).double()
    weight, bias = block.parameters()
    assert weight.shape == (10, 3 * 5 * 4) and bias.shape == (10,)
    z = torch.randn(6, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(block(z), torch.einsum("bf,kf->bk", z.reshape(6, 60), weight) + bias)


def test_down_convolutions_stop_at_a_side_of_one() -> None:
    block = build_choice("method/decision", "down_conv")
    four = replace(block, convs=4)
    strides = [
        [m.stride for m in four.build(shape, 10).modules() if isinstance(m, nn.Conv2d)]
        for shape in ((8, 32, 32), (8, 4, 4), (8, 1, 1))
    ]
    assert [len(of_shape) for of_shape in strides] == [4, 2, 0]
    assert {stride for of_shape in strides for stride in of_shape} == {(2, 2)}
