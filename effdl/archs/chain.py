"""BlockChain: an ordered list of named blocks and a head; the only form in which methods see a network."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from effdl.archs.adapt import InputBlock
from effdl.archs.crossing import FEW, remark
from effdl.archs.places import deeper_cuts
from effdl.archs.split import split_module
from effdl.archs.tapping import through
from effdl.archs.trial import tried
from effdl.archs.vision import undrawn
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.objectives.objective import TargetKind
from effdl.setting import Setting

Blocks = Mapping[str, nn.Module] | Sequence[nn.Module]


class BlockChain(nn.Module):
    """head(blocks[-1](... blocks[0](input(x)))), for inputs x as the data set stores them.

    Args:
        blocks: the thesis's "layers" in order, named or numbered. One without parameters joins the block before it (§6.2.1),
            or the one after it where none stands before.
        head: maps the last block's output to logits (B, K); or a `Tapping` one what several blocks put out.
        input: the frozen input block; the identity where the data come ready.

    ``remark``: of a network that `from_module` cut by itself into few blocks, how many, why, and which cuts give more.
    """

    remark: str | None = None

    def __init__(self, blocks: Blocks, head: nn.Module, input: nn.Module | None = None) -> None:
        super().__init__()
        self.input = input if input is not None else nn.Identity()
        self.blocks = nn.Sequential(OrderedDict(join_parameter_free(blocks)))
        self.head = head

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        cuts: Sequence[str] | None = None,
        head: str | None = None,
        input: nn.Module | None = None,
    ) -> "BlockChain":
        """Cut any module into a chain that shares its weights and computes the same.

        Args:
            module: a network whose top-level data flow is a chain (inside the pieces anything goes: residual blocks ...).
            cuts: names of the submodules after which a block ends, in order. By default a block begins at each child with
                weights other than those of normalisation, ``nn.Sequential`` children opened, that a single value reaches;
                what follows without such weights (normalisation, activations, pooling) joins it.
            head: name of the first submodule of the head. By default all that follows the last cut, or without cuts the last
                layer, together with what averages or reshapes for it.
            input: the input block, not part of ``module``. Where an embedding comes first, it passes samples as they are.

        Raises:
            ConfigError: a name that is not there, a cut that more than one value or something else than a tensor crosses, or a
                module that does not map one tensor to one.
        """
        chain = cls.cut(module, cuts, head, input)
        if cuts is None and head is None and len(chain) < FEW:
            more, why = deeper_cuts(module)
            said = f"cuts={more} makes {len(more)} of it" if more else None
            chain.remark = remark(type(module).__name__, len(chain), why, said)
        return chain

    @classmethod
    def cut(
        cls, module: nn.Module, cuts: Sequence[str] | None, head: str | None = None, input: nn.Module | None = None
    ) -> "BlockChain":
        """The same without a `remark`, which takes a second where a large network has few blocks."""
        pieces = split_module(module, cuts, head)
        if pieces.takes_ids and isinstance(input, InputBlock):
            input.passes_ids = True
        return cls(pieces.blocks, pieces.head, input)

    def forward(self, x: Tensor) -> Tensor:
        return through(self.blocks, self.head, self.input(x))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, span: slice) -> nn.Sequential:
        """Consecutive blocks, sharing their weights, without input block and head."""
        return self.blocks[span]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.blocks.named_children()]

    def cropped(self, blocks: int) -> "BlockChain":
        """The first ``blocks`` blocks, sharing weights, with the identity for a head."""
        return BlockChain(OrderedDict(self.blocks[:blocks].named_children()), nn.Identity(), self.input)

    def with_head(self, head: nn.Module) -> "BlockChain":
        """The same blocks, sharing weights, under another head."""
        return BlockChain(OrderedDict(self.blocks.named_children()), head, self.input)

    def shapes(self, input_shape: Sequence[int], samples: int = 2, dtype: torch.dtype | None = None) -> list[tuple[int, ...]]:
        """Shape of each block's output for one sample, without the batch dimension; tried on so many samples at once.

        dtype: of a sample; by default the weights', or int64 where samples are token ids.

        Raises:
            ConfigError: a block does not take what comes, or puts out something else than a tensor.
        """
        parameter = next(self.parameters())
        if dtype is None:
            of_ids = isinstance(self.input, InputBlock) and self.input.passes_ids
            dtype = torch.long if of_ids else parameter.dtype
        x = torch.zeros(samples, *input_shape, dtype=dtype, device=parameter.device)
        modes = [(m, m.training) for m in self.modules()]
        self.eval()
        shapes, comes = [], f"what samples of shape {[*input_shape]} come to"
        try:
            with torch.no_grad():
                x = self.input(x)
                for name, block in self.blocks.named_children():
                    x = tried(f"block {name!r}", block, x, comes)
                    shapes.append(tuple(x.shape[1:]))
        finally:
            for module, training in modes:
                module.training = training
        return shapes


def join_parameter_free(blocks: Blocks) -> list[tuple[str, nn.Module]]:
    """Named blocks in which each has parameters: one without joins the block before it (§6.2.1)."""
    named = blocks.items() if isinstance(blocks, Mapping) else [(str(i), b) for i, b in enumerate(blocks)]
    joined: list[tuple[str, list[nn.Module]]] = []
    leading: list[nn.Module] = []
    for name, block in named:
        if next(block.parameters(), None) is not None:
            joined.append((name, [*leading, block]))
            leading = []
        elif joined:
            joined[-1][1].append(block)
        else:
            leading.append(block)
    if not joined:
        raise ConfigError("a network needs at least one block with parameters")
    return [(name, parts[0] if len(parts) == 1 else nn.Sequential(*parts)) for name, parts in joined]


@dataclass(frozen=True, slots=True)
class ArchFacts:
    """What is known of a network before it is built.

    least_size: the smallest image side it takes, 1 where any input goes. size: the side to which its input block enlarges.
    linear: the widths of its hidden layers, perhaps none, where all layers are linear ones, see `archs.linear`; else None.
    biases: whether linear layers have some.
    """

    blocks: int
    least_size: int
    size: int | None = None
    linear: tuple[int, ...] | None = None
    biases: bool = True


class Arch(Setting, ABC):
    """A network architecture for any problem.

    ``takes``: which targets its outputs can learn.
    """

    takes: ClassVar[frozenset[TargetKind]] = frozenset({"classes", "vectors"})

    @property
    def gains_by_channels_last(self) -> bool:
        """Whether it trains faster on a CPU with its weights and features channels last."""
        return False

    @abstractmethod
    def facts(self, problem: Facts) -> ArchFacts:
        """What follows from the settings alone."""

    @abstractmethod
    def build(self, problem: Facts) -> BlockChain:
        """The network with the weights that training starts from, freshly drawn (global generator) or given."""

    def remark(self, problem: Facts) -> str | None:
        """What a person should know of the way in which it is cut, in one line; None where all is as expected."""
        if self.facts(problem).blocks >= FEW:
            return None
        with suppress(Exception):  # what is wrong with it is said where it is built to be trained
            return undrawn(lambda: self.untrained().build(problem)).remark
        return None

    def untrained(self) -> "Arch":
        """The same network, for weights of which it will be given all: its own need not be there."""
        return self

    def check(self, problem: Facts) -> None:
        """Raise a ConfigError where this network cannot take the problem's inputs."""
        if problem.targets not in self.takes:
            name = type(self).__name__
            if problem.targets == "pixels":
                raise ConfigError(f"arch: {name} has outputs for whole images, and here each pixel has a label: arch=pixelnet")
            raise ConfigError(f"arch: {name} labels pixels, and here a sample has a single target: take another network")
        facts = self.facts(problem)
        if facts.least_size > 1 and not problem.is_image:
            raise ConfigError(f"arch: this network takes images, not inputs of shape {list(problem.input_shape)}; try arch=mlp")
        if problem.is_image and (size := max(facts.size or 1, min(problem.input_shape[1:]))) < facts.least_size:
            raise ConfigError(
                f"arch.size: images of {size} pixels are too small, this network needs at least {facts.least_size}; "
                f"arch.size={facts.least_size} enlarges them"
            )
