"""For tests of methods, in the package or outside it: `check_method`, and the tiny problem and networks that it takes."""

import io
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import ArchFacts, BlockChain
from effdl.archs.classifier import Classifier
from effdl.archs.linear import Linear
from effdl.archs.mlp import Mlp
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.errors import ConfigError
from effdl.methods.method import Method
from effdl.objectives.losses import LinearMse, SoftmaxCe
from effdl.objectives.objective import Objective, kind_of
from effdl.records.process import of_the_machine
from effdl.records.run import Run
from effdl.training.features import NOTHING, Stack
from effdl.training.handle import CannotGoOn
from effdl.training.hardware import Hardware
from effdl.training.loop import reseed, switch_mode
from effdl.training.optim import Optimizer, Sgd

CLASSES, SIDE = 3, 6
WIDTHS = (1, 4, 5, 6)
PERCEPTRON = (60, 40)
Build = Callable[[int], BlockChain]


def images(count: int, seed: int) -> Samples:
    """Class c has its rows 2c and 2c + 1 brighter than the noise around them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = torch.randint(0, 100, (count, 1, SIDE, SIDE), generator=generator)
    rows = torch.arange(SIDE) // 2 == y[:, None]
    return Samples((x + 60 * rows[:, None, :, None]).to(torch.uint8), y)


def problem(
    objective: Objective | None = None, *, train: int = 40, val: int = 20, batch_size: int = 8, seed: int = 0
) -> Problem:
    """Three classes of 6×6 images."""
    split = images(train, 1), images(val, 2)
    return Problem(*split, objective or SoftmaxCe(), outputs=CLASSES, batch_size=batch_size, seed=seed)


def chain(seed: int = 0, dropout: float = 0.2) -> BlockChain:
    """Three blocks of convolution, batch normalisation, ReLU and dropout, under a linear head."""
    reseed(seed)
    blocks = OrderedDict(
        (
            f"conv{i + 1}",
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(dropout)),
        )
        for i, (a, b) in enumerate(pairwise(WIDTHS))
    )
    block = InputBlock((1, SIDE, SIDE))
    block.fit(images(40, 1).x)
    return BlockChain(blocks, Classifier((WIDTHS[-1], SIDE, SIDE), CLASSES, size=2), block)


def perceptron(seed: int = 0, hidden: tuple[int, ...] = PERCEPTRON) -> BlockChain:
    """Blocks of a linear layer and ReLU under a linear head, for the same images; so wide that drawn weights do."""
    reseed(seed)
    made = Mlp(hidden=hidden).build(problem().facts)
    made.input.fit(images(40, 1).x)  # type: ignore[operator]
    return made


def linear(seed: int = 0) -> BlockChain:
    """A linear layer alone, for the same images."""
    reseed(seed)
    made = Linear().build(problem().facts)
    made.input.fit(images(40, 1).x)  # type: ignore[operator]
    return made


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: Any, b: Any) -> bool:
    """Bit-equal tensors throughout two nested states."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


class CutOff(BaseException):
    """As abrupt as a kill can be within a process: nothing catches it."""


