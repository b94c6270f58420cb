"""Local losses of the literature (§6.3.1), against sums over single samples, and as methods of the engine."""

import math
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts
from effdl.config import build_choice, choices
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.filters.k_filter import KFilter
from effdl.filters.random_subset import RandomSubset
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.training.auxiliary import Auxiliary
from effdl.training.boosting import Boosting, exponential_loss
from effdl.training.decision import Pool
from effdl.training.decision_rule import DecisionRule, gradient_noise
from effdl.training.hardware import Hardware
from effdl.training.infopro import Infopro, reconstruction
from effdl.training.local_loss import LocalLoss, Position, Seen
from effdl.training.loop import reseed
from effdl.training.optim import Sgd
from effdl.training.predsim import Predsim, similarities, similarity_matching
from effdl.training.transport_penalty import TransportPenalty, displacement

LOSSES: dict[str, LocalLoss] = {
    "predsim": Predsim(),
    "infopro": Infopro(),
    "boosting": Boosting(),
    "transport_penalty": TransportPenalty(weight=0.01),
}
FACTS = tiny.problem().facts
Y = torch.tensor([0, 2, 1, 1, 0])


def randn(*shape: int) -> Tensor:
    reseed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def rule_of(loss: LocalLoss | None, **more: Any) -> Any:
    """The first block of the tiny chain in float64, under a plain decision block."""
    at = Position(0, 3)
    model = tiny.chain(dropout=0.0)
    reseed(3)
    decision = Pool().build((tiny.WIDTHS[1], tiny.SIDE, tiny.SIDE), tiny.CLASSES)
    term = None if loss is None else loss.build((tiny.WIDTHS[1], tiny.SIDE, tiny.SIDE), FACTS, at)
    share = 1.0 if loss is None else loss.share(at)
    return DecisionRule(model[0:1], decision, SoftmaxCe(), penalty=term, share=share, **more).double().train()


def batch() -> Batch:
    images = tiny.images(5, 4)
    return Batch(randn(5, 1, tiny.SIDE, tiny.SIDE), Y, torch.arange(5), inputs=images.x)


def test_all_losses_are_tested() -> None:
    assert sorted({*LOSSES, "none"}) == choices("method/loss")


def test_similarities_are_cosines_of_rows_without_their_means_and_a_flat_row_has_none() -> None:
    x = randn(4, 7)
    x[2] = 3.0
    found = similarities(x)
    for i in range(4):
        for j in range(4):
            a, b = x[i] - x[i].mean(), x[j] - x[j].mean()
            wanted = 0.0 if 2 in (i, j) else float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
            assert found[i, j].item() == pytest.approx(wanted, abs=1e-12)


def test_similarity_matching_is_the_mean_square_of_all_pairs() -> None:
    features, classes = randn(5, 6), 3
    s, total = similarities(features), 0.0
    for i in range(5):
        for j in range(5):
            total += (s[i, j].item() - (1.0 if Y[i] == Y[j] else -1 / (classes - 1))) ** 2
    assert similarity_matching(features, Y, classes).mean().item() == pytest.approx(total / 25)
    apart = F.one_hot(Y, classes).double() * 4 + 1  # another scale and shift of the labels themselves
    assert similarity_matching(apart, Y, classes).abs().max() < 1e-12


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_predsim_is_the_sum_of_its_two_losses_and_gives_their_gradients(beta: float) -> None:
    rule, given = rule_of(Predsim(beta=beta)), batch()
    rule.learn(given, 0)
    z = rule.blocks(given.x)
    prediction = F.cross_entropy(rule.decision(z), Y)
    if beta:
        maps = F.conv2d(z, rule.penalty.layer.weight, padding=1)
        deviation = ((maps - maps.mean((2, 3), keepdim=True)).square().sum((2, 3)) / (tiny.SIDE**2 - 1)).sqrt()
        matching = similarity_matching(deviation, Y, tiny.CLASSES).mean()
    else:
        assert rule.penalty is None
        matching = torch.zeros(())
    names, weights = zip(*rule.named_parameters(), strict=True)
    by_hand = torch.autograd.grad((1 - beta) * prediction + beta * matching, weights, allow_unused=True)
    for name, weight, wanted in zip(names, weights, by_hand, strict=True):
        if wanted is None:
            assert weight.grad is None or not weight.grad.any(), name
        else:
            torch.testing.assert_close(weight.grad, wanted, msg=name)


