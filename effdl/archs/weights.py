"""Weights that a network starts from: read from a file without running code, and fitted to the network by name and shape."""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from effdl.archs.chain import Arch, BlockChain
from effdl.archs.found_before import found_before
from effdl.archs.vision import undrawn
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError, DataError, one_line
from effdl.home import at_home
from effdl.setting import Switch, setting

PUBLISHED = "pretrained"
FOLDER = "pretrained"  # paths below it are below $EFFDL_PRETRAINED, where that is set, as data/ is $EFFDL_DATA
State = Mapping[str, Tensor]


@setting
class StartsFromWeights(Arch):
    """An architecture whose weights may be given.

    weights: what training starts from. None: freshly drawn. A path: a .safetensors file or a torch state dict of this network,
    or the network.safetensors of a run whose network has this form; pretrained/<name> lies in the folder $EFFDL_PRETRAINED.
    new_head: draw the last layer anew. weights_sha256: the file's digest, found where none is given; it, and not the path, is
    part of a run's name.
    """

    not_identity: ClassVar[frozenset[str]] = frozenset({"weights"})

    weights: str | None = None
    weights_sha256: str | None = None
    new_head: Switch = False

    def __post_init__(self) -> None:
        if self.weights is None and self.weights_sha256 is None and self.new_head:
            raise ConfigError("arch.weights: new_head is for weights that are given, these are drawn anew")
        if self.weights is not None and self.weights_sha256 is None:
            # Here and not when the file is read, lest runs of other weights go by one name.
            object.__setattr__(self, "weights_sha256", sha256(self._file(self.weights)))

    def check(self, problem: Facts) -> None:
        super().check(problem)
        self._check_inputs(problem)
        self._check_given()
        if self.weights is not None:
            # whether they fit, before anything is allocated or written
            found_before(
                "weights", replace(self, weights="given"), problem, lambda: undrawn(lambda: self.build(problem)) is not None
            )

    def _check_given(self) -> None:
        """Raise a ConfigError where weights are known by their digest alone, as a ledger has them, which trains nothing."""
        if self.weights is None and self.weights_sha256 is not None:
            raise ConfigError("arch.weights_sha256: is of weights that are given, these are drawn anew; give arch.weights too")

    def _check_inputs(self, problem: Facts) -> None:
        """Raise a ConfigError where the network cannot take inputs of the problem's shape."""

    def untrained(self) -> Self:
        return replace(self, weights=None, weights_sha256=None, new_head=False)

    def _started(
        self, chain: BlockChain, module: nn.Module, problem: Facts, network: str, unused: Collection[str] = ()
    ) -> BlockChain:
        """The chain, which shares ``module``'s weights, with those that are given. Raises ConfigError where they do not fit.

        unused: what the file may hold and the network does without.
        """
        self._check_given()
        if self.weights is None:
            return chain
        if (found := sha256(file := self._file(self.weights))) != self.weights_sha256:
            raise ConfigError(f"arch.weights: {file} is not the file of arch.weights_sha256, its own is {found}")
        new_head = self.new_head or self._needs_head(problem)
        state = {name: tensor for name, tensor in read(file).items() if name not in unused}
        start_from(state, chain, module, classes=problem.outputs, new_head=new_head, network=network)
        return chain

    def _needs_head(self, problem: Facts) -> bool:
        """Whether the given last layer cannot serve the problem, which is no error."""
        return False

    def _file(self, name: str) -> Path:
        return local(name, lambda: "name a .safetensors file, such as a run's network.safetensors")


def local(weights: str, otherwise: Callable[[], str]) -> Path:
    """A file of this machine; ``pretrained/<name>`` lies in the folder that $EFFDL_PRETRAINED names, by default that very one.

    Raises:
        DataError: no such file in that folder; a table's cells that need it are without data.
        ConfigError: no such file elsewhere. otherwise: what else could have been said.
    """
    path = at_home(weights, "arch.weights")
    if path.parent == Path(FOLDER):
        path = Path(os.environ.get("EFFDL_PRETRAINED") or FOLDER) / path.name
        if not path.is_file():
            raise DataError(f"arch.weights: no file {path.name} in {path.parent}; EFFDL_PRETRAINED names the folder it lies in")
    if not path.is_file():
        raise ConfigError(f"arch.weights: no file {weights}; {otherwise()}")
    return path


