"""Cutting a module into consecutive pieces that share its weights."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from effdl.archs.flow import Flow, attribute, first_within
from effdl.archs.places import default_flow, named_flow


class Pieces(NamedTuple):
    """takes_ids: whether the first block begins with an embedding."""

    blocks: "OrderedDict[str, nn.Module]"
    head: nn.Module
    takes_ids: bool


class Copy(nn.Module):
    """Copies its input, so that what follows may work in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class _Training(nn.Module):
    """The training flag as a value, for operations that ask for it, like ``F.dropout(x, training=self.training)``."""

    def forward(self) -> bool:
        return self.training


def split_module(module: nn.Module, cuts: Sequence[str] | None, head: str | None) -> Pieces:
    """Blocks by name and the head; see `BlockChain.from_module`."""
    flow, places = default_flow(module, head) if cuts is None else named_flow(module, cuts, head)
    ends = [*places, len(flow.nodes)]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (start, stop) in enumerate(zip([0, *places[:-1]], places, strict=True)):
        name = cuts[i] if cuts is not None and i < len(cuts) else _first_layer(flow, start, stop)
        name = name.replace(".", "_")
        while name in blocks:
            name += "_"
        blocks[name] = _piece(flow, start, stop)
    return Pieces(blocks, _piece(flow, *ends[-2:]), flow.takes_ids)


def _first_layer(flow: Flow, start: int, stop: int) -> str:
    called = [i for i in range(start, stop) if flow.nodes[i].op == "call_module"]
    first = next((i for i in called if flow.is_layer(i)), called[0] if called else start)
    return str(flow.nodes[first].target if called else flow.nodes[first])


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
                attributes[str(weight.target)] = attribute(flow.module, weight)
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
    """Whether the first submodule that has none itself works in place."""
    return bool(getattr(first_within(module), "inplace", False))


def _is_in_place(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return _begins_in_place(root.get_submodule(str(node.target)))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    module = "" if isinstance(node.target, str) else getattr(node.target, "__module__", "")
    flagged = node.kwargs.get("inplace") or (module == "torch.nn.functional" and True in node.args)
    return bool(flagged) or (name.endswith("_") and not name.endswith("__")) or (module == "_operator" and name[:1] == "i")
