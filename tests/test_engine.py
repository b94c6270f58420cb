"""The engine's identities: what it computes is what a plain loop computes, segment by segment, and nothing leaks."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from effdl.archs.chain import BlockChain
from effdl.config import build, compose
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.carry import build_network, open_problem
from effdl.records.run import Run
from effdl.rng import seed_for
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule
from effdl.training.learner import Learner
from effdl.training.loop import evaluate, reseed
from effdl.training.optim import Adamw, Optimizer, Sgd

SGD, ADAM = Sgd(lr=0.05, weight_decay=1e-3, momentum=0.9), Adamw(lr=0.01, weight_decay=0.1)
EPOCHS, STEPS = 4, 5  # 20 steps on the tiny problem


def plain_loop(model, optimizer, x, y, epochs, batch_size):
    """Training as everybody writes it: one thread, a loss per sample, their mean over the batch."""
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_for(0, "order", epoch)))
        for step, index in enumerate(order.split(batch_size)):
            torch.manual_seed(seed_for(0, "step", 0, epoch, step))
            loss = F.cross_entropy(model(x[index]), y[index], reduction="none").mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def torch_optimizer(model: nn.Module, setting: Optimizer) -> torch.optim.Optimizer:
    if isinstance(setting, Sgd):
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def segment(
    chain: BlockChain,
    start: int,
    stop: int,
    index: int = 0,
    optimizer: Optimizer = SGD,
    decision: Any = None,
    epochs: int = 1,
    yields: bool = True,
    **options: Any,
) -> Learner:
    """Blocks [start, stop) under a fresh decision block, or the given one."""
    reseed(100 + index)
    decision = decision or Pool().build((tiny.WIDTHS[stop], tiny.SIDE, tiny.SIDE), tiny.CLASSES)
    rule = DecisionRule(chain[start:stop], decision, SoftmaxCe(), **options)
    rule.yields = yields
    made = optimizer.build(rule.parameters())
    return Learner(rule, made, seed=lambda e, s: seed_for(0, "step", index, e, s), epochs=epochs)


def fed(problem: Problem, epoch: int, prefix: nn.Module) -> Iterator[Batch]:
    """The epoch's batches through a frozen prefix."""
    with torch.no_grad():
        batches = [replace(batch, x=prefix(batch.x)) for batch in problem.train(epoch)]
    return iter(batches)


def drain(learner: Learner, problem: Problem, prefix: nn.Module, epochs: int = EPOCHS) -> None:
    for epoch in range(epochs):
        for _ in learner.train_epoch(fed(problem, epoch, prefix)):
            pass


@pytest.mark.parametrize("checkpoint", [False, True], ids=["stored", "checkpointed"])
@pytest.mark.parametrize("setting", [SGD, ADAM], ids=["momentum", "adamw"])
class TestPlainLoop:
    def expected(self, setting: Optimizer) -> tuple[BlockChain, dict[str, Any]]:
        model, problem = tiny.chain(), tiny.problem()
        optimizer = torch_optimizer(model, setting)
        untrained = tiny.copied(model)
        data = problem.train_tensors()
        plain_loop(model, optimizer, data.x, data.y, EPOCHS, problem.batch_size)
        assert not tiny.same(untrained, model.state_dict())
        return model, optimizer.state_dict()["state"]

    def test_a_learner_of_all_blocks_equals_it_bit_for_bit(self, setting: Optimizer, checkpoint: bool) -> None:
        plain, optimizer_state = self.expected(setting)
        model = tiny.chain()
        learner = segment(model, 0, 3, optimizer=setting, decision=model.head, checkpoint=checkpoint, epochs=EPOCHS)
        drain(learner, tiny.problem(), model.input)
        assert tiny.same(plain.state_dict(), model.state_dict())
        assert tiny.same(optimizer_state, learner.optimizer.state_dict()["state"])
        assert model.blocks[0][1].num_batches_tracked == EPOCHS * STEPS

    @pytest.mark.parametrize("keep_features_mib", [0.0, 100.0])
    def test_backprop_equals_it_bit_for_bit(self, setting: Optimizer, checkpoint: bool, keep_features_mib: float) -> None:
        plain, optimizer_state = self.expected(setting)
        model, watched = tiny.chain(), tiny.WatchedOptimizer(setting)
        method = Backprop(epochs=EPOCHS, checkpoint="block" if checkpoint else None, keep_features_mib=keep_features_mib)
        network = method.fit(tiny.problem(), model, Run.in_memory(watched))
        assert tiny.same(plain.state_dict(), network.state_dict())
        (optimizer,) = watched.trained
        assert tiny.same(optimizer_state, optimizer.state_dict()["state"])