def test_reconstruction_is_the_cross_entropy_of_bernoulli_pixels() -> None:
    outputs, images = randn(2, 1, 3, 3), torch.tensor([0, 51, 255] * 6, dtype=torch.uint8).reshape(2, 1, 3, 3)
    for of_image, image, found in zip(outputs, images, reconstruction(outputs, images), strict=True):
        total = 0.0
        for a, pixel in zip(of_image.flatten().tolist(), image.flatten().tolist(), strict=True):
            p, t = 1 / (1 + math.exp(-a)), pixel / 255
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
        assert found.item() == pytest.approx(total / 9)


def test_infopro_weighs_its_two_losses_from_the_lowest_module_to_the_one_below_the_top() -> None:
    loss = Infopro()
    weights = [(loss.build((4, 6, 6), FACTS, Position(i, 5)).weight, loss.share(Position(i, 5))) for i in range(4)]  # type: ignore[union-attr]
    assert weights == [pytest.approx(pair) for pair in ((5, 0), (3.5, 1 / 3), (2, 2 / 3), (0.5, 1))]
    assert loss.build((4, 6, 6), FACTS, Position(4, 5)) is None and loss.share(Position(4, 5)) == 1
    two = loss.build((4, 6, 6), FACTS, Position(0, 2))
    assert two is not None and two.weight == 5


def test_infopros_gradients_are_those_of_both_losses() -> None:
    loss = Infopro(predict_first=0.5)
    rule, given = rule_of(loss, wants_inputs=True), batch()
    rule.learn(given, 0)
    z = rule.blocks(given.x)
    restored = rule.penalty.layers(F.interpolate(z, size=(tiny.SIDE, tiny.SIDE), mode="bilinear", align_corners=True))
    assert given.inputs is not None
    pixels = F.binary_cross_entropy(restored.sigmoid(), given.inputs.double() / 255)
    total = 5 * pixels + 0.5 * F.cross_entropy(rule.decision(z), Y)
    wanted = torch.autograd.grad(total, [*rule.parameters()])
    torch.testing.assert_close([p.grad for p in rule.parameters()], list(wanted))


def test_exponential_loss_is_a_sum_over_wrong_classes() -> None:
    scores = randn(5, 3)
    for row, y, found in zip(scores.tolist(), Y.tolist(), exponential_loss(scores, Y), strict=True):
        assert found.item() == pytest.approx(sum(math.exp(row[k] - row[y]) for k in range(3) if k != y))


def test_limit_boosting_by_weights_of_samples_is_what_telescopes() -> None:
    """Σ_i Σ_l D_t(i, l) exp(h_t(l) − h_t(y)), h_t = α' o' − α o, D_t(i, l) = exp(α o_l − α o_y): equation 6 without weights."""
    before, after, alphas = randn(5, 3).softmax(1), (2 * randn(3, 5)).T.softmax(1), (0.7, 1.9)
    total = 0.0
    for o, new, y in zip(before.tolist(), after.tolist(), Y.tolist(), strict=True):
        h = [alphas[1] * b - alphas[0] * a for a, b in zip(o, new, strict=True)]
        for k in {0, 1, 2} - {y}:
            total += math.exp(alphas[0] * (o[k] - o[y])) * math.exp(h[k] - h[y])
    assert exponential_loss(alphas[1] * after, Y).sum().item() == pytest.approx(total)


def test_boosting_learns_by_the_exponential_loss_of_scaled_probabilities_alone() -> None:
    rule, given = rule_of(Boosting()), batch()
    with torch.no_grad():
        rule.penalty.log_alpha.fill_(0.4)
    learned = rule.learn(given, 0)
    hypothesis = math.exp(0.4) * rule.decision(rule.blocks(given.x)).softmax(1)
    losses = [sum((o[k] - o[y]).exp() for k in range(3) if k != y) for o, y in zip(hypothesis, Y.tolist(), strict=True)]
    by_hand = torch.stack(losses)  # type: ignore[arg-type]
    torch.testing.assert_close(learned.loss, by_hand.detach())
    weights = [*rule.blocks.parameters(), *rule.decision.parameters()]
    torch.testing.assert_close([p.grad for p in weights], list(torch.autograd.grad(by_hand.mean(), weights)))
    margins = [h[k] - h[y] for h, y in zip(hypothesis.detach(), Y.tolist(), strict=True) for k in range(3)]
    slope = sum(float(margin * margin.exp()) for margin in margins) / 5  # by log α, margins being α (o_k − o_y)
    assert rule.penalty.log_alpha.grad.item() == pytest.approx(slope)


