"""Cutting a module into consecutive pieces, by tracing only what lies above the submodules that become blocks."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import activation, normalization, pooling
from torch.nn.modules.batchnorm import _NormBase

from effdl.errors import ConfigError

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, normalization.LocalResponseNorm)
STAY_BELOW = {name.lower() for name in [*activation.__all__, *pooling.__all__] if not name.startswith("Adaptive")}
STAY_BELOW -= {name for name in STAY_BELOW if name.startswith("avg")}  # averaging before the last layer is the head's


class Copy(nn.Module):
    """Copies its input, so that what follows may work in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class _Training(nn.Module):
    """The training flag as a value, for operations that ask for it, like ``F.dropout(x, training=self.training)``."""

    def forward(self) -> bool:
        return self.training


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
    """The operations of a module's forward pass in their order, and what passes between them."""

    def __init__(self, module: nn.Module, opened: set[str]) -> None:
        self.module = module
        self.weights = {name: {id(p) for p in part.parameters()} for name, part in module.named_modules()}
        graph, self.asks_training = _trace(module, opened)
        # weights that an operation takes from the network itself (get_attr) move to where they are used
        self.nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
        self.graph, self.result = graph, graph.output_node().args[0]
        if not isinstance(self.result, fx.Node):
            raise ConfigError(f"from_module: {type(module).__name__} returns more than one tensor")

    def calls(self, name: str) -> list[int]:
        """Places of the operations inside submodule ``name``. Raises ConfigError unless it is called once."""
        stacks = [n.meta.get("nn_module_stack", {}) for n in self.nodes]
        keys = {key for stack in stacks for key, (path, _) in stack.items() if path == name}
        if len(keys) != 1:
            raise ConfigError(f"from_module: {name!r} is called {len(keys)} times in the forward pass, not once")
        return [i for i, stack in enumerate(stacks) if keys & stack.keys()]

    def values(self, place: int) -> list[fx.Node]:
        """Values that the operations from ``place`` on (the end included) take from those before."""
        later = set(self.nodes[place:])
        used = [a for n in self.nodes[place:] for a in n.all_input_nodes] + [self.result]
        return list(dict.fromkeys(a for a in used if a not in later and a.op != "get_attr"))

    def obstacle(self, place: int) -> str | None:
        """Why the network cannot be cut before operation ``place``, or None."""
        values = self.values(place)
        if len(values) != 1:
            return f"{len(values)} values cross it: {', '.join(map(str, values))}"
        before, after = (self._weights_of(part) for part in (self.nodes[:place], self.nodes[place:]))
        if shared := before & after:
            names = [name for name, p in self.module.named_parameters() if id(p) in shared]
            return f"both sides use the same weights: {', '.join(names)}"
        return None

    def is_layer(self, place: int) -> bool:
        """A submodule with weights other than those of normalisation."""
        node = self.nodes[place]
        if node.op != "call_module":
            return False
        parts = self.module.get_submodule(str(node.target)).modules()
        return any(not isinstance(m, NORMS) and next(m.parameters(recurse=False), None) is not None for m in parts)

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
                if source.op == "get_attr" and isinstance(value := _attribute(self.module, source), nn.Parameter):
                    found.add(id(value))
        return found


def split_module(
    module: nn.Module, cuts: Sequence[str] | None, head: str | None
) -> tuple["OrderedDict[str, nn.Module]", nn.Module]:
    """Blocks by name and the head; see `BlockChain.from_module`."""
    known = [name for name, _ in module.named_modules() if name]
    for name in [*(cuts or []), *([head] if head else [])]:
        if name not in known:
            there = ", ".join(n for n, _ in module.named_children())
            raise ConfigError(f"from_module: no submodule {name!r}; there are {there}")
    opened = {name.rsplit(".", depth)[0] for name in [*(cuts or []), head or ""] for depth in range(1, name.count(".") + 1)}
    flow = Flow(module, opened | (_sequentials(module) - {head} if cuts is None else set()))
    places = _default_places(flow, head) if cuts is None else _named_places(flow, cuts, head)
    ends = [*places, len(flow.nodes)]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (start, stop) in enumerate(zip([0, *places[:-1]], places, strict=True)):
        name = cuts[i] if cuts is not None and i < len(cuts) else _first_layer(flow, start, stop)
        name = name.replace(".", "_")
        while name in blocks:
            name += "_"
        blocks[name] = _piece(flow, start, stop)
    return blocks, _piece(flow, *ends[-2:])


def _named_places(flow: Flow, cuts: Sequence[str], head: str | None) -> list[int]:
    """Where blocks end: after each named submodule, and before the head."""
    if not cuts:
        raise ConfigError("from_module: cuts is empty: name the submodule that ends each block, or leave cuts out")
    places = {name: flow.calls(name)[-1] + 1 for name in cuts}
    ends = [places[name] for name in cuts]
    if ends != sorted(set(ends)) or (head is not None and flow.calls(head)[0] < ends[-1]):
        order = [*sorted(places, key=places.__getitem__), *([head] if head else [])]
        raise ConfigError(f"from_module: cuts {[*cuts]} and head are out of order; the network calls {', '.join(order)}")
    for name, place in places.items():
        if obstacle := flow.obstacle(place):
            raise ConfigError(f"from_module: no cut after {name!r}: {obstacle}")
    if ends[-1] == len(flow.nodes):
        raise ConfigError(f"from_module: nothing is left for a head after {cuts[-1]!r}")
    return ends if head is None else sorted({*ends, _head_place(flow, head, ends[-1] - 1)})