class WatchedRun:
    """A run that keeps, for every recorded epoch, (segment, a copy of the chain's state), and its checkpoints in memory.

    asked: inputs, of which it keeps what the network that is to be tested makes: ``answers``, by segment and epoch.
    saved: the checkpoints until now, as bytes: those of earlier runs too, from the last of which it goes on.
    stop: it is cut off at the save that makes so many.
    folder: of files that belong to these checkpoints; by default the inner run's own.
    """

    def __init__(
        self,
        inner: Run,
        model: nn.Module,
        asked: Tensor | None = None,
        saved: list[bytes] | None = None,
        stop: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.inner, self.model, self.asked, self.stop, self._folder = inner, model, asked, stop, folder
        self.answers: dict[tuple[int, int], Tensor] = {}
        self.saved = [] if saved is None else saved
        self.epochs: list[tuple[int, dict[str, Tensor]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def folder(self, name: str) -> Path:
        return self._folder or self.inner.folder(name)

    def record(self, segment: int, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs.append((segment, copied(self.model)))
        self.inner.record(segment, epoch, metrics)

    def test(self, model: nn.Module, segment: int, epoch: int, last: bool, below: Stack | None = None, *more: Any) -> None:
        if self.asked is not None:
            self.answers[segment, epoch] = self._answer(self.asked, *(below or NOTHING).modules, model)
        self.inner.test(model, segment, epoch, last, below, *more)

    @staticmethod
    def _answer(x: Tensor, *modules: nn.Module) -> Tensor:
        for module in modules:
            restore = switch_mode(module, False)
            with torch.no_grad():
                x = module(x)
            restore()
        return x

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        buffer = io.BytesIO()
        inner = self.inner
        torch.save({"method": state(), "notes": inner.notes, "lines": inner.lines, "plan": inner.plan}, buffer)
        self.saved.append(buffer.getvalue())
        if len(self.saved) == self.stop:
            raise CutOff

    def load(self) -> dict[str, Any] | None:
        if not self.saved:
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(self.saved[-1]), weights_only=True)
        self.inner.notes, self.inner.lines, self.inner.plan = found["notes"], found["lines"], found["plan"]
        method: dict[str, Any] = found["method"]
        return method


class _Trial:
    """Fits of one method on one problem, each with a network and a run of its own.

    val: samples to look at the networks with, and the test split: by default the problem's validation set.
    """

    def __init__(
        self, method: Method, on: Problem, build: Build, optimizer: Optimizer | None, val: Samples | None = None
    ) -> None:
        self.method, self.on, self.build = method, on, build
        self.val = on.val_tensors() if val is None else val
        self.optimizer = optimizer if "optimizer" in method.takes else None
        self._folder = tempfile.TemporaryDirectory(prefix="effdl-")  # of files that survive a cut as checkpoints do

    def fit(
        self, elsewhere: bool = False, saved: list[bytes] | None = None, stop: int | None = None
    ) -> tuple[nn.Module, WatchedRun]:
        """elsewhere: with other test labels, and after others drew from the global generator."""
        test, model = self.val, self.build(0)
        if elsewhere:
            other = test.y + 1
            test = Samples(test.x, other if other.is_floating_point() else other % self.on.facts.classes)
            torch.rand(7)
        inner = Run(self.on.seed, self.optimizer, test=test, objective=self.on.objective)
        run = WatchedRun(inner, model, self.val.x, saved, stop, Path(self._folder.name) if saved is not None else None)
        return self.method.fit(self.on, model, run), run


def check_method(
    method: Method, *, on: Problem | None = None, network: Build | None = None, optimizer: Optimizer | None = None
) -> None:
    """Hold a method to what every method promises, on a tiny problem in seconds.

    The network that it returns is in evaluation mode and gives finite logits; `Method.network` makes one of the same form; no
    block moves while another segment learns, nor does the input block; neither test labels nor what others drew from the global
    generator move anything; and cut off at several of its saves and taken up again it ends in the same numbers and weights.
    Where the engine chooses among segments, network and resume are tried with the first chosen and with the last.

    Args:
        method: with few epochs.
        on: three classes of small images by default, under softmax_ce, or linear_mse where least squares are fitted.
        network: seed -> a freshly drawn network for the problem; by default the first that the method takes of a convolutional
            one, a perceptron, one with as many units as there are samples, and a linear layer.
        optimizer: by default SGD.

    Raises:
        AssertionError: which of these it breaks, in a sentence.
        ConfigError: it takes none of these networks, or not this problem.
    """
    on = on or problem(LinearMse() if method.fits_least_squares else None)
    trial = _Trial(method, on, network or _taken(method, on), optimizer or Sgd(lr=0.02))
    fitted, run = trial.fit()
    _check_network(trial, fitted, run)
    _check_blocks(trial, run)
    what = "other test labels and another state of torch's global generator"
    _compare(trial, what, (fitted, run), trial.fit(elsewhere=True), tested=False)
    if run.saved:
        _check_resume(trial, fitted, run)
        _check_ends(trial, run)
    else:
        _hold(method.training(on, trial.build(0), run) is None, "the engine saved no checkpoint")


def _taken(method: Method, on: Problem) -> Build:
    """The first of our networks that the method's `check` lets pass. Raises ConfigError where it is none."""
    wide = (on.num_train, on.num_train)
    ours: list[tuple[ArchFacts, Build]] = [
        (ArchFacts(len(WIDTHS) - 1, 1), chain),
        (ArchFacts(len(PERCEPTRON), 1, linear=PERCEPTRON), perceptron),
        (ArchFacts(len(wide), 1, linear=wide), lambda seed: perceptron(seed, wide)),
        (ArchFacts(1, 1, linear=()), linear),
    ]
    for i, (facts, build) in enumerate(ours):
        try:
            method.check(on.facts, facts, Hardware())
            return build
        except ConfigError:
            if i == len(ours) - 1:
                raise
    raise AssertionError("there are networks to try")


def _check_network(trial: _Trial, fitted: nn.Module, run: WatchedRun) -> None:
    name, on = type(trial.method).__name__, trial.on
    _hold(not any(m.training for m in fitted.modules()), f"{name}.fit returns a network that is not in evaluation mode")
    x = trial.val.x
    with torch.no_grad():
        logits = fitted(x)
        wanted = (len(x), on.outputs)
        _hold(
            tuple(logits.shape) == wanted, f"{name}'s network gives outputs of shape {[*logits.shape]}, wanted are {[*wanted]}"
        )
        _hold(bool(logits.isfinite().all()), f"{name}'s network gives outputs that are not finite")
        rebuilt = trial.method.network(trial.build(9), on.facts, on.objective, run.inner.notes).eval()
        try:
            rebuilt.load_state_dict(fitted.state_dict(), strict=True)
        except RuntimeError as error:
            message = " ".join(str(error).split())
            raise AssertionError(f"{name}.network is not of the form of what fit returned: {message}") from error
        _hold(torch.equal(rebuilt(x), logits), f"{name}.network computes something else than what fit returned")


def _check_blocks(trial: _Trial, run: WatchedRun) -> None:
    """The input block stays; and of a training by the engine each epoch moves the blocks of those who learn, and no others."""
    model, name = trial.build(0), type(trial.method).__name__
    at_first, first = copied(model), trial.method.chain(model)
    names = {id(tensor): key for key, tensor in model.state_dict(keep_vars=True).items()}  # which the chain may call otherwise
    inputs = [key for key in at_first if key.startswith("input.")]
    _hold(all(torch.equal(at_first[k], run.model.state_dict()[k]) for k in inputs), f"{name} changed the input block")
    if (training := trial.method.training(trial.on, first, run)) is None:
        return
    epochs = [(training.team(segment), state) for segment, state in run.epochs if segment == training.team(segment)[0]]
    for (before, after), (team, _) in zip(pairwise([at_first, *(state for _, state in epochs)]), epochs, strict=True):
        start, stop = training.segments[team[0]].start, training.segments[team[-1]].stop
        who = f"segment {team[0]}" if len(team) == 1 else f"segments {team[0]} to {team[-1]}"
        for i, (block, module) in enumerate(first.blocks.named_children()):
            weights = [names[id(t)] for t in module.state_dict(keep_vars=True).values() if id(t) in names]
            moved = [k for k in weights if not torch.equal(before[k], after[k])]
            if start <= i < stop:
                _hold(bool(moved), f"{name}: nothing of block {block} moved while {who}, whose it is, learned")
            else:
                _hold(not moved, f"{name}: {', '.join(moved)} moved while {who} learned, which has no such block")


def _check_resume(trial: _Trial, fitted: nn.Module, run: WatchedRun) -> None:
    """Cut off at its first, a middle and its last save, and each time taken up."""
    count, saved, name = len(run.saved), list[bytes](), type(trial.method).__name__
    for stop in sorted({1, (count + 1) // 2, count}):
        try:
            trial.fit(saved=saved, stop=stop)
        except CutOff:
            continue
        except CannotGoOn as error:
            raise AssertionError(f"{name} does not take up its checkpoint {len(saved)}: {error.__cause__}") from error
        raise AssertionError(f"{name} made {count} checkpoints, and when it was taken up again fewer")
    _compare(trial, f"being cut off and taken up, with {count} checkpoints in all,", (fitted, run), trial.fit(saved=saved))


def _check_ends(trial: _Trial, run: WatchedRun) -> None:
    """Network and resume where the first segment wins, and where the last does, of which one has won already or none.

    The first wins on validation samples whose targets are its own answers, the last where there are no such samples.
    """
    on, val, training = trial.on, trial.val, trial.method.training(trial.on, trial.method.chain(trial.build(0)), run)
    if training is None or training.choose == "last":
        return
    first = training.order[0]
    # After its first turn, which patience may have ended early
    answer = run.answers[first.segment, max(e for s, e in run.answers if s == first.segment and e < first.epochs)]
    y = on.objective.units(answer) if kind_of(val.y) == "vectors" else on.objective.decide(answer)
    none = torch.arange(0)
    ends = {first.segment: Samples(val.x, y), len(training.segments) - 1: val.take(none)}
    for segment, choosing in ends.items():
        if segment != run.inner.notes["segment/chosen"]:
            again = _Trial(trial.method, _validated(on, choosing), trial.build, trial.optimizer, val)
            fitted, its_run = again.fit()
            _check_network(again, fitted, its_run)
            _check_resume(again, fitted, its_run)


def _validated(on: Problem, val: Samples) -> Problem:
    """The same problem with other validation samples."""
    size, change = on.batch_size, on.augment
    return Problem(on.train_split, val, on.objective, outputs=on.outputs, batch_size=size, seed=on.seed, augment=change)


def _compare(
    trial: _Trial, what: str, ours: tuple[nn.Module, WatchedRun], theirs: tuple[nn.Module, WatchedRun], tested: bool = True
) -> None:
    name = type(trial.method).__name__
    for key, weight in ours[0].state_dict().items():
        _hold(same(weight, theirs[0].state_dict()[key]), f"{name}: {what} moved the weight {key}")
    notes, others = (_told(run.inner.notes, tested) for _, run in (ours, theirs))
    _hold(notes.keys() == others.keys(), f"{name}: {what} changed which notes are made: {sorted({*notes} ^ {*others})}")
    for key, value in notes.items():
        _hold(same(value, others[key]), f"{name}: {what} moved the note {key} from {value} to {others[key]}")
    lines, other_lines = ([_told(line, tested) for line in run.inner.lines] for _, run in (ours, theirs))
    _hold(len(lines) == len(other_lines), f"{name}: {what} made {len(other_lines)} lines of metrics of {len(lines)}")
    for number, (line, other) in enumerate(zip(lines, other_lines, strict=True), 1):
        _hold(same(line, other), f"{name}: {what} moved line {number} of the metrics from {line} to {other}")


def _told(numbers: Mapping[str, Any], tested: bool) -> dict[str, Any]:
    """What is no matter of the machine, and, unless tested, of the test split."""
    return {k: v for k, v in numbers.items() if not of_the_machine(k) and (tested or not k.startswith("test/"))}


def _hold(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)