def test_displacement_is_the_squared_distance_of_what_keeps_its_shape() -> None:
    x, z = randn(2, 3, 2, 2), randn(2, 3, 2, 2) * 2
    rows = [zip(p.flatten().tolist(), q.flatten().tolist(), strict=True) for p, q in zip(x, z, strict=True)]
    by_hand = [sum((a - b) ** 2 for a, b in row) for row in rows]
    assert displacement(x, z).tolist() == pytest.approx(by_hand)
    assert displacement(x, randn(2, 4, 2, 2)).tolist() == [0, 0]


def test_a_transport_penalty_counts_every_block_of_its_segment() -> None:
    steps = [randn(2, 3), randn(2, 3) * 3, randn(2, 5), randn(2, 5) * 2]
    term = TransportPenalty(weight=0.5).build((5,), FACTS, Position())
    assert term is not None and TransportPenalty(weight=0.0).build((5,), FACTS, Position()) is None
    by_hand = 0.5 * ((steps[1] - steps[0]).square().sum(1) + (steps[3] - steps[2]).square().sum(1))
    torch.testing.assert_close(term(Seen(steps, randn(2, 3), Y[:2])), by_hand)


@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_gradient_noise_has_no_mean_and_the_deviation_that_it_says_of_what_arrives(deviation: float) -> None:
    z = torch.zeros(200, 300, dtype=torch.float64, requires_grad=True)
    arriving = randn(200, 300) * 7 + 2
    reseed(0)
    gradient_noise(z, deviation).backward(arriving)
    assert z.grad is not None
    noise = (z.grad - arriving) / arriving.square().mean().sqrt() / deviation
    assert abs(noise.mean().item()) < 4 / math.sqrt(noise.numel())
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), arriving.flatten()]))[0, 1].item()) < 0.02


def test_gradient_noise_reaches_the_blocks_and_leaves_the_decision_block_and_what_is_put_out() -> None:
    found = []
    for noise in (0.0, 1.0):
        rule = rule_of(None, gradient_noise=noise)
        reseed(1)
        out = rule.learn(batch(), 0)
        of_decision, of_blocks = ([p.grad for p in part.parameters()] for part in (rule.decision, rule.blocks))
        found.append((out.x, out.loss, *of_decision, *of_blocks))
    still = 2 + len([*rule_of(None).decision.parameters()])
    assert tiny.same(found[0][:still], found[1][:still])
    assert not any(torch.equal(a, b) for a, b in zip(found[0][still:], found[1][still:], strict=True))


def varied(problem: Problem) -> Problem:
    """The same images, of which in each batch all are mirrored or none."""

    def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(3) if torch.rand((), generator=generator) < 0.5 else x

    made = Problem(problem.train_split, problem.val_split, SoftmaxCe(), outputs=tiny.CLASSES, batch_size=8, augment=mirrored)
    assert made.varies
    return made


@pytest.mark.parametrize("kind", ["kept", "fed", "together", "varied", "filtered", "filtered by features"])
def test_a_loss_that_wants_inputs_gets_the_images_that_its_features_are_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.chain(dropout=0.0), list[int]()
    learn = DecisionRule.learn

    def watch(self: DecisionRule, batch: Batch, epoch: int) -> Batch:
        if self.wants_inputs:
            assert batch.inputs is not None and batch.inputs.dtype == torch.uint8
            segments = [i for i, block in enumerate(model.blocks) if block is self.blocks[0]]
            if not segments:  # a rehearsal, of a copy
                return learn(self, batch, epoch)
            (segment,) = segments
            with torch.no_grad():
                x = model.input(batch.inputs)
                for block in model.blocks[:segment] if kind != "together" else ():
                    x = block(x)
            if kind != "together" or segment == 0:
                torch.testing.assert_close(batch.x, x, rtol=1e-4, atol=1e-5)
            seen.append(segment)
        return learn(self, batch, epoch)

    monkeypatch.setattr(DecisionRule, "learn", watch)
    problem = varied(tiny.problem()) if kind == "varied" else tiny.problem()
    method = Segmentwise(
        epochs=2, loss=Infopro(), together=kind == "together", keep_features_mib=0.0 if kind == "fed" else 100.0
    )
    by = {"filtered": RandomSubset(), "filtered by features": KFilter(k=2, when="during", chunk=20)}.get(kind)
    run = Run(0, Sgd(lr=0.01), filter=by)
    method.fit(problem, model, run)
    assert set(seen) == {0, 1}
    assert (run.notes["memory/kept_features_bytes"] > 0) == (kind in ("kept", "together", "filtered", "filtered by features"))


