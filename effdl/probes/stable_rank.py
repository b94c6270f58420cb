"""Stable rank of weight matrices (thesis §6.6.2, figure 6.3)."""

import torch
from torch import Tensor

from effdl.probes.matrices import matrices
from effdl.probes.probe import Probe
from effdl.setting import setting
from effdl.training.look import Look


@setting
class StableRank(Probe):
    """‖W‖_F² / ‖W‖₂² of each block's weight matrices, by which figure 6.3 compares training orders layer by layer.

    every: epochs between measurements; the thesis does not say when it measured. A block with one matrix has its name as
    key, of several each is <block>.<parameter>. Biases and normalisation have no matrix.
    """

    def measure(self, look: Look) -> dict[str, float]:
        found = matrices(dict(look.blocks.named_children()))
        return {name: stable_rank(weight) for name, weight in found.items()}


def stable_rank(weight: Tensor) -> float:
    """Σσᵢ² / max σᵢ² of a matrix: from 1 to its rank, and no less smooth where a singular value is nearly 0.

    Args:
        weight: (O, I), or a kernel (O, I, h, w), which is read as (O, I·h·w), a row an output channel: the thesis leaves it
            open. Not a number where all are 0.

    The eigenvalues of the smaller Gram matrix are the σᵢ², in float64 precise enough for the largest, and hundreds of times
    as fast as a singular value decomposition of VGG's kernels.
    """
    w = weight.detach().flatten(1).double()
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return float(gram.trace() / torch.linalg.eigvalsh(gram)[-1])
