"""Classification models of torchvision and timm by name: which there are, and how one is made for images of some size."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from effdl.errors import ConfigError, one_line

M = TypeVar("M", bound=nn.Module)
Maker = Literal["torchvision", "timm"]
MODULES = {"torchvision": "torchvision.models", "timm": "timm"}


class NotMade(ConfigError):
    """A library has a network, but does not make it with these arguments."""


def model(name: str, maker: Maker, outputs: int, **arguments: Any) -> nn.Module:
    """A library's network, freshly drawn.

    Raises:
        NotMade: the library does not make it so.
        ConfigError: the library is not there.
    """
    try:
        return _made(name, maker, num_classes=outputs, **arguments)
    except (ConfigError, NotImplementedError):  # the latter of weights without memory, at which some networks look
        raise
    except Exception as error:  # of whatever kind a network raises where it cannot be made so
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise NotMade(f"arch.name={name}: {maker} does not make it with {given} ({one_line(error)[:200]})") from error


def arguments(name: str, maker: Maker, sides: Sequence[int]) -> dict[str, Any]:
    """What a network's class takes of this: the sides of the images, no heads that only training has, weights drawn as ever."""
    options: dict[str, Any] = {"img_size": tuple(sides), "dynamic_img_size": False}
    if maker == "torchvision":
        options = {"image_size": sides[0], "input_size": tuple(sides), "aux_logits": False, "init_weights": True}
    return {key: value for key, value in options.items() if key in _by_default(name, maker)[0]}


def unused(name: str, maker: Maker, own: nn.Module) -> frozenset[str]:
    """Tensors of a file of the library's weights that ``own``, made by `arguments`, does without: of heads for training."""
    return _by_default(name, maker)[1] - own.state_dict().keys()


def maker_of(name: str) -> Maker:
    """The library that has a classification model of this name, torchvision where both have.

    Raises:
        ConfigError: none has, or none is there.
    """
    there = dict[str, list[str]]()
    for maker, names in MAKERS.items():
        try:
            there[maker] = names()
        except ImportError:
            continue
        known = name if maker == "torchvision" else name.split(".")[0]  # timm's may name weights: resnet18.a1_in1k
        if known in there[maker]:
            return maker
    if not there:
        raise _missing(name, "torchvision or timm")
    near = difflib.get_close_matches(name, {one for names in there.values() for one in names}, 5)
    nearest = (
        f"the nearest are {', '.join(near)}" if near else "torchvision.models.list_models() and timm.list_models() name all"
    )
    others = " (timm is not installed)" if "timm" not in there else ""
    raise ConfigError(f"arch.name: neither torchvision nor timm has a classification model {name!r}{others}; {nearest}")


def own_size(name: str, maker: Maker) -> int:
    """The side of the images that it was made for."""
    library = import_module(MODULES[maker])
    if maker == "torchvision":
        return int(library.get_model_weights(name).DEFAULT.transforms.keywords["crop_size"])
    return int(max(library.get_pretrained_cfg(name).input_size[1:]))


def undrawn(make: Callable[[], M]) -> M:
    """A network without memory; with it where it looks at its weights while it is made. No random number is taken."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:
        with torch.random.fork_rng(devices=[]):
            return make()


def _made(name: str, maker: Maker, **arguments: Any) -> nn.Module:
    try:
        library = import_module(MODULES[maker])
    except ImportError as error:
        raise _missing(name, maker, error) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that will change, and of names that have
        made: nn.Module = (library.create_model if maker == "timm" else library.get_model)(name, **arguments)
    return made


def _missing(name: str, maker: str, error: Exception | None = None) -> ConfigError:
    return ConfigError(f"arch={name}: needs {maker}{f' ({error})' if error else ''}: pip install 'effdl[vision]'")


@lru_cache(maxsize=64)
def _by_default(name: str, maker: Maker) -> tuple[frozenset[str], frozenset[str]]:
    """What a network's class is made from, and the tensors that it has where nothing else is asked for."""
    made = undrawn(lambda: _made(name, maker))
    names = set[str]()
    for makes in (vars(kind)["__init__"] for kind in type(made).__mro__ if "__init__" in vars(kind)):
        parameters = inspect.signature(makes).parameters
        names.update(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # else the rest goes to the class that it extends
            break
    return frozenset(names), frozenset(made.state_dict())


def _of_torchvision() -> list[str]:
    models = import_module(MODULES["torchvision"])
    names: list[str] = models.list_models(module=models)
    return names


def _of_timm() -> list[str]:
    names: list[str] = import_module(MODULES["timm"]).list_models()
    return names


MAKERS: dict[Maker, Callable[[], list[str]]] = {"torchvision": _of_torchvision, "timm": _of_timm}
