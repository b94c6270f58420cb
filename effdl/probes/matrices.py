"""The weight matrices of layers, by the names under which probes record them."""

from collections.abc import Mapping

from torch import Tensor, nn

from effdl.probes.sample import ends, head_of
from effdl.training.look import Look


def matrices(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Kernels too. A layer with one matrix has its own name as key, of several each is <layer>.<parameter>."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        own = {key: weight for key, weight in layer.named_parameters() if weight.dim() >= 2}
        found |= {name if len(own) == 1 else f"{name}.{key}": weight for key, weight in own.items()}
    return found


def with_head(look: Look) -> dict[str, nn.Module]:
    """The blocks of a look by their names, and as "output" what makes logits of them, where it is known."""
    layers: dict[str, nn.Module] = dict(look.blocks.named_children())
    head = head_of(look)
    return layers if head is None else {**layers, ends(look)[1]: head}
