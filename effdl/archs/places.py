"""Where a network is cut: at the places that are named, or at those that it shows by itself."""

from collections.abc import Sequence
from itertools import pairwise
from string import digits

from torch import nn

from effdl.archs.crossing import FEW, ONE_BLOCK, called_once, elsewhere, ends, why_few
from effdl.archs.flow import NORMS, Flow, layers_within
from effdl.errors import ConfigError


def named_flow(module: nn.Module, cuts: Sequence[str], head: str | None) -> tuple[Flow, list[int]]:
    """The operations, and where blocks end: after each named submodule, and before the head."""
    _check_names(module, [*cuts, *([head] if head else [])])
    flow = Flow(module, _above(*cuts, head or ""))
    return flow, _named_places(flow, cuts, head)


def default_flow(module: nn.Module, head: str | None) -> tuple[Flow, list[int]]:
    """The operations, and where blocks end by default."""
    _check_names(module, [head] if head else [])
    opened = (_sequentials(module) - {head}) | _above(head or "")
    flow = Flow(module, opened)
    if (places := _default_places(flow, head)) is None:
        if cuts := _deeper(flow, opened, 0):
            raise ConfigError(
                f"from_module: {type(module).__name__} shows no place to cut; within it there are some: cuts={cuts} gives "
                f"{len(cuts)} block{'s' * (len(cuts) > 1)}"
            )
        if why := why_few(flow):
            raise ConfigError(f"from_module: found no place to cut {type(module).__name__}: {why}; {ONE_BLOCK}")
        raise ConfigError("from_module: found no place to cut; a chain needs a layer, then one value alone, then another layer")
    return flow, places


def deeper_cuts(module: nn.Module) -> tuple[list[str], str | None]:
    """Cuts which give more blocks than there are by default, [] where none do; and what is in the way of others."""
    opened = _sequentials(module)
    flow = Flow(module, opened)
    places = _default_places(flow, None) or []
    found, why = _deeper(flow, opened, len(places)), why_few(flow, places)
    if found or len(places) >= FEW:
        return found, why
    found = max(ends(flow), [] if why else _deeper(flow, opened, 0), key=len)
    if len(found) <= len(places) and why is None and (inner := _opened(flow, opened, _largest(flow))) is not None:
        why = why_few(inner, _default_places(inner, None) or [])
    return found if len(found) > len(places) else [], why


def _check_names(module: nn.Module, names: Sequence[str]) -> None:
    known = {name for name, _ in module.named_modules() if name}
    for name in names:
        if name not in known:
            parent = name.rpartition(".")[0]
            parent = parent if parent in known else ""
            there = ", ".join(f"{parent}.{n}" if parent else n for n, _ in module.get_submodule(parent).named_children())
            raise ConfigError(f"from_module: no submodule {name!r}; there are {there}")


def _above(*names: str) -> set[str]:
    return {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}


def _sequentials(module: nn.Module, prefix: str = "") -> set[str]:
    """Names of the plain `nn.Sequential`s that are reached through such alone."""
    plain = {prefix + name: child for name, child in module.named_children() if type(child) is nn.Sequential and len(child)}
    return set(plain).union(*(_sequentials(child, f"{name}.") for name, child in plain.items()))


def _named_places(flow: Flow, cuts: Sequence[str], head: str | None) -> list[int]:
    if not cuts:
        raise ConfigError("from_module: cuts is empty: name the submodule that ends each block, or leave cuts out")
    places = {name: flow.after(name) for name in cuts}
    ends = [places[name] for name in cuts]
    if ends != sorted(set(ends)) or (head is not None and flow.calls(head)[0] < ends[-1]):
        order = [*sorted(places, key=places.__getitem__), *([head] if head else [])]
        raise ConfigError(f"from_module: cuts {[*cuts]} and head are out of order; the network calls {', '.join(order)}")
    for name, place in places.items():
        if obstacle := flow.obstacle(place):
            raise ConfigError(f"from_module: no cut after {name!r}: {obstacle}; {elsewhere(flow)}")
    if ends[-1] == len(flow.nodes):
        raise ConfigError(f"from_module: nothing is left for a head after {cuts[-1]!r}")
    return ends if head is None else sorted({*ends, _head_place(flow, head, ends[-1] - 1)})