@pytest.mark.parametrize("name", LOSSES)
def test_segments_learn_by_it_bottom_up_and_at_once_and_the_network_is_made_again(name: str) -> None:
    for together in (False, True):
        method = Segmentwise(epochs=1, loss=LOSSES[name], together=together, own_head=together)
        model = tiny.chain()
        run = Run.in_memory(Sgd(lr=0.05))
        network = method.fit(tiny.problem(), model, run)
        again = method.network(tiny.chain(seed=1), FACTS, SoftmaxCe(), run.notes)
        again.load_state_dict(network.state_dict())
        x = tiny.images(6, 3).x
        torch.testing.assert_close(again.eval()(x), network(x))


def test_own_head_trains_the_networks_head_in_the_top_segment_alone() -> None:
    model = tiny.chain()
    head = tiny.copied(model.head)
    network = Segmentwise(epochs=1, own_head=True, choose="last").fit(tiny.problem(), model, Run.in_memory(Sgd(lr=0.05)))
    assert network.head is model.head and not tiny.same(head, tiny.copied(model.head))


def test_what_a_loss_takes_and_what_it_cannot_is_said_in_one_line() -> None:
    reals = replace(FACTS, targets="vectors")
    for loss in (Predsim(), Boosting()):
        with pytest.raises(ConfigError, match="is of classes"):
            loss.check(reals)
    with pytest.raises(ConfigError, match="reconstructs images"):
        Infopro().check(replace(FACTS, input_shape=(5,)))
    floats = Seen([randn(2, 7)], randn(2, 3), Y[:2], randn(2, 1, 6, 6))
    for shape, z in (((7,), randn(2, 7)), ((5, 7), randn(2, 5, 7))):
        term: Any = Infopro().build(shape, FACTS, Position(0, 2))
        with pytest.raises(ConfigError, match="images of bytes"):
            term(floats)
        pixels = torch.zeros(2, 1, 6, 6, dtype=torch.uint8)
        assert term.double()(replace(floats, activations=[z], inputs=pixels)).shape == (2,)
    with pytest.raises(ConfigError, match="nothing is recorded"):
        Segmentwise(loss=Infopro(), record_at=(1,)).check(FACTS, ArchFacts(3, 1), Hardware())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("auxiliary", ["pool 2", *["16 -> 16 1/1"] * 3, *["64 -> 64"] * 3, "64 -> 10"]),
        ("auxiliary_cnn", ["16 -> 16 3/1", "16 -> 16 3/1", "64 -> 10"]),
        ("auxiliary_infopro", ["16 -> 32 3/2", "32 -> 128", "128 -> 10"]),
        ("pool_2048", ["784 -> 10"]),
    ],
)
def test_auxiliary_networks_are_those_of_the_papers(name: str, layers: list[str]) -> None:
    found = []
    for module in build_choice("method/decision", name).build((16, 7, 7), 10).modules():
        if isinstance(module, nn.Conv2d):
            found.append(f"{module.in_channels} -> {module.out_channels} {module.kernel_size[0]}/{module.stride[0]}")
        elif isinstance(module, nn.Linear):
            found.append(f"{module.in_features} -> {module.out_features}")
        elif isinstance(module, nn.AdaptiveAvgPool2d) and isinstance(module.output_size, tuple):
            found.append(f"pool {module.output_size[0]}")
    assert found == layers
    assert Pool(at_most=2048).build((256, 8, 8), 10).size == 2  # type: ignore[attr-defined]


def test_an_auxiliary_network_takes_tokens_and_vectors() -> None:
    for shape in ((9, 12), (12,)):
        assert Auxiliary(hidden=1).build(shape, 3)(torch.randn(4, *shape)).shape == (4, 3)