def test_backprop_measures_the_trained_network_on_its_training_samples_where_asked() -> None:
    problem, runs = tiny.problem(), [Run.in_memory(SGD), Run.in_memory(SGD)]
    trained = [Backprop(epochs=2, measure_train=i == 1).fit(problem, tiny.chain(), runs[i]) for i in (0, 1)]
    assert tiny.same(trained[0].state_dict(), trained[1].state_dict())
    data = tiny.images(40, 1)
    with torch.no_grad():
        outputs = trained[1].eval()(data.x)
    notes = runs[1].notes
    assert notes["train/acc"] == (outputs.argmax(1) == data.y).double().mean().item()
    assert notes["train/end_loss"] == pytest.approx(F.cross_entropy(outputs, data.y).item(), rel=1e-5)
    assert not {"train/acc", "train/end_loss"} & set(runs[0].notes)


def test_checkpointing_takes_less_memory() -> None:
    problem, counted, rehearsed = tiny.problem(train=64, batch_size=64), [], []
    for checkpoint in ("block", None):
        model, run = tiny.chain(), Run.in_memory(SGD)
        learner = segment(model, 0, 3, decision=model.head, checkpoint=checkpoint is not None, yields=False)
        rehearsed.append(Rehearsal(learner, Prefix(next(problem.train(0)), model.input)).memory().peak)
        Backprop(epochs=1, checkpoint=checkpoint).fit(problem, model, run)
        counted.append(run.notes["memory/accounted_peak_bytes"])
    assert rehearsed[0] < 0.8 * rehearsed[1]
    assert counted == rehearsed


def test_weights_above_a_segment_do_not_touch_it() -> None:
    trajectories = []
    for factor in (1, 1000):
        model, watched = tiny.chain(), tiny.WatchedOptimizer(SGD)
        with torch.no_grad():
            for parameter in [*model.blocks[2].parameters(), *model.head.parameters()]:
                parameter *= factor
        Segmentwise(epochs=EPOCHS).fit(tiny.problem(), model, Run.in_memory(watched))
        trajectories.append(watched.weights_of_trained)
    ones, thousands = trajectories
    assert [len(steps) for steps in ones] == [EPOCHS * STEPS] * 3
    assert tiny.same(ones[:2], thousands[:2])
    assert not tiny.same(ones[2], thousands[2])


def test_a_segment_that_gives_nothing_away_learns_the_same_and_holds_no_outputs_through_the_backward_pass() -> None:
    alive: list[bool] = []

    def learned(yields: bool) -> dict[str, Any]:
        made: list[weakref.ref[Any]] = []
        learner = segment(tiny.chain(), 0, 1, yields=yields)
        # Pooled as a block's last operation is; pooling saves its input and indices, so nothing else holds what it puts out.
        blocks = learner.rule.blocks
        blocks.append(nn.MaxPool2d(2))
        blocks[-1].register_forward_hook(lambda module, args, out: made.append(weakref.ref(out.untyped_storage())))
        next(blocks.parameters()).register_hook(lambda grad: alive.append(made[-1]() is not None))
        drain(learner, tiny.problem(), tiny.chain().input)
        return {"weights": tiny.copied(learner.rule), **learner.state_dict()}

    torch.testing.assert_close(learned(True), learned(False), rtol=0, atol=0)
    half = len(alive) // 2
    assert half > 0 and all(alive[:half]) and not any(alive[half:])


def test_no_gradient_reaches_a_graph_kept_alive_below_a_segment() -> None:
    problem, kept, results = tiny.problem(), [], []

    def with_graph(prefix: nn.Module, epoch: int) -> Iterator[Batch]:
        for batch in problem.train(epoch):
            kept.append(prefix(batch.x))
            yield replace(batch, x=kept[-1])

    for graph in (False, True):
        model = tiny.chain().eval()
        prefix = nn.Sequential(model.input, model.blocks[0])
        before = tiny.copied(prefix)
        learner = segment(model, 1, 2)
        for epoch in range(EPOCHS):
            list(learner.train_epoch(with_graph(prefix, epoch) if graph else fed(problem, epoch, prefix)))
        assert tiny.same(before, prefix.state_dict())
        assert all(parameter.grad is None for parameter in prefix.parameters())
        results.append(tiny.copied(learner.rule))
    assert len(kept) == EPOCHS * STEPS and all(x.requires_grad for x in kept)
    assert tiny.same(*results)


