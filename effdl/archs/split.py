"""Cutting a module into consecutive pieces at named submodules, by tracing only what lies above them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from effdl.errors import ConfigError


class _TraceAbove(fx.Tracer):
    """Traces through the ancestors of the named submodules and takes everything else as one operation."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.opened = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened


def split_module(
    module: nn.Module, cuts: Sequence[str] | None, head: str | None
) -> tuple["OrderedDict[str, nn.Module]", nn.Module]:
    """Blocks by name and the head; see `BlockChain.from_module`."""
    modules = dict(module.named_modules())
    children = _opened_children(module)
    if cuts is None:
        head = head or _first_of_head(children, modules)
        cuts = list(children[: children.index(head)] if head in children else children[:-1])
    for name in [*cuts, *([head] if head else [])]:
        if name not in modules:
            raise ConfigError(f"from_module: no submodule {name!r}; there are {', '.join(children)}")
    graph = _trace(module, {*cuts, *children, *([head] if head else [])})
    nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
    called = {str(n.target): i for i, n in enumerate(nodes) if n.op == "call_module"}
    for name in [*cuts, *([head] if head else [])]:
        if name not in called:
            raise ConfigError(f"from_module: submodule {name!r} is not called once at the top of the network's data flow")
    ends = [called[name] + 1 for name in cuts]
    if head is not None:
        start = called[head]
        while start > ends[-1] and nodes[start - 1].op not in ("call_module",):  # a flatten before the classifier is its own
            start -= 1
        ends = [e for e in ends if e < start] + [start]
        names = [n for n in cuts if called[n] + 1 < start] + [str(_last_module(nodes[:start]))]
    else:
        names = list(cuts)
    if ends != sorted(set(ends)):
        raise ConfigError(f"from_module: the cuts {list(cuts)} are not in the order in which the network calls them")
    starts = [0, *ends]
    pieces = [_piece(module, graph, nodes[a:b], nodes[b:]) for a, b in zip(starts, [*ends, len(nodes)], strict=True)]
    for piece in pieces:
        _start_out_of_place(piece)
    blocks = OrderedDict((n.replace(".", "_"), p) for n, p in zip(names, pieces, strict=False))
    return blocks, pieces[-1]


def _opened_children(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the children in order, plain `nn.Sequential`s opened."""
    names: list[str] = []
    for name, child in module.named_children():
        opened = type(child) is nn.Sequential and len(child) > 0
        names += _opened_children(child, f"{prefix}{name}.") if opened else [prefix + name]
    return names


def _first_of_head(children: list[str], modules: dict[str, nn.Module]) -> str:
    """The last child with parameters, or the first of the parameter-free ones right before it."""
    owns = [next(modules[name].parameters(), None) is not None for name in children]
    last = max((i for i, own in enumerate(owns) if own), default=0)
    while last > 1 and not owns[last - 1]:
        last -= 1
    return children[last]


def _trace(module: nn.Module, names: set[str]) -> fx.Graph:
    try:
        return _TraceAbove(names).trace(module)
    except Exception as error:  # fx raises many kinds; each means the same to the user
        text = " ".join(str(error).split())
        raise ConfigError(
            f"from_module: {type(module).__name__} cannot be traced ({text}); name fewer or deeper cuts"
        ) from error


def _last_module(nodes: list[fx.Node]) -> Any:
    return next(n.target for n in reversed(nodes) if n.op == "call_module")


def _piece(root: nn.Module, graph: fx.Graph, nodes: list[fx.Node], later: list[fx.Node]) -> nn.Module:
    """The nodes as a module of one input and one output: a Sequential of the original modules where they form a chain."""
    inside = set(nodes)
    inputs = {a for n in nodes for a in n.all_input_nodes if a not in inside and a.op != "get_attr"}
    if len(inputs) != 1:
        names = sorted(str(a) for a in inputs)
        raise ConfigError(f"from_module: {len(inputs)} values ({', '.join(names)}) cross the cut before {nodes[0].name!r}")
    chain = [n for n in nodes if n.op == "call_module" and len(n.args) == 1 and not n.kwargs]
    linked = all(n.args[0] is m for n, m in zip(nodes[1:], nodes[:-1], strict=True))
    if len(chain) == len(nodes) and linked:
        modules = [root.get_submodule(str(n.target)) for n in nodes]
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    part = fx.Graph()
    renamed: dict[fx.Node, fx.Node] = {inputs.pop(): part.placeholder("x")}
    for node in nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in renamed:
                renamed[source] = part.node_copy(source, lambda n: renamed[n])
        renamed[node] = part.node_copy(node, lambda n: renamed[n])
    part.output(renamed[nodes[-1]])
    return fx.GraphModule(root, part)


def _start_out_of_place(piece: nn.Module) -> None:
    """A piece's first operation must not overwrite its input: the piece below yields that very tensor."""
    if isinstance(piece, fx.GraphModule):
        first = next(n for n in piece.graph.nodes if n.op != "placeholder")
        if first.kwargs.get("inplace"):
            first.kwargs = {**first.kwargs, "inplace": False}
            piece.recompile()
        if first.op != "call_module":
            return
        piece = piece.get_submodule(str(first.target))
    while (child := next(piece.children(), None)) is not None:
        piece = child
    if getattr(piece, "inplace", False):
        piece.inplace = False  # type: ignore[assignment]