def _default_places(flow: Flow, head: str | None) -> list[int]:
    """A block begins at each layer that one value alone reaches; the last such layer is the head."""
    layers = [i for i in range(len(flow.nodes)) if flow.is_layer(i)]
    starts = [i for i in layers[1:] if flow.obstacle(i) is None]
    if head is not None:
        place = _head_place(flow, head, 0)
    elif starts:
        place = flow.head_start(starts[-1], layers[layers.index(starts[-1]) - 1], modules=True)
    else:
        raise ConfigError("from_module: found no place to cut; a chain needs a layer, then one value alone, then another layer")
    return [i for i in starts if i < place] + [place]


def _head_place(flow: Flow, head: str, least: int) -> int:
    place = flow.head_start(flow.calls(head)[0], least, modules=False)
    if obstacle := flow.obstacle(place):
        raise ConfigError(f"from_module: no cut before {head!r}: {obstacle}")
    return place


def _sequentials(module: nn.Module, prefix: str = "") -> set[str]:
    """Names of the plain `nn.Sequential`s that are reached through such alone."""
    plain = {prefix + name: child for name, child in module.named_children() if type(child) is nn.Sequential and len(child)}
    return set(plain).union(*(_sequentials(child, f"{name}.") for name, child in plain.items()))


def _first_layer(flow: Flow, start: int, stop: int) -> str:
    called = [i for i in range(start, stop) if flow.nodes[i].op == "call_module"]
    first = next((i for i in called if flow.is_layer(i)), called[0] if called else start)
    return str(flow.nodes[first].target if called else flow.nodes[first])


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
        text = " ".join(str(error).split())
        message = f"from_module: {type(module).__name__} cannot be traced ({text}); name fewer or deeper cuts"
        raise ConfigError(message) from error
    finally:
        for part, flag in zip(parts, before, strict=True):
            part.training = flag
    train, evaluation = ([n for n in graph.nodes if n.op != "get_attr"] for graph in graphs)
    if [(n.op, n.target) for n in train] != [(n.op, n.target) for n in evaluation]:
        raise ConfigError(f"from_module: {type(module).__name__} does other operations in training than in evaluation")
    return graphs[0], {a: asks for a, b in zip(train, evaluation, strict=True) if (asks := _flags(a, b))}


def _flags(train: fx.Node, evaluation: fx.Node) -> list[int | str]:
    pairs: list[tuple[int | str, Any, Any]] = [(i, a, evaluation.args[i]) for i, a in enumerate(train.args)]
    pairs += [(key, a, evaluation.kwargs[key]) for key, a in train.kwargs.items()]
    return [key for key, a, b in pairs if a is True and b is False]


def _piece(flow: Flow, start: int, stop: int) -> nn.Module:
    """Operations [start, stop) as a module: a Sequential of the original modules where they form a chain."""
    nodes, source, result = flow.nodes[start:stop], flow.values(start)[0], flow.values(stop)[0]
    alone = all(n.op == "call_module" and len(n.args) == 1 and not n.kwargs for n in nodes)
    if alone and [n.args[0] for n in nodes] == [source, *nodes[:-1]] and nodes[-1] is result:
        return _chain([flow.module.get_submodule(str(n.target)) for n in nodes])
    graph = fx.Graph()
    x = graph.placeholder("x")
    works_in_place = any(_is_in_place(flow.module, n) for n in nodes if source in n.all_input_nodes)
    new = {source: graph.call_method("clone", (x,)) if works_in_place else x}
    attributes: dict[str, Any] = {"training_flag": _Training().train(flow.module.training)}
    for node in nodes:
        for weight in node.all_input_nodes:
            if weight.op == "get_attr":
                new[weight] = graph.node_copy(weight)
                attributes[str(weight.target)] = _attribute(flow.module, weight)
        if node.op == "call_module":
            attributes[str(node.target)] = flow.module.get_submodule(str(node.target))
        flags = flow.asks_training.get(node, [])
        training = graph.call_module("training_flag") if flags else None
        new[node] = copied = graph.node_copy(node, lambda n: new[n])
        copied.args = tuple(training if i in flags else a for i, a in enumerate(copied.args))
        copied.kwargs = {key: training if key in flags else a for key, a in copied.kwargs.items()}
    graph.output(new[result])
    return fx.GraphModule(attributes, graph)


def _chain(modules: list[nn.Module]) -> nn.Module:
    """The modules one after another, the first operation out of place: the piece below yields the tensor that it gets."""
    first = next((m for m in _opened(modules) if not isinstance(m, nn.Identity | nn.Flatten)), modules[0])
    if next(first.children(), None) is None and getattr(first, "inplace", False):
        first.inplace = False  # type: ignore[assignment]
    elif _begins_in_place(first):
        modules = [Copy(), *modules]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _opened(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules in the order in which they are called, plain Sequentials opened."""
    for module in modules:
        yield from _opened(module) if type(module) is nn.Sequential else [module]


def _begins_in_place(module: nn.Module) -> bool:
    """Whether the first submodule that has none itself works in place; a forward pass may call them in another order."""
    while (child := next(module.children(), None)) is not None:
        module = child
    return bool(getattr(module, "inplace", False))


def _is_in_place(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return _begins_in_place(root.get_submodule(str(node.target)))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    module = "" if isinstance(node.target, str) else getattr(node.target, "__module__", "")
    flagged = node.kwargs.get("inplace") or (module == "torch.nn.functional" and True in node.args)
    return bool(flagged) or (name.endswith("_") and not name.endswith("__")) or (module == "_operator" and name[:1] == "i")


def _attribute(root: nn.Module, node: fx.Node) -> torch.Tensor:
    value: Any = root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    tensor: torch.Tensor = value
    return tensor