def _default_places(flow: Flow, head: str | None) -> list[int] | None:
    """A block begins at each layer that one value alone reaches; the last such layer is the head. None where there is none."""
    layers = [i for i in range(len(flow.nodes)) if flow.is_layer(i)]
    starts = [i for i in layers[1:] if flow.obstacle(i) is None] or _before_layers(flow, layers)
    if head is not None:
        place = _head_place(flow, head, 0)
    elif starts:
        place = flow.head_start(starts[-1], max(i for i in layers if i < starts[-1]), modules=True)
    else:
        return None
    return [i for i in starts if i < place] + [place]


def _before_layers(flow: Flow, layers: Sequence[int]) -> list[int]:
    """The last place between each layer and the next at which one value alone crosses, if there is one."""
    spans = [range(after, before, -1) for before, after in pairwise(layers)]
    found = [next((i for i in span if flow.obstacle(i) is None), None) for span in spans]
    return [i for i in found if i is not None]


def _head_place(flow: Flow, head: str, least: int) -> int:
    place = flow.head_start(flow.calls(head)[0], least, modules=False)
    if obstacle := flow.obstacle(place):
        raise ConfigError(f"from_module: no cut before {head!r}: {obstacle}; {elsewhere(flow)}")
    return place


def _deeper(flow: Flow, opened: set[str], blocks: int) -> list[str]:
    """Names of cuts that give more than so many blocks, by opening one submodule after another; [] where none do."""
    tried, best, shown = set[str](), list[str](), blocks
    while names := [n for n in _called(flow) if n not in tried and (blocks == 0 or _is_list(flow.module.get_submodule(n)))]:
        # Within a wrapper nothing says what is worth opening, so that its largest part comes first
        name = _largest(flow, names) if blocks == 0 else names[0]
        tried.add(name)
        if (inner := _opened(flow, opened, name)) is None:
            continue
        cuts = _names(inner)
        if len(cuts) >= max(len(best), blocks):
            flow, opened, best, blocks = inner, inner.opened, cuts, max(blocks, len(cuts))
    return best if len(best) > shown else []


def _largest(flow: Flow, names: Sequence[str] | None = None) -> str:
    """Of submodules that are operations and have parts, the one with the most weights; "" where there is none."""
    return max(_called(flow) if names is None else names, key=lambda name: len(flow.weights[name]), default="")


def _opened(flow: Flow, opened: set[str], name: str) -> Flow | None:
    """The operations with those inside a submodule too; None where they cannot be followed, or there is none of the name."""
    if not name:
        return None
    try:
        return Flow(flow.module, opened | {name} | _sequentials(flow.module.get_submodule(name), f"{name}."))
    except ConfigError:
        return None


def _called(flow: Flow) -> list[str]:
    """Submodules that are operations, and have parts themselves."""
    targets = [str(n.target) for n in flow.nodes if n.op == "call_module"]
    return [name for name in dict.fromkeys(targets) if next(flow.module.get_submodule(name).children(), None) is not None]


def _is_list(module: nn.Module) -> bool:
    """Whether a submodule holds numbered parts of one kind, each with several layers, such as the blocks of a stage."""
    for holder in (module, *module.children()):
        parts = [(name, part) for name, part in holder.named_children() if not isinstance(part, NORMS)]
        kinds = [
            (type(part), name.rstrip(digits)) for name, part in parts if name[-1] in digits and len(layers_within(part)) > 1
        ]
        if any(kinds.count(kind) > 1 for kind in kinds):
            return True
    return False


def _names(flow: Flow) -> list[str]:
    """The submodules after which the network can be cut to have the blocks that it shows by default."""
    found = list[str]()
    ends = {name: flow.after(name) for name in called_once(flow)}
    for place in _default_places(flow, None) or []:
        before = [name for name, end in ends.items() if end <= place and flow.obstacle(end) is None]
        if before and before[-1] not in found:
            found.append(before[-1])
    return found
