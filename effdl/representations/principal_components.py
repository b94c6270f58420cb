"""First principal components of a representation (thesis §5.3.3, figure 5.9)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import svds

from effdl.neighbours.given import Values, features, like

ALIKE = 1e-6  # shares by which weights may differ and be about equal
DENSE = 64  # up to so many samples or features a whole decomposition takes no time


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Of n samples: scores (n, c) on the first c components, the widest first, and shares (c,) of the whole variance.

    Where there are fewer than c components the rest are 0, as all shares are where samples do not differ.
    """

    scores: Any
    shares: Any


def principal_components(z: Values, count: int = 2) -> PrincipalComponents:
    """Scores of the centred samples on the directions in which they vary most, in float64.

    Args:
        z: (n, ...) samples, flattened. count: components, from 1.

    Of each direction the feature that counts most, the first of about equal ones, counts positively: the sign, which is
    nobody's, is then the same on every machine. By Lanczos' method (ARPACK), which multiplies by the samples and makes no
    covariance.

    Raises:
        ValueError: NaN or infinite features, or no samples.

    >>> import numpy as np
    >>> found = principal_components(np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), 2)
    >>> found.scores[:, 0].round(6).tolist(), found.shares.round(6).tolist()
    ([-5.0, 0.0, 5.0], [1.0, 0.0])
    """
    samples = features(z).detach().double().cpu()
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("z has features that are NaN or infinite: drop or mend these samples first")
    centred = (samples - samples.mean(0)).numpy()
    whole, least = float(np.square(centred).sum()), min(centred.shape)
    scores, shares = np.zeros((len(centred), count)), np.zeros(count)
    if whole > 0:
        if least <= max(DENSE, 2 * count):
            u, s, v = np.linalg.svd(centred, full_matrices=False)
        else:
            u, s, v = svds(centred, count, v0=np.ones(least))
            u, s, v = u[:, ::-1], s[::-1], v[::-1]
        kept = min(count, len(s))
        most = np.argmax(np.abs(v) > (1 - ALIKE) * np.abs(v).max(1, keepdims=True), 1)
        signed = s * np.sign(v[np.arange(len(v)), most])
        scores[:, :kept], shares[:kept] = (u * signed)[:, :kept], np.square(s[:kept]) / whole
    return PrincipalComponents(*(like(torch.from_numpy(one), z) for one in (scores, shares)))
