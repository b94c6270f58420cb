"""The operations of a module's forward pass in their order, traced only above the submodules that become blocks."""

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import activation, normalization, pooling
from torch.nn.modules.batchnorm import _NormBase

from effdl.errors import ConfigError

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, normalization.LocalResponseNorm)
STAY_BELOW = {name.lower() for name in [*activation.__all__, *pooling.__all__] if not name.startswith("Adaptive")}
STAY_BELOW -= {name for name in STAY_BELOW if name.startswith("avg")}  # averaging before the last layer is the head's
BY_HAND = "give its parts to BlockChain(blocks, head) in their order"


class _TraceAbove(fx.Tracer):
    """Follows the forward pass of the root and of the ``opened`` submodules; any other submodule is one operation."""

    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self.opened = opened

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened

    def create_args_for_root(self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None) -> Any:
        """The first argument is the input; all others keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]


class Flow:
    """The operations of a module's forward pass in their order, and what passes between them.

    Raises:
        ConfigError: the module does not map one tensor to one, or its forward pass cannot be followed.
    """

    def __init__(self, module: nn.Module, opened: set[str]) -> None:
        self.module, self.opened = module, opened
        self.weights = {name: {id(p) for p in part.parameters()} for name, part in module.named_modules()}
        _check_arguments(module)
        graph, self.asks_training = _trace(module, opened)
        # weights that an operation takes from the network itself (get_attr) move to where they are used
        self.nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
        self.graph, self.result = graph, graph.output_node().args[0]
        self.source = next(iter(graph.nodes))
        self._check_ends()

    def _check_ends(self) -> None:
        if keys := [repr(n.args[1]) for n in self.nodes if _unpacks(n) and n.args[0] is self.source]:
            kind = "a dict" if keys[0].startswith(("'", '"')) else "several tensors in one"
            raise not_one_tensor(self.module, f"takes {kind}, of which it asks {keys[0]}", f"self.net({{{keys[0]}: x}})")
        if isinstance(self.result, Mapping):
            key = next((key for key, value in self.result.items() if isinstance(value, fx.Node)), "logits")
            names = ", ".join(map(str, self.result))
            raise not_one_tensor(self.module, f"returns more than one tensor, a dict of {names}", f"self.net(x)[{key!r}]")
        if not isinstance(self.result, fx.Node):
            raise not_one_tensor(self.module, "returns more than one tensor", "self.net(x)[0]")

    @property
    def takes_ids(self) -> bool:
        """Whether its input goes into an embedding, and is to stay what it is."""
        return any(self._embeds(n) for n in self.source.users)

    def _embeds(self, node: fx.Node) -> bool:
        if node.op != "call_module":
            return node.target is F.embedding
        return isinstance(first_within(self.module.get_submodule(str(node.target))), nn.Embedding | nn.EmbeddingBag)

    def calls(self, name: str) -> list[int]:
        """Places of the operations inside submodule ``name``. Raises ConfigError unless it is called once."""
        stacks = [n.meta.get("nn_module_stack", {}) for n in self.nodes]
        keys = {key for stack in stacks for key, (path, _) in stack.items() if path == name}
        if len(keys) != 1:
            raise ConfigError(f"from_module: {name!r} is called {len(keys)} times in the forward pass, not once")
        return [i for i, stack in enumerate(stacks) if keys & stack.keys()]

    def after(self, name: str) -> int:
        """The place after submodule ``name``, and after what is taken out of a tuple that it returns."""
        place = self.calls(name)[-1] + 1
        returned = self.values(place)
        while place < len(self.nodes) and _unpacks(self.nodes[place]) and self.nodes[place].args[0] in returned:
            place += 1
        return place

    def values(self, place: int) -> list[fx.Node]:
        """Values that the operations from ``place`` on (the end included) take from those before."""
        later = set(self.nodes[place:])
        used = [a for n in self.nodes[place:] for a in n.all_input_nodes] + [self.result]
        return list(dict.fromkeys(a for a in used if a not in later and a.op != "get_attr"))

    def _tuple(self, place: int) -> bool:
        """Whether one value alone crosses the place, of which all that follows takes parts: a tuple, a list or a dict."""
        values = self.values(place)
        if len(values) != 1 or values[0] is self.result:
            return False
        return all(_unpacks(n) for n in self.nodes[place:] if values[0] in n.all_input_nodes)

    def obstacle(self, place: int) -> str | None:
        """Why the network cannot be cut before operation ``place``, or None."""
        values = self.values(place)
        if len(values) != 1:
            return f"{len(values)} values cross it: {', '.join(map(value_name, values))}"
        if self._tuple(place):
            return f"what crosses it is no tensor: of {value_name(values[0])} parts are taken"
        before, after = (self._weights_of(part) for part in (self.nodes[:place], self.nodes[place:]))
        if shared := before & after:
            names = [name for name, p in self.module.named_parameters() if id(p) in shared]
            return f"both sides use the same weights: {', '.join(names)}"
        return None

    def is_layer(self, place: int) -> bool:
        """A submodule with weights other than those of normalisation."""
        node = self.nodes[place]
        return node.op == "call_module" and bool(layers_within(self.module.get_submodule(str(node.target))))

    def head_start(self, place: int, least: int, modules: bool) -> int:
        """From a head's first layer back over what only reshapes or averages for it, not beyond ``least``.

        modules: over submodules too, not over operations alone.
        """
        start = place
        while place - 1 > least and self._prepares(self.nodes[place - 1], modules):
            place -= 1
            start = place if self.obstacle(place) is None else start
        return start

    def _prepares(self, node: fx.Node, modules: bool) -> bool:
        if self._weights_of([node]) or (node.op == "call_module" and not modules):
            return False
        if node.op != "call_module":
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            return name.replace("_", "").lower() not in STAY_BELOW
        module = self.module.get_submodule(str(node.target))
        kind = type(module)
        return not isinstance(module, NORMS) and kind.__name__.lower() not in STAY_BELOW and "activation" not in kind.__module__

    def _weights_of(self, nodes: Iterable[fx.Node]) -> set[int]:
        found: set[int] = set()
        for node in nodes:
            if node.op == "call_module":
                found |= self.weights[str(node.target)]
            for source in node.all_input_nodes:
                if source.op == "get_attr" and isinstance(value := attribute(self.module, source), nn.Parameter):
                    found.add(id(value))
        return found


def _check_arguments(module: nn.Module) -> None:
    """Raise a ConfigError where the forward pass needs more than one input."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if more := [p.name for p in parameters[1:] if p.default is p.empty and p.kind not in variable]:
        names = ", ".join([parameters[0].name, *more])
        call = f"self.net(x, {', '.join(f'{name}=...' for name in more)})"
        raise not_one_tensor(module, f"takes {len(more) + 1} inputs ({names})", call)