def test_a_trained_prefix_keeps_its_weights_and_statistics() -> None:
    model = tiny.chain()
    run = tiny.WatchedRun(Run.in_memory(SGD), model)
    Segmentwise(epochs=2, keep_features_mib=0).fit(tiny.problem(), model, run)
    for i, name in enumerate(model.names[:-1]):
        after = [{k: v for k, v in state.items() if name in k} for at, state in run.epochs if at >= i][1:]
        assert after[0]
        assert all(tiny.same(after[0], later) for later in after[1:])


def test_chained_segments_equal_recorded_and_replayed_ones() -> None:
    problem, results = tiny.problem(), []
    for chained in (True, False):
        model = tiny.chain()
        a, b = segment(model, 0, 1), segment(model, 1, 2, index=1, input_dropout=0.5, input_dropout_decay=0.9)
        losses = []
        for epoch in range(EPOCHS):
            outputs = a.train_epoch(fed(problem, epoch, model.input))
            recorded = outputs if chained else iter([replace(o, x=o.x.clone()) for o in outputs])
            losses += [batch.loss for batch in b.train_epoch(recorded)]
        assert (a.epoch, b.epoch) == (EPOCHS, EPOCHS)
        results.append([tiny.copied(a.rule), tiny.copied(b.rule), a.optimizer.state_dict(), losses])
    assert tiny.same(*results)


def test_a_segment_yields_its_training_forward_pass_from_before_its_update() -> None:
    problem, model = tiny.problem(), tiny.chain()
    learner = segment(model, 0, 1)
    first = next(fed(problem, 0, model.input))
    before = tiny.copied(learner.rule.blocks)
    output = next(learner.train_epoch(iter([first])))
    fresh = tiny.chain()[0:1].train()
    fresh.load_state_dict(before)
    torch.manual_seed(seed_for(0, "step", 0, 0, 0))
    assert torch.equal(output.x, fresh(first.x))
    assert not output.x.requires_grad
    assert not tiny.same(before, learner.rule.blocks.state_dict())


class Probing:
    """A run beside which somebody draws random numbers whenever the engine turns to it."""

    def __init__(self, inner: Run) -> None:
        self.inner, self.draws = inner, 0

    def __getattr__(self, name: str) -> Any:
        self.draws += 1
        torch.rand(7)
        return getattr(self.inner, name)


def test_a_probe_that_draws_random_numbers_changes_nothing() -> None:
    method = Segmentwise(epochs=2, input_dropout=0.5, gradient_dropout=0.3)
    networks = []
    for wrap in (lambda run: run, Probing):
        run = wrap(Run.in_memory(SGD))
        networks.append(method.fit(tiny.problem(), tiny.chain(), run).state_dict())
    assert run.draws > 2 * STEPS
    assert tiny.same(*networks)


def test_a_probe_that_measures_in_mid_epoch_changes_nothing() -> None:
    problem, results = tiny.problem(), []
    for probing in (False, True):
        model = tiny.chain()
        learner = segment(model, 0, 3, decision=model.head)
        for epoch in range(2):
            for _ in learner.train_epoch(fed(problem, epoch, model.input)):
                if probing:
                    evaluate(model, problem.val(), problem.objective)
                    F.dropout(torch.ones(9))
                    torch.randn(5)
        results.append([tiny.copied(model), learner.optimizer.state_dict()])
    assert tiny.same(*results)


def test_gradients_are_on_at_every_yield() -> None:
    problem, model = tiny.problem(), tiny.chain()
    seen = []

    def source() -> Iterator[Batch]:
        for batch in fed(problem, 0, model.input):
            seen.append(torch.is_grad_enabled())
            yield batch
            seen.append(torch.is_grad_enabled())

    for _ in segment(model, 1, 2, index=1).train_epoch(segment(model, 0, 1).train_epoch(source())):
        seen.append(torch.is_grad_enabled())
    assert len(seen) == 3 * STEPS and all(seen)


def test_a_closed_epoch_puts_every_mode_back_and_does_not_count() -> None:
    problem, model = tiny.problem(), tiny.chain()
    learner = segment(model, 0, 2)
    model.blocks[0][1].eval()
    modes = [m.training for m in model.modules()]
    assert len(set(modes)) == 2
    outputs = learner.train_epoch(fed(problem, 0, model.input))
    next(outputs), next(outputs)
    assert model.blocks[0][1].training
    outputs.close()
    assert [m.training for m in model.modules()] == modes
    assert learner.epoch == 0
    list(learner.train_epoch(fed(problem, 0, model.input)))
    assert [m.training for m in model.modules()] == modes
    assert learner.epoch == 1


