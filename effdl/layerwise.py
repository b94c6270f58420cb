"""Layer-wise learning of a network of one's own in one call."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from effdl.archs.adapt import InputBlock
from effdl.archs.chain import ArchFacts, BlockChain
from effdl.datasets.problem import Problem
from effdl.datasets.split import Split
from effdl.datasets.torch_data import as_split, batch_size_of
from effdl.errors import ConfigError, DataError, EffdlError, one_line
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import LinearMse, SigmoidBce, SoftmaxCe
from effdl.objectives.objective import Objective, kind_of
from effdl.records.report import Console, Progress, Reporter, Settings, Silent, duration, size
from effdl.records.run import Run
from effdl.training.decision import Pool
from effdl.training.hardware import Hardware, alone
from effdl.training.optim import Adadelta, Adagrad, Adam, Adamw, Optimizer, Rmsprop, Sgd

OPTIMIZERS = {cls.snake_name(): cls for cls in (Adamw, Sgd, Adagrad, Adadelta, Rmsprop, Adam)}
DECISION = Pool(size=4)  # one mean a channel, Segmentwise's default, says too little of narrow layers


def train_layerwise(
    module: nn.Module,
    train: Any,
    val: Any = None,
    *,
    memory_budget: float | None = None,
    optimizer: Optimizer | Literal["adamw", "sgd", "adagrad", "adadelta", "rmsprop", "adam"] = "adamw",
    lr: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    objective: Objective | None = None,
    cuts: Sequence[str] | None = None,
    standardise: bool | None = None,
    seed: int = 0,
    hardware: Hardware | None = None,
    progress: bool = True,
    **method: Any,
) -> nn.Module:
    """A copy of ``module`` trained layer by layer from the bottom up (thesis chapter 6, Algorithm 3).

    Nothing is written, but where ``store`` or ``offload`` say "disk": then to the system's folder for temporary files, until it
    returns.

    Each layer learns under a temporary classifier, its decision block, while those below stay as they are. What comes back, in
    eval mode, takes samples as ``train`` has them and gives logits: the blocks up to the one that did best on the validation
    samples, with its decision block as head. ``module`` itself, whose weights it starts from, stays as it is.

    Args:
        module: any network of one input and one output whose data flow is a chain of parts, cut as by `BlockChain.from_module`;
            or a `BlockChain`. It is trained where its weights are, in their precision, unless ``hardware`` says otherwise.
        train, val: (x, y) as tensors or arrays, a torch Dataset of such pairs, or a DataLoader of one, whose order is not used;
            see `datasets.torch_data`. y: class indices, or real numbers. Without ``val`` the network ends at the last layer.
        memory_budget: decision blocks are searched so that no layer's training step takes more than this share of backprop's.
        optimizer: a setting such as ``Sgd(lr=0.05)``, or a name; ``lr`` and ``weight_decay`` in the place of its own.
        batch_size: by default the DataLoader's, else 128, of few samples all.
        objective: by default softmax and cross-entropy for classes, the sigmoid's where there is a single output, and the
            squared error for real numbers.
        cuts: names of the submodules after which a layer ends.
        standardise: whether the network begins by standardising each channel (of vectors each feature) by what the training
            samples have; by default where they are whole numbers, such as bytes of images.
        seed: of weights that are drawn, order and dropout. The same seed, the same numbers.
        hardware: see `Hardware`, for example ``Hardware(device="cuda", precision="bf16")``.
        progress: show on standard error how far it is and how long it will take.
        method: fields of `Segmentwise`, which `effdl explain method=segmentwise` lists, such as ``epochs`` (of each layer),
            ``segment_size``, ``rounds``, ``patience`` and ``decision``, by default ``Pool(size=4)`` here where there is no
            budget.

    Returns:
        The network. Its ``summary`` has what was noted, such as "segment/chosen" (from 0) and "memory/segment_peak_bytes", and
        under "epochs" the numbers of each epoch.

    Raises:
        ConfigError, DataError: what cannot be, in one line. Diverged: a loss is no number any more.
    """
    with _in_arguments_words(), alone():
        rule, steps = _method(method, memory_budget), _optimizer(optimizer, lr, weight_decay)
        weight = _weight(module)
        _check(hardware, objective, batch_size)
        on = (hardware or Hardware(device="cuda" if weight.is_cuda else "cpu")).resolved(False)
        device = on.open() if hardware is not None else weight.device
        splits = _splits(train, val, weight.dtype)
        chain = on.place(_chain(module, cuts, splits[0], standardise), device)
        problem = _problem(chain, splits, objective, batch_size or batch_size_of(train), seed).to(device)
        rule.check(problem.facts, ArchFacts(len(chain), least_size=1), on)
        with _shown(progress) as reporter, torch.random.fork_rng([device] if device.type == "cuda" else []):
            run = Run(seed, steps, hardware=on, reporter=reporter, name=type(module).__name__)
            return _trained(rule, problem, chain, run, reporter)


def _trained(rule: Segmentwise, problem: Problem, chain: BlockChain, run: Run, reporter: Reporter) -> nn.Module:
    if chain.remark is not None and (len(chain) == 1 or "cuts=" in chain.remark):  # else nothing can be done about it
        reporter.say(chain.remark)
    network = rule.fit(problem, chain, run)
    network.summary = {**run.notes, "epochs": run.lines}  # type: ignore[assignment]
    run.say(_ending(run, rule.choose == "validation" and len(problem.val_split) > 0))
    return network


def _check(hardware: Any, objective: Any, batch_size: Any) -> None:
    """Raise a ConfigError for what is no setting, or no number of samples."""
    if not isinstance(hardware, Hardware | None):
        raise ConfigError(f"hardware: a setting, such as Hardware(device='cpu'), not {hardware!r}")
    if not isinstance(objective, Objective | None):
        raise ConfigError(f"objective: a setting, such as SoftmaxCe(), not {objective!r}")
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ConfigError(f"batch_size: a whole number above 0, not {batch_size!r}")


def _weight(module: nn.Module) -> nn.Parameter:
    """One of those that learn. Raises ConfigError where there are none."""
    if not isinstance(module, nn.Module):
        raise ConfigError(f"module: a torch.nn.Module is trained, not {type(module).__name__}")
    for weight in module.parameters():
        if weight.is_floating_point():
            return weight
    raise ConfigError("module: it has no weights that could learn")


def _method(given: dict[str, Any], memory_budget: float | None) -> Segmentwise:
    given = given | ({"memory_budget": memory_budget} if memory_budget is not None else {"decision": DECISION} | given)
    known = [field.name for field in fields(Segmentwise)]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise ConfigError(
                f"train_layerwise has no argument {name!r}{f', but {near[0]!r}' if near else ''}; beside its own it takes "
                f"{', '.join(known)}"
            )
    return Segmentwise(**given)


def _optimizer(optimizer: Optimizer | str, lr: float | None, weight_decay: float | None) -> Optimizer:
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer: {optimizer!r} is none of {', '.join(OPTIMIZERS)}; or a setting, such as Sgd(lr=0.05)"
            )
        optimizer = OPTIMIZERS[optimizer]()
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            "optimizer: each layer gets one of its own, made by a setting of effdl such as Adamw(lr=1e-3), not a "
            f"{type(optimizer).__name__}"
        )
    changed: dict[str, Any] = {name: value for name, value in (("lr", lr), ("weight_decay", weight_decay)) if value is not None}
    return replace(optimizer, **changed)


def _splits(train: Any, val: Any, dtype: torch.dtype) -> list[Split]:
    learned = as_split(train, "train", dtype)
    if not len(learned):
        raise DataError("train: it has no samples")
    if val is None:
        return [learned, learned.take(torch.zeros(0, dtype=torch.long))]
    return [learned, as_split(val, "val", dtype, may_change=False)]


def _chain(module: nn.Module, cuts: Sequence[str] | None, train: Split, standardise: bool | None) -> BlockChain:
    """A copy of the module as a chain, with an input block where samples are not as the module takes them."""
    try:
        module = deepcopy(module)
    except Exception as error:  # of whatever a module holds
        raise ConfigError(f"module: a copy of it is trained, and it cannot be copied ({one_line(error)[:160]})") from error
    if isinstance(module, BlockChain):
        if cuts is not None or standardise is not None:
            raise ConfigError("module: a BlockChain is cut and has its input block; leave cuts and standardise out")
        return module
    of_numbers = train.first().is_floating_point()
    block = InputBlock(train.input_shape) if standardise or (standardise is None and not of_numbers) else None
    chain = BlockChain.from_module(module, cuts=cuts, input=block)
    if block is not None and not block.passes_ids:
        block.standardise(train.moments())
    return chain


def _problem(chain: BlockChain, splits: list[Split], objective: Objective | None, batch_size: int | None, seed: int) -> Problem:
    train, val = splits
    outputs = _outputs(chain, train)
    classes = kind_of(train.y) == "classes"
    if objective is None:
        objective = LinearMse() if not classes else SigmoidBce() if outputs == 1 else SoftmaxCe()
    return Problem(train, val, objective, outputs=outputs, batch_size=batch_size or min(128, len(train)), seed=seed)


def _outputs(chain: BlockChain, train: Split) -> int:
    """How many numbers the module gives for a sample. Raises ConfigError where it does not take samples, or gives others."""
    shape = chain.shapes(train.input_shape, dtype=train.first().dtype)[-1]
    like = next(chain.parameters())
    modes = [(part, part.training) for part in chain.head.modules()]
    chain.head.eval()
    with torch.no_grad():
        out = chain.head(like.new_zeros(2, *shape))
    for part, training in modes:
        part.training = training
    if out.dim() != 2:
        raise ConfigError(
            f"module: it gives numbers of shape {[*out.shape[1:]]} for a sample, and here logits (B, K) are learned"
        )
    return int(out.shape[1])


def _ending(run: Run, chose: bool) -> str:
    """Which layer's network came back, and why. chose: whether validation did."""
    notes, named = run.notes, {"val/acc": "accuracy", "val/mse": "squared error"}
    chosen, peaks = notes["segment/chosen"], notes["memory/segment_peak_bytes"]
    of_layer = {line["epoch"]: line for line in run.lines if line["segment"] == chosen}
    scores = of_layer[notes.get("epoch/chosen", max(of_layer))]
    told = next((f", {named[key]} {scores[key]:.4f}" for key in named if key in scores), "")
    why = f" did best on the validation samples{told}" if chose else " is the last"
    return f"layer {chosen + 1} of {len(peaks)}{why}; peak training memory {size(max(peaks))}"


