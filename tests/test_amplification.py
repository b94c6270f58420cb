"""Gradient amplification against the thesis's printed expressions (§4.5 to §4.8, §4.14), by hand, and beyond a dtype."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from effdl.config import build, build_choice, build_setting, choices, compose
from effdl.errors import ConfigError
from effdl.objectives.amplification import ExpGa, Pow3Ga
from effdl.objectives.losses import LinearMse, SigmoidBce, SoftmaxCe, TanhMse
from effdl.objectives.objective import Objective
from effdl.training.loop import evaluate_each

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(7, 5, dtype=torch.float64, generator=GENERATOR)
CLASSES = torch.tensor([0, 4, 1, 1, 2, 3, 0])
REALS = 6 * torch.rand(7, 5, dtype=torch.float64, generator=GENERATOR)
EXP = {
    "fig. 4.1a": ExpGa(targets=(0, 16)),
    "table 4.2": ExpGa(alpha=0.5, targets=(0, 2)),
    "table 4.3": ExpGa(alpha=1, targets=(0, 3)),
    "from above 0": ExpGa(alpha=0.3, targets=(0.5, 2)),
}
POW3 = {
    "fig. 4.1a": Pow3Ga(targets=(0, 10)),
    "fig. 4.1b": Pow3Ga(),
    "table 4.3": Pow3Ga(alpha=0.0007, beta=0, targets=(-1, 1)),
}
BOTH: dict[str, ExpGa | Pow3Ga] = {f"exp, {k}": v for k, v in EXP.items()} | {f"pow3, {k}": v for k, v in POW3.items()}
EVERY: dict[str, Objective] = {name: build_choice("objective", name) for name in choices("objective")}
EVERY |= BOTH | {
    "smoothed": SoftmaxCe(label_smoothing=0.1),
    "linear ±1": LinearMse(targets=(-1, 1)),
    "sigmoid, narrow": SigmoidBce(targets=(0.1, 0.9)),
    "sigmoid, bounded": SigmoidBce(bounded=True),
    "tanh, narrow": TanhMse(targets=(-0.9, 0.9)),
}
Loss = Callable[[Tensor, Tensor], Tensor]


def spelled(of: ExpGa | Pow3Ga, y: Tensor) -> list[list[float]]:
    """Targets, spelled out."""
    if y.is_floating_point():
        return y.tolist()
    return [[of.targets[1] if k == c else of.targets[0] for k in range(LOGITS.shape[1])] for c in y.tolist()]


def printed_gradient(of: ExpGa | Pow3Ga, a: float, t: float) -> float:
    """αe^x − t (§4.5), αx³ + β − t (§4.8)."""
    return of.alpha * math.exp(a) - t if isinstance(of, ExpGa) else of.alpha * a**3 + of.beta - t


def printed_loss(of: ExpGa | Pow3Ga, a: float, t: float) -> float:
    """|y| − t ln y (§4.6), ¼αx⁴ + βx − tx (§4.8)."""
    if isinstance(of, ExpGa):
        unit = of.alpha * math.exp(a)
        return abs(unit) - t * math.log(unit)
    return of.alpha * a**4 / 4 + of.beta * a - t * a


def printed_curvature(of: ExpGa | Pow3Ga, a: float) -> float:
    """The derivative of the gradient: αe^x and 3αx² (§4.14, where α is dropped)."""
    return of.alpha * math.exp(a) if isinstance(of, ExpGa) else 3 * of.alpha * a**2


def check_values(of: ExpGa | Pow3Ga, loss: Loss) -> None:
    """The loss is the printed one, up to a constant; so, by central differences, is its slope."""
    for y in (CLASSES, REALS):
        found = loss(LOGITS, y)
        rows = zip(LOGITS.tolist(), spelled(of, y), strict=True)
        expected = np.array([sum(printed_loss(of, a, t) for a, t in zip(row, ts, strict=True)) for row, ts in rows])
        # Of real targets what a sample's loss is beyond its value at other outputs: constants may hang on the targets
        elsewhere = LOGITS + 1
        rows = zip(elsewhere.tolist(), spelled(of, y), strict=True)
        expected -= [sum(printed_loss(of, a, t) for a, t in zip(row, ts, strict=True)) for row, ts in rows]
        np.testing.assert_allclose((found - loss(elsewhere, y)).numpy(), expected, rtol=1e-11, atol=1e-11)
        for k in range(LOGITS.shape[1]):
            step = torch.zeros_like(LOGITS)
            step[:, k] = 1e-5
            slopes = ((loss(LOGITS + step, y) - loss(LOGITS - step, y)) / 2e-5).tolist()
            of_k = [printed_gradient(of, row[k], t[k]) for row, t in zip(LOGITS.tolist(), spelled(of, y), strict=True)]
            np.testing.assert_allclose(slopes, of_k, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("of", BOTH.values(), ids=BOTH)
def test_losses_are_the_printed_ones(of: ExpGa | Pow3Ga) -> None:
    check_values(of, of.loss)


@pytest.mark.parametrize("of", [ExpGa(), Pow3Ga()])
def test_a_constant_in_a_loss_is_nothing_and_a_factor_is_found(of: ExpGa | Pow3Ga) -> None:
    check_values(of, lambda a, y: of.loss(a, y) + 3)
    with pytest.raises(AssertionError):
        check_values(of, lambda a, y: 1.001 * of.loss(a, y))


@pytest.mark.parametrize("of", BOTH.values(), ids=BOTH)
def test_gradients_are_the_printed_ones(of: ExpGa | Pow3Ga) -> None:
    for y in (CLASSES, REALS):
        a = LOGITS.clone().requires_grad_()
        (found,) = torch.autograd.grad(of.loss(a, y).sum(), a)
        rows = zip(LOGITS.tolist(), spelled(of, y), strict=True)
        expected = [[printed_gradient(of, a, t) for a, t in zip(row, ts, strict=True)] for row, ts in rows]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)
        with torch.no_grad():
            np.testing.assert_allclose((of.units(LOGITS) - of.targets_of(y, LOGITS)).numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("of", BOTH.values(), ids=BOTH)
def test_hessians_are_the_printed_ones_and_have_nothing_off_the_diagonal(of: ExpGa | Pow3Ga) -> None:
    found = torch.autograd.functional.hessian(lambda a: of.loss(a[None], CLASSES[:1]).sum(), LOGITS[0])
    expected = np.diag([printed_curvature(of, a) for a in LOGITS[0].tolist()])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)
    by_func = torch.func.jacrev(torch.func.jacrev(lambda a: of.loss(a[None], CLASSES[:1]).sum()))(LOGITS[0])
    torch.testing.assert_close(by_func, found, rtol=1e-12, atol=1e-14)


def test_scalar_cases_by_hand() -> None:
    """α = ½, x = ln 4 at the class and 0 beside it: y = 2 and ½. With t = {0, 2}: loss 2 − 2 ln 2 + ½, gradient 0 and ½.
    α = 0.001, β = 0.4, x = 10 and −10, t = {−2, 10}: 2.5 + 4 − 100 + 2.5 − 4 − 20, gradient 1.4 − 10 and −0.6 + 2."""
    a = torch.tensor([[math.log(4), 0.0]], dtype=torch.float64, requires_grad=True)
    loss = ExpGa(alpha=0.5, targets=(0, 2)).loss(a, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss.sum(), a)
    assert loss.item() == pytest.approx(2.5 - 2 * math.log(2), rel=1e-14)
    assert gradient[0].tolist() == pytest.approx([0, 0.5], abs=1e-14)
    a = torch.tensor([[10.0, -10.0]], dtype=torch.float64, requires_grad=True)
    loss = Pow3Ga().loss(a, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss.sum(), a)
    assert loss.item() == pytest.approx(-115, rel=1e-14) and gradient[0].tolist() == pytest.approx([-8.6, 1.4], rel=1e-13)


@pytest.mark.parametrize("of", EVERY.values(), ids=EVERY)
def test_first_and_second_derivatives_equal_finite_differences(of: Objective) -> None:
    a = LOGITS[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: of.loss(a, CLASSES[:3]), a)
    assert torch.autograd.gradgradcheck(lambda a: of.loss(a, CLASSES[:3]), a)
    images = torch.randn(2, 5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = torch.tensor([[[0, 255, 4], [1, 1, 2]], [[3, 0, 255], [255, 2, 2]]])
    assert torch.autograd.gradcheck(lambda a: of.loss(a, y), images)
    assert torch.autograd.gradgradcheck(lambda a: of.loss(a, y), images)


RISING = torch.tensor(
    [-1e4, -100, -20, -1, 0, 2, 5, 9, 10, 11, 12, 13.4, 15, 20, 60, 88.7, 88.75, 91, 91.05, 92, 150, 1e3, 1e4]
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of", BOTH.values(), ids=BOTH)
def test_beyond_a_dtype_losses_and_gradients_are_finite_and_never_turn(of: ExpGa | Pow3Ga, dtype: torch.dtype) -> None:
    """One output rises and the others stay: the gradient never falls, and the loss not where the gradient is positive."""
    for of_class in (0, 1):
        a = torch.zeros(len(RISING), 3, dtype=dtype)
        a[:, 0] = RISING.to(dtype)
        a.requires_grad_()
        losses = of.loss(a, torch.full((len(a),), of_class))
        (found,) = torch.autograd.grad(losses.sum(), a)
        assert losses.dtype == found.dtype == dtype and losses.isfinite().all() and found.isfinite().all()
        assert (found[:, 0].diff() >= 0).all() and (losses.diff()[found[:-1, 0] >= 0] >= 0).all()
        assert (losses.diff()[found[1:, 0] <= 0] <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of", BOTH.values(), ids=BOTH)
def test_within_a_dtype_nothing_is_changed(of: ExpGa | Pow3Ga, dtype: torch.dtype) -> None:
    """But for rounding: of the exponent, whose error is as large as the output, and of the result."""
    most, eps = torch.finfo(dtype).max, torch.finfo(dtype).eps
    a = torch.linspace(-60, 88, 1000).to(dtype)[:, None].repeat(1, 2)
    exact = a.double()
    y = torch.zeros(len(a), dtype=torch.long)
    with torch.no_grad():
        units = of.units(exact)
        held = (units.abs() < 0.99 * most).all(1)
        held_losses = held & (of.loss(exact, y).abs() < 0.99 * most)
        assert held.sum() > 100
        tolerance = 4 * eps + 100 * torch.finfo(torch.float32).eps
        torch.testing.assert_close(of.units(a)[held].double(), units[held], rtol=tolerance, atol=1e-6)
        terms = units.abs().sum(1) + 16 * (exact.abs().sum(1) + 3) + of.loss(exact, y).abs()
        assert ((of.loss(a, y).double() - of.loss(exact, y)).abs() <= 4 * tolerance * terms)[held_losses].all()


def test_softmax_keeps_finite_too() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        a = torch.zeros(len(RISING), 3, dtype=dtype)
        a[:, 0] = RISING.to(dtype)
        a.requires_grad_()
        losses = SoftmaxCe().loss(a, torch.ones(len(a), dtype=torch.long))
        (found,) = torch.autograd.grad(losses.sum(), a)
        assert losses.isfinite().all() and found.isfinite().all() and (losses.diff() >= 0).all()


@pytest.mark.parametrize("of", EVERY.values(), ids=EVERY)
def test_the_loss_of_an_image_of_one_pixel_is_that_of_its_class(of: Objective) -> None:
    a, image = LOGITS.clone().requires_grad_(), LOGITS[:, :, None, None].clone().requires_grad_()
    losses, of_pixels = of.loss(a, CLASSES), of.loss(image, CLASSES[:, None, None])
    torch.testing.assert_close(of_pixels, losses, rtol=1e-13, atol=1e-13)
    ours, theirs = torch.autograd.grad(of_pixels.sum(), image)[0][:, :, 0, 0], torch.autograd.grad(losses.sum(), a)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    told = of.scores(of.tally(image.detach(), CLASSES[:, None, None]))
    of_classes = of.scores(of.tally(a.detach(), CLASSES))
    assert {name: told[name] for name in of_classes} == pytest.approx(of_classes, rel=1e-12)


@pytest.mark.parametrize("of", EVERY.values(), ids=EVERY)
def test_an_images_loss_is_the_mean_over_its_pixels_that_count(of: Objective) -> None:
    """Against its pixels one by one; 255 is ignored, with a gradient of exactly zero, and rows are worked on in parts."""
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(3, 5, 41, 1300, dtype=torch.float64, generator=generator).requires_grad_()  # more than one chunk
    y = torch.randint(0, 5, (3, 41, 1300), generator=generator)
    y[torch.rand(y.shape, generator=generator) < 0.3] = 255
    y[2] = 255  # an image of which nothing counts
    losses = of.loss(a, y)
    (found,) = torch.autograd.grad(losses.sum(), a)
    counts = y != 255
    flat, labels = a.detach().movedim(1, -1)[counts], y[counts]
    one_by_one = of.loss(flat, labels)
    images = torch.arange(3)[:, None, None].expand_as(y)[counts]
    expected = [one_by_one[images == i].mean().item() for i in range(2)]
    assert losses.tolist() == pytest.approx([*expected, 0.0], rel=1e-11)
    assert (found.movedim(1, -1)[~counts] == 0).all()
    ready = flat.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(of.loss(ready, labels).sum(), ready)
    share = counts.sum((1, 2))[images].double().reciprocal()[:, None]
    torch.testing.assert_close(found.movedim(1, -1)[counts], theirs * share, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("of", EVERY.values(), ids=EVERY)
def test_scores_of_pixels_are_over_those_that_count(of: Objective) -> None:
    a = torch.randn(4, 5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y = torch.randint(0, 5, (4, 3, 2), generator=torch.Generator().manual_seed(4))
    y[0, 0], y[1] = 255, 255
    tallies = [of.tally(a[:1], y[:1]), of.tally(a[1:], y[1:])]
    found = of.scores({name: tallies[0][name] + tallies[1][name] for name in tallies[0]})
    counts = y != 255
    flat, labels = a.movedim(1, -1)[counts], y[counts]
    right = sum(int(row.argmax() == label) for row, label in zip(flat, labels, strict=True))
    assert found["acc"] == right / len(labels) and found["loss"] == pytest.approx(of.loss(a, y).mean().item())
    if "mse" in found:
        assert found["mse"] == pytest.approx(of.scores(of.tally(flat, labels))["mse"], rel=1e-12)
    assert math.isnan(of.scores(of.tally(a[1:2], y[1:2]))["acc"])


@pytest.mark.parametrize("of", EVERY.values(), ids=EVERY)
def test_probabilities_sum_to_one_and_their_largest_is_the_decision(of: Objective) -> None:
    found = of.probabilities(LOGITS)
    torch.testing.assert_close(found.sum(1), torch.ones(len(LOGITS), dtype=torch.float64), rtol=1e-12, atol=0)
    assert (found >= 0).all()
    decided = found.gather(1, of.decide(LOGITS)[:, None])[:, 0]
    torch.testing.assert_close(decided, found.amax(1), rtol=1e-12, atol=0)  # several may be certain, or as likely
    image = LOGITS.T.reshape(1, 5, 7, 1)
    torch.testing.assert_close(of.probabilities(image)[0, :, :, 0].T, found, rtol=1e-12, atol=1e-14)
    assert of.decide(image)[0, :, 0].tolist() == of.decide(LOGITS).tolist()


@pytest.mark.parametrize("name", ["softmax_ce", "linear_mse", "exp_ga", "pow3_ga", "linear ±1"])
def test_what_units_learn_of_an_input_of_several_classes_is_its_probabilities(name: str) -> None:
    """Outputs with the least loss over samples that are alike but for their classes, 5 : 3 : 2 of ten."""
    of, y = EVERY[name], torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    a = torch.ones(3, dtype=torch.float64, requires_grad=True)
    newton = torch.optim.LBFGS([a], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        newton.zero_grad()
        loss = of.loss(a.expand(10, 3), y).sum()
        loss.backward()
        return loss

    newton.step(closure)
    found = of.probabilities(a.detach()[None])[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_single_output_has_probabilities_of_two_classes() -> None:
    a = torch.tensor([[-3.0], [-0.5], [0.25], [4.0]])
    assert LinearMse().probabilities(a).tolist() == [[1, 0], [0.75, 0.25], [0.375, 0.625], [0, 1]]
    torch.testing.assert_close(SigmoidBce().probabilities(a)[:, 1:], a.sigmoid())
    for of in (LinearMse(), TanhMse(), SigmoidBce()):
        assert (of.probabilities(a).argmax(1) == of.decide(a)).all()
        images = of.loss(a[:, :, None, None], torch.tensor([0, 0, 1, 0])[:, None, None])
        torch.testing.assert_close(images, of.loss(a, torch.tensor([0, 0, 1, 0])))


def test_label_smoothing_is_torchs_and_none_by_default() -> None:
    a, y = LOGITS.requires_grad_(False), CLASSES
    expected = torch.nn.functional.cross_entropy(a, y, reduction="none", label_smoothing=0.1)
    assert torch.equal(SoftmaxCe(label_smoothing=0.1).loss(a, y), expected)
    assert torch.equal(SoftmaxCe().loss(a, y), torch.nn.functional.cross_entropy(a, y, reduction="none"))


@pytest.mark.parametrize("of", BOTH.values(), ids=BOTH)
def test_mapped_by_torch_func_they_are_the_same(of: ExpGa | Pow3Ga, recwarn: pytest.WarningsRecorder) -> None:
    """As networks of a sweep are trained in stacks; a fallback of torch's, in a loop, would warn."""
    a = torch.stack([LOGITS, -LOGITS, LOGITS / 2]).requires_grad_()
    y = torch.stack([CLASSES, CLASSES.flip(0), CLASSES])
    losses = torch.func.vmap(of.loss)(a, y)
    (found,) = torch.autograd.grad(losses.sum(), a)
    for i in range(3):
        one = a[i].detach().requires_grad_()
        alone = of.loss(one, y[i])
        torch.testing.assert_close(losses[i], alone, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(found[i], torch.autograd.grad(alone.sum(), one)[0], rtol=1e-13, atol=1e-13)
    assert torch.func.vmap(of.tally)(a.detach(), y)["acc"].shape == (3,)
    assert not [w for w in recwarn if "batching rule" in str(w.message)]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("exp_ga", {"targets": [2, 0]}, r"^objective\.targets: two ascending values, .* such as \[0, 2\], got \[2, 0\]$"),
        ("pow3_ga", {"targets": [1, 1]}, r"^objective\.targets: two ascending values, .*, got \[1, 1\]$"),
        ("linear_mse", {"targets": [0]}, r"^objective\.targets.*"),
        ("tanh_mse", {"targets": [0, 1, 2]}, r"^objective\.targets.*"),
        ("exp_ga", {"targets": "high"}, r"^objective\.targets: .*got 'high'$"),
        ("exp_ga", {"targets": [-1, 2]}, r"^objective\.targets=\[-1\.0, 2\.0\]: exponential units are positive, .* from 0$"),
        (
            "sigmoid_bce",
            {"targets": [0, 2]},
            r"^objective\.targets=\[0\.0, 2\.0\]: a sigmoid reaches values between 0 and 1 alone$",
        ),
        ("exp_ga", {"alpha": 0}, r"^objective\.alpha: .* greater than 0, got 0$"),
        ("pow3_ga", {"alpha": -0.001}, r"^objective\.alpha: .* greater than 0, got -0\.001$"),
        ("pow3_ga", {"beta": -0.1}, r"^objective\.beta: .* greater than or equal to 0, got -0\.1$"),
        ("softmax_ce", {"label_smoothing": 1}, r"^objective\.label_smoothing: .* less than 1, got 1$"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(name: str, values: dict[str, object], said: str) -> None:
    cls = type(EVERY[name])
    node = {"_target_": f"{cls.__module__}.{cls.__qualname__}", **values}
    with pytest.raises(ConfigError, match=said) as error:
        build_setting(node, "objective")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["elm", "platonic", "ridge_regression"])
def test_a_method_that_cannot_use_them_says_which_it_takes(method: str) -> None:
    with pytest.raises(ConfigError, match=r"^objective: \w+ fits by least squares, so it takes linear_mse, not ExpGa$"):
        build(compose([f"method={method}", "arch=mlp", "dataset=digits", "objective=exp_ga"]))


def test_pixels_are_measured_as_all_else_is() -> None:
    from effdl.datasets.batch import Batch

    a, y = torch.randn(4, 5, 2, 2), torch.randint(0, 5, (4, 2, 2))
    batches = [Batch(a[i : i + 2], y[i : i + 2], torch.arange(2)) for i in (0, 2)]
    (found,) = evaluate_each([(torch.nn.Identity(), torch.nn.Identity())], batches, ExpGa())
    assert found is not None and found["acc"] == pytest.approx((a.argmax(1) == y).double().mean().item())