@pytest.mark.parametrize("checkpoint", [False, True], ids=["stored", "checkpointed"])
def test_a_suspended_epoch_holds_neither_batches_nor_outputs(checkpoint: bool) -> None:
    problem, model, alive = tiny.problem(), tiny.chain(), []

    def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
        while (batch := next(batches, None)) is not None:
            alive.append(weakref.ref(batch.x.untyped_storage()))
            held = [batch]
            del batch
            yield held.pop()

    def raw() -> Iterator[Batch]:
        for index in torch.arange(problem.num_train).split(problem.batch_size):
            data = problem.train_tensors()
            yield Batch(model.input(data.x[index]), data.y[index], index)

    a, b = segment(model, 0, 1, checkpoint=checkpoint), segment(model, 1, 2, index=1, checkpoint=checkpoint)
    outputs = watched(b.train_epoch(watched(a.train_epoch(watched(raw())))))
    for step in range(1, 4):
        out = next(outputs)
        assert len(alive) == 3 * step
        assert [ref() is not None for ref in alive] == [False] * (3 * step - 1) + [True]
        del out
        assert not any(ref() is not None for ref in alive)
    assert all(p.grad is None for p in model.parameters())


def test_kept_features_equal_the_feednet() -> None:
    networks, notes = [], []
    for mib in (0.0, 100.0):
        run = Run.in_memory(SGD)
        method = Segmentwise(epochs=3, input_dropout=0.2, keep_features_mib=mib, choose="last")
        networks.append(method.fit(tiny.problem(), tiny.chain().double(), run).state_dict())
        notes.append(run.notes)
    samples = 60 * tiny.SIDE**2 * 8
    assert [n["memory/kept_features_bytes"] for n in notes] == [0, samples * max(tiny.WIDTHS[:-1])]
    assert [n["data/feature_passes"] for n in notes] == [0, 3]
    torch.testing.assert_close(*networks, rtol=1e-10, atol=1e-12)


def test_seeds_give_their_own_weights_orders_and_splits() -> None:
    def draw(seed: int) -> tuple[Any, ...]:
        spec = build(compose([f"seed={seed}"]))
        problem = open_problem(spec, *spec.dataset.load())
        model = build_network(spec, problem, torch.device("cpu"))
        weights = tiny.copied(model.blocks)
        return weights, [b.index for b in problem.train(0)], [b.index for b in problem.train(1)], problem.val_tensors().x

    draws = [draw(seed) for seed in (0, 1, 2)]
    for one, other in [*pairwise(draws), (draws[0], draws[2])]:
        for a, b in zip(one, other, strict=True):
            assert not tiny.same(a, b)
    assert tiny.same(draws[0], draw(0))
    assert not tiny.same(draws[0][1], draws[0][2])


def test_segments_draw_their_own_decision_blocks_and_masks() -> None:
    seeds = {(s, i, e, t): seed_for(s, "step", i, e, t) for s in range(3) for i in range(3) for e in range(3) for t in range(9)}
    assert len(set(seeds.values())) == len(seeds)
    heads = []
    for seed in (0, 1, 2):
        watched = tiny.WatchedOptimizer(SGD)
        model = BlockChain([nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)], nn.Linear(4, 2))
        data = Samples(torch.randn(8, 4), torch.arange(8) % 2)
        problem = Problem(data, data, SoftmaxCe(), outputs=2, batch_size=8, seed=seed)
        Segmentwise(epochs=1).fit(problem, model, Run.in_memory(watched, seed=seed))
        heads += [optimizer.param_groups[0]["params"][-2] for optimizer in watched.trained]
    assert len({tuple(head.flatten().tolist()) for head in heads}) == 6


def test_an_in_place_first_operation_is_refused_and_modes_are_put_back() -> None:
    x = torch.randn(8, 4)
    blocks = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)))
    rule = DecisionRule(blocks.eval(), nn.Linear(4, 2), SoftmaxCe())
    learner = Learner(rule, SGD.build(rule.parameters()), seed=lambda e, s: 0)
    with pytest.raises(ConfigError, match="in-place"):
        list(learner.train_epoch([Batch(x, torch.arange(8) % 2, torch.arange(8))]))
    assert not blocks.training
