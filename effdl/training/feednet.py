"""Feednets: frozen blocks, called again and again for their outputs alone (thesis §6.2.2, Algorithm 3)."""

import copy
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def feednet(block: nn.Module) -> nn.Module:
    """A frozen block made fast: batch normalisation folded into the convolution before it, weights channels last.

    The block stays as it is, and is itself returned where it has no convolutions. Outputs are the same up to rounding.

    Args:
        block: in eval mode.
    """
    if not is_copied(block):
        return block
    fast = folded(copy.deepcopy(block)).requires_grad_(False)
    return fast.to(memory_format=torch.channels_last)


def is_copied(block: nn.Module) -> bool:
    """Whether a feednet of the block has weights of its own."""
    return any(isinstance(m, CONVOLUTIONS) for m in block.modules())


def folded(module: nn.Module) -> nn.Module:
    """The module, in eval mode, with every batch normalisation that alone reads a convolution's output folded into it.

    With running mean μ and variance σ², scale γ and shift β, the convolution's weights W and bias b become γW/√(σ² + ε) and
    γ(b − μ)/√(σ² + ε) + β. Parts whose data flow cannot be traced are opened, and their children folded one by one.
    """
    if type(module) in NORMS or not any(type(m) in NORMS for m in module.modules()):
        return module
    try:
        traced = fx.symbolic_trace(module)
    except Exception:  # control flow on values, of whatever kind: fx raises many
        for name, child in module.named_children():
            setattr(module, name, folded(child))
        return module
    for conv, norm in _pairs(traced):
        pair: Any = traced.get_submodule(str(conv.target)), traced.get_submodule(str(norm.target))
        traced.set_submodule(str(conv.target), fuse_conv_bn_eval(*pair))
        norm.replace_all_uses_with(conv)
        traced.graph.erase_node(norm)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _pairs(traced: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Convolutions and the normalisations that follow them, where neither is called elsewhere."""
    called = [node for node in traced.graph.nodes if node.op == "call_module"]
    module = {node: traced.get_submodule(str(node.target)) for node in called}
    times = Counter(id(m) for m in module.values())
    return [
        (node.args[0], node)
        for node in called
        if type(module[node]) in NORMS
        and module[node].track_running_stats
        and node.args[0] in module
        and type(module[node.args[0]]) in CONVOLUTIONS
        and len(node.args[0].users) == 1
        and times[id(module[node])] == times[id(module[node.args[0]])] == 1
    ]