def not_one_tensor(module: nn.Module, what: str, call: str) -> ConfigError:
    """An error for a network that does not map one tensor to one. call: of the network, in a wrapper that does."""
    inside = next((name for name, _ in module.named_children()), "layer")
    return ConfigError(
        f"from_module: {type(module).__name__} {what}, and a chain's batches are one tensor x: wrap it in a module "
        f"`forward(self, x): return {call}`, and name cuts within it, such as 'net.{inside}'"
    )


def _unpacks(node: fx.Node) -> bool:
    """Whether an operation takes a part out of a tuple or dict; of a tensor, networks take slices."""
    return node.target is operator.getitem and isinstance(node.args[1], int | str)


def value_name(node: fx.Node) -> str:
    """A value as people would write it: by the submodule that puts it out, or by the operation and what it is made of."""
    if node.op in ("placeholder", "call_module", "get_attr"):
        return str(node.target)
    if node.target in (getattr, operator.getitem) and isinstance(node.args[0], fx.Node):
        part = f".{node.args[1]}" if node.target is getattr else f"[{node.args[1]}]" if _unpacks(node) else "[...]"
        return f"{value_name(node.args[0])}{part}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return f"{name}({', '.join(dict.fromkeys(_maker(n) for n in node.all_input_nodes))})"


def _maker(node: fx.Node) -> str:
    """The submodule that a value comes from, by its first input where operations lie between."""
    while node.op not in ("placeholder", "call_module", "get_attr") and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return str(node.target)


def layers_within(module: nn.Module) -> list[nn.Module]:
    """Submodules, itself among them, with weights of their own that are not those of normalisation."""
    return [m for m in module.modules() if not isinstance(m, NORMS) and next(m.parameters(recurse=False), None) is not None]


def first_within(module: nn.Module) -> nn.Module:
    """The first submodule that has none itself; a forward pass may call them in another order."""
    while (child := next(module.children(), None)) is not None:
        module = child
    return module


def attribute(root: nn.Module, node: fx.Node) -> torch.Tensor:
    value: Any = root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    tensor: torch.Tensor = value
    return tensor


def _trace(module: nn.Module, opened: set[str]) -> tuple[fx.Graph, dict[fx.Node, list[int | str]]]:
    """The graph, and the arguments (by place or name) of its operations that are the training flag."""
    parts = [module, *(module.get_submodule(name) for name in opened)]
    before = [part.training for part in parts]
    try:
        graphs = []
        for training in (True, False):
            for part in parts:
                part.training = training
            graphs.append(_TraceAbove(opened).trace(module))
    except Exception as error:  # fx raises many kinds; each means the same to the user
        if opened:
            _trace(module, set())  # says so where it is the network's own forward pass, which no choice of cuts leaves out
        text, advice = " ".join(str(error).split()), "name fewer or shallower cuts" if opened else BY_HAND
        raise ConfigError(f"from_module: {type(module).__name__} cannot be traced ({text}); {advice}") from error
    finally:
        for part, flag in zip(parts, before, strict=True):
            part.training = flag
    train, evaluation = ([n for n in graph.nodes if n.op != "get_attr"] for graph in graphs)
    if [(n.op, n.target) for n in train] != [(n.op, n.target) for n in evaluation]:
        raise ConfigError(
            f"from_module: {type(module).__name__} does other operations in training than in evaluation; make it without what "
            "training alone uses, such as aux_logits=False"
        )
    return graphs[0], {a: asks for a, b in zip(train, evaluation, strict=True) if (asks := _flags(a, b))}


def _flags(train: fx.Node, evaluation: fx.Node) -> list[int | str]:
    pairs: list[tuple[int | str, Any, Any]] = [(i, a, evaluation.args[i]) for i, a in enumerate(train.args)]
    pairs += [(key, a, evaluation.kwargs[key]) for key, a in train.kwargs.items()]
    return [key for key, a, b in pairs if a is True and b is False]