def located(weights: str, name: str, made_by: Callable[[], Literal["torchvision", "timm"]]) -> Path:
    """The file: a local one, or for "pretrained" the library's own, fetched into its cache unless it lies there.

    Raises:
        ConfigError: there is none, or it could not be fetched. DataError: none below pretrained/, see `local`.
    """
    if weights != PUBLISHED:
        return local(weights, lambda: f"{PUBLISHED!r} stands for those that {made_by()} publishes")
    maker = made_by()
    try:
        return _of_torchvision(name) if maker == "torchvision" else _of_timm(name)
    except Exception as error:  # of the library, the network or the disk
        raise ConfigError(
            f"arch.weights={PUBLISHED}: those of {maker}'s {name} could not be fetched ({one_line(error)[:150]}); "
            "fetch them where there is a network and set arch.weights to the file"
        ) from None


def _of_torchvision(name: str) -> Path:
    from torchvision.models import get_model_weights

    url: str = get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not path.is_file():
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    return path


def _of_timm(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from timm import get_pretrained_cfg

    published: Any = get_pretrained_cfg(name)
    return Path(hf_hub_download(published.hf_hub_id, "model.safetensors"))


def sha256(path: Path) -> str:
    """The digest of a file's content, by which it is part of a run's identity. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"arch.weights: {path} cannot be read: {error.strerror or error}") from None


def read(path: Path) -> State:
    """Tensors by name out of a .safetensors file, or of a torch file that holds a state dict and no code.

    Raises:
        ConfigError: the file is neither, or damaged.
    """
    save = "save it with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise ConfigError(
            f"arch.weights: {path} is damaged or no state dict that loads without running code ({type(error).__name__}); {save}"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"arch.weights: {path} does not hold a network's tensors by name and nothing else; {save}")
    return state


def start_from(state: State, chain: BlockChain, module: nn.Module, *, classes: int, new_head: bool, network: str) -> None:
    """Copy weights into ``module``, a library's network whose weights ``chain`` shares, or into the chain where a run saved it.

    The input block is left alone: it is fitted to the data as ever. A file without batch counters, which older versions of
    torch did not save, leaves them at zero, as torch does.

    Args:
        classes: outputs of the last layer.
        new_head: leave the last layer as it was drawn.
        network: its name, and what else must be said where the weights do not fit.

    Raises:
        ConfigError: weights of another network or of another number of classes.
    """
    target = chain if "input.mean" in state else module
    last = _last_layers(chain, target, classes)
    own, given = (_without(("input.",), tensors) for tensors in (target.state_dict(), state))
    body = [_without(last, tensors) for tensors in (own, given)]
    misfit = _misfit(*body)
    if misfit is None and not new_head:
        found = given.get(f"{last[0]}weight", own[f"{last[0]}weight"]).shape[0]
        if found != classes:
            raise ConfigError(
                f"arch.weights: weights of {found} classes, this data set has {classes}: "
                "arch.new_head=true draws the last layer anew"
            )
        misfit = _misfit(own, given)
    if misfit is not None:
        raise ConfigError(f"arch.weights: these are of another network than {network}: {misfit}")
    own, given = body if new_head else (own, given)
    for name in given:
        own[name].copy_(given[name])  # load_state_dict would warn of each tensor of a network that has no memory yet


def _last_layers(chain: BlockChain, target: nn.Module, classes: int) -> tuple[str, ...]:
    """Prefixes of the layers whose outputs are the classes: in most networks one, in distilled ones two."""
    parts = {name: part for name, part in target.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    in_head = {id(part) for part in chain.head.modules()}
    found = [name for name, part in parts.items() if id(part) in in_head and part.weight.shape[0] == classes]
    return tuple(f"{name}." for name in found or [*parts][-1:])


def _without(prefixes: tuple[str, ...], tensors: State) -> State:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _misfit(own: State, given: State) -> str | None:
    """The first tensor that only one of two has, or that has another shape there."""
    for name, tensor in own.items():
        if name not in given:
            if not name.endswith("num_batches_tracked"):
                return f"{name} {[*tensor.shape]} is missing there"
        elif given[name].shape != tensor.shape:
            return f"{name} is {[*given[name].shape]} there and {[*tensor.shape]} here"
    return next((f"{name} {[*given[name].shape]} is missing here" for name in given if name not in own), None)