@contextmanager
def _shown(progress: bool) -> Iterator[Reporter]:
    if not progress:
        yield Silent()
        return
    with Console() as console:
        yield _InPython(console)


class _InPython:
    """A Console without the advice for command lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self) -> None:
        self._console.begin()

    def say(self, text: str) -> None:
        self._console.say(text)

    def cost(self, name: str, seconds: float, costs: list[Any], shorter: Settings = list) -> None:
        peak = max(cost.memory.peak for cost in costs)
        self.say(f"{name}: {len(costs)} layers, about {duration(seconds)}, peak training memory {size(peak)}")

    def progress(self, progress: Progress) -> None:
        self._console.progress(progress)

    def done(self, result: dict[str, Any]) -> None:
        self._console.done(result)


@contextmanager
def _in_arguments_words() -> Iterator[None]:
    """Errors of one line, with the names that arguments have here."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        path, said = "".join(map(str, first["loc"][:1])), str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(_renamed(f"{path}: {said}, got {first['input']!r}" if path else said)) from None
    except EffdlError as error:
        raise type(error)(_renamed(one_line(error))) from error.__cause__


def _renamed(text: str) -> str:
    text = re.sub(r"\b(method|optimizer|dataset)[./](?=[a-z])", "", text)
    return re.sub(r"^arch: ", "module: ", text)
