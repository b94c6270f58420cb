"""Growth: layers are added until validation says that they suffice (§6.1); a plain loop's numbers, and any epoch resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from command import numbers, run_here
from torch import nn

from effdl import config
from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.mlp import Mlp
from effdl.costs.segments import segment_costs
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import LinearMse
from effdl.records.carry import CPU, build_network, carry_out, open_problem
from effdl.records.networks import load_network
from effdl.records.report import Console, Progress
from effdl.records.run import Run
from effdl.reproduce.planned import cost_of_run
from effdl.rng import seed_for
from effdl.testing import check_method
from effdl.training.engine import Engine
from effdl.training.hardware import Hardware
from effdl.training.optim import Sgd
from effdl.training.orders import Turn
from effdl.training.segments import SegmentPlan, Training
from effdl.training.selection import Growth

LAYERS, WIDTH, EPOCHS, LR, MOMENTUM = 9, 12, 2, 0.1, 0.9
DIGITS = (
    "method=dll",
    f"method.epochs={EPOCHS}",
    "arch=mlp",
    f"arch.hidden=[{WIDTH}]",
    f"arch.repeat={LAYERS}",
    "arch.activation=tanh",
    f"optimizer.lr={LR}",
    "dataset.train_limit=600",
    "dataset.batch_size=16",
    "hardware.threads=1",
)


def spec(*more: str) -> config.Spec:
    return config.build(config.compose([*DIGITS, *more]))


def opened(*more: str) -> tuple[config.Spec, Problem, BlockChain]:
    """The digits, and the layers in float64."""
    of = spec(*more)
    problem = open_problem(of, *of.dataset.load())
    return of, problem, build_network(of, problem, CPU).double()


def reference(until: float, patience: int) -> tuple[list[dict[str, Any]], list[float]]:
    """As anybody would write it: layer after layer on the outputs of those below, by validation accuracy until they suffice."""
    _, problem, chain = opened()
    x, y = chain.input(problem.train_tensors().x), problem.train_tensors().y
    val_x, val_y = chain.input(problem.val_tensors().x), problem.val_tensors().y
    trained: list[dict[str, Any]] = []
    scores: list[float] = []
    for i, block in enumerate(chain.blocks):
        torch.manual_seed(seed_for(0, "init", i))
        head = nn.Linear(WIDTH, 10).double()  # drawn in double precision
        parameters = [*block.parameters(), *head.parameters()]
        velocity = [torch.zeros_like(p) for p in parameters]
        for epoch in range(EPOCHS):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_for(0, "order", i * EPOCHS + epoch)))
            for batch in order.split(16):
                loss = F.cross_entropy(head(block(x[batch])), y[batch])
                with torch.no_grad():
                    for p, v, g in zip(parameters, velocity, torch.autograd.grad(loss, parameters), strict=True):
                        p -= LR * v.mul_(MOMENTUM).add_(g)
        with torch.no_grad():
            x, val_x = block(x), block(val_x)  # X := Forward(X)
            scores.append((head(val_x).argmax(1) == val_y).double().mean().item())
        trained.append({**tiny.copied(block), **{f"head.{k}": t for k, t in tiny.copied(head).items()}})
        best = scores.index(max(scores))
        if max(scores) >= until or i - best >= patience:
            break
    return trained[: best + 1], scores


@pytest.mark.parametrize(
    ("until", "patience", "ended_by"), [(0.90, 9, "grow_until"), (1.0, 2, "grow_patience"), (1.0, 99, "blocks")]
)
def test_a_network_grows_as_in_a_plain_loop_by_either_condition(until: float, patience: int, ended_by: str) -> None:
    layers, scores = reference(until, patience)
    of, problem, chain = opened()
    drawn = tiny.copied(chain)
    run = Run.in_memory(of.optimizer)
    network = Segmentwise(epochs=EPOCHS, grow_until=until, grow_patience=patience).fit(problem, chain, run)
    assert [line["val/acc"] for line in run.lines][EPOCHS - 1 :: EPOCHS] == scores
    told = run.notes["segment/trained"], run.notes["segment/ended_by"], run.notes["segment/chosen"]
    assert told == (len(scores), ended_by, len(layers) - 1)
    assert len(network) == len(layers), "the network ends at the best"
    for block, layer in zip(network.blocks, layers, strict=True):
        ours = {**tiny.copied(block)}
        torch.testing.assert_close(ours, {k: t for k, t in layer.items() if not k.startswith("head.")}, rtol=1e-9, atol=1e-11)
    head = next(m for m in network.head.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(head.weight.detach(), layers[-1]["head.weight"], rtol=1e-9, atol=1e-11)
    left = [f"blocks.{name}." for name in chain.names[len(scores) :]]
    now = tiny.copied(chain)
    assert all(torch.equal(now[k], drawn[k]) for k in now if k.startswith(tuple(left))), "what is not reached stays as drawn"
    assert bool(left) == (ended_by != "blocks")


def test_the_conditions_are_looked_at_after_a_segments_last_epoch_alone() -> None:
    of, problem, chain = opened()
    run = Run.in_memory(of.optimizer)
    Segmentwise(epochs=6, grow_until=0.9).fit(problem, chain, run)
    scores = [line["val/acc"] for line in run.lines]
    assert len(scores) % 6 == 0 and scores[-1] >= 0.9 and any(score >= 0.9 for score in scores[-6:-1])


def test_real_targets_grow_until_a_squared_error() -> None:
    x = torch.linspace(-3, 3, 200)[torch.randperm(200, generator=torch.Generator().manual_seed(0))][:, None]
    data, found = Samples(x, x.sin()), []
    for until in (None, 0.1):
        torch.manual_seed(0)
        run = Run.in_memory(Sgd(lr=0.05))
        problem = Problem(data, data, LinearMse(), outputs=1, batch_size=20)
        Segmentwise(epochs=5, grow_until=until).fit(problem, Mlp(hidden=(16,), repeat=4).build(problem.facts), run)
        found.append([line["val/mse"] for line in run.lines][4::5])
    first = next(i for i, error in enumerate(found[0]) if error <= 0.1)
    assert found[1] == found[0][: first + 1] and len(found[1]) < 4


WRONG = {
    "method.rounds": (
        {"grow_until": 0.9, "rounds": 2},
        20,
        "method.grow_until ends at a segment, with method.rounds none is trained to its end",
    ),
    "method.together": (
        {"grow_patience": 2, "together": True},
        20,
        "method.grow_patience ends at a segment, with method.together",
    ),
    "method.choose": (
        {"grow_patience": 2, "choose": "last"},
        20,
        "method.grow_patience goes by validation, and by it the network ends",
    ),
    "dataset.val_size": ({"grow_patience": 2}, 0, "method.grow_patience goes by validation samples, of which there are none"),
    "no accuracy": ({"grow_until": 97.0}, 20, "method.grow_until=97 is no accuracy: they go to 1"),
}


@pytest.mark.parametrize(("fields", "val", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_work_is_refused_in_a_line(fields: dict[str, Any], val: int, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Segmentwise(**fields).check(tiny.problem(val=val).facts, ArchFacts(3, 1), Hardware())
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_growth_wants_single_turns_from_the_bottom_up() -> None:
    plans = [SegmentPlan(i, i + 1, 1, lambda blocks, shape: blocks) for i in range(2)]  # type: ignore[arg-type, return-value]
    Training(plans, 0, growth=Growth(patience=1))
    for more in ({"order": [Turn(1, 1), Turn(0, 1)]}, {"order": [Turn(0, 1, above=1)]}, {"choose": "last"}):
        with pytest.raises(ValueError, match="growth is of segments from the bottom up"):
            Training(plans, 0, growth=Growth(patience=1), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("stops", [(1, 2, 6), (3, 9, 10), (5, 7, 8)])
def test_stopped_at_any_epoch_it_grows_to_the_same_network(
    stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = spec("method.grow_patience=2", "method.input_dropout=0.2")
    alone = carry_out(of, tmp_path / "alone")
    epochs = EPOCHS * alone["summary"]["segment/trained"]
    assert epochs < EPOCHS * LAYERS
    again = tiny.resumed(of, tmp_path / "again", monkeypatch, *(stop for stop in stops if stop <= epochs))
    assert numbers(Path(again["path"])) == numbers(Path(alone["path"]))
    network = load_network(again["path"])
    assert len(network.blocks) == alone["summary"]["segment/chosen"] + 1


def test_it_keeps_the_contract_of_all_methods_other_test_labels_among_them() -> None:
    check_method(Segmentwise(epochs=2, grow_patience=1), network=lambda seed: tiny.perceptron(seed, (12,) * 6))


def test_plans_and_progress_say_at_most(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    of, problem, chain = opened()
    for method, most in ((Segmentwise(grow_patience=2), True), (Segmentwise(), False)):
        run = Run.in_memory(of.optimizer, reporter=Console())
        costs = segment_costs(Engine(method.training(problem, chain, run), problem, chain, run))
        run.expect(costs, 0)
        assert [cost.certain for cost in costs] == [True, *[not most] * (LAYERS - 1)]
        assert ("at most about" in capfd.readouterr().err) == most
    shown = Progress("run", 2, 9, 0, 2, 0.3, 40.0, {}, at_most=True)
    assert (shown.text(), shown.left()) == ("layer 3 of at most 9 epoch 1/2", "at most 40 s left")
    assert Progress("run", 2, 9, 0, 2, 0.3, 40.0).text() == "layer 3/9 epoch 1/2"


def test_what_is_shown_while_it_grows_says_at_most_until_the_last_layer() -> None:
    class Shown(Console):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, bool]] = []

        def progress(self, progress: Progress) -> None:
            self.seen.append((progress.segment, progress.at_most))

    of, problem, chain = opened()
    run = Run.in_memory(of.optimizer, reporter=(shown := Shown()))
    ahead = run.progress

    def always(*arguments: Any) -> bool:
        run._show_at = 0.0
        return ahead(*arguments)

    run.progress = always  # type: ignore[method-assign]
    Segmentwise(epochs=1, grow_patience=8).fit(problem, chain, run)
    assert {(segment, most) for segment, most in shown.seen} == {(i, i < LAYERS - 1) for i in range(LAYERS)}


def test_a_plan_from_the_command_line_says_at_most() -> None:
    from effdl.records import plan

    for more, words in ((("method.grow_until=0.97",), ("At most 9 blocks", "At most about")), ((), ("9 blocks:", "About"))):
        found = plan.cost(spec(*more), threads=1, timed=True, rows=())
        text = cost_of_run("", found)  # type: ignore[arg-type]
        assert text.splitlines()[1].startswith(words[0]) and text.splitlines()[-1].startswith(words[1])


def test_from_the_command_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_here(*DIGITS, "method.grow_until=0.9", f"results={tmp_path}") == 0
    summary = json.loads(capfd.readouterr().out.splitlines()[-1])["summary"]
    assert summary["segment/ended_by"] == "grow_until" and summary["val/acc"] >= 0.9
    assert summary["segment/trained"] == summary["segment/chosen"] + 1 < LAYERS
    assert summary["data/train_passes"] == EPOCHS * summary["segment/trained"]
    assert run_here(*DIGITS, "method.grow_until=97", f"results={tmp_path}") == 2
    assert (
        capfd.readouterr().err.splitlines()[-1] == "effdl: method.grow_until=97 is no accuracy: they go to 1, and 0.97 is 97%"
    )
