"""What functions on samples are given: NumPy arrays or tensors, features of any real dtype and form, classes of any name."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[Any] | Tensor
AS_THEY_ARE = "bBhilqefd?"  # NumPy's codes of what torch has too


def features(x: Values) -> Tensor:
    """Samples as (n, d), of the dtype that they have. Raises ValueError where there are none, or no features."""
    given = x.detach() if isinstance(x, Tensor) else _tensor(np.asarray(x))
    if given.dim() < 1 or not given.numel():
        raise ValueError(f"x of shape {tuple(given.shape)} has no samples with features")
    if given.is_complex():
        raise ValueError("x is complex: distances are of real features")
    return given.reshape(len(given), -1)


def indices_of_classes(y: Values) -> Tensor:
    """Classes (n,), numbers or names, as indices from 0 in their order. Raises ValueError where y is not (n,)."""
    if isinstance(y, Tensor):
        if y.dim() == 1:
            found: Tensor = torch.unique(y, return_inverse=True)[1]
            return found
    else:
        array = np.asarray(y)
        if array.ndim == 1:
            return torch.from_numpy(np.unique(array, return_inverse=True)[1].astype(np.int64))
    raise ValueError(f"y must have one class a sample, (n,), not the shape {tuple(y.shape)}")


def samples_of_classes(x: Values, y: Values) -> tuple[Tensor, Tensor]:
    """Features (n, d) and class indices (n,) on one device. Raises ValueError where they are not as many."""
    samples, classes = features(x), indices_of_classes(y)
    if len(samples) != len(classes):
        raise ValueError(f"x has {len(samples)} samples and y {len(classes)}: they must be as many")
    return samples, classes.to(samples.device)


def like(found: Tensor, x: Values) -> Any:
    """What was found, as x is: a tensor, or a NumPy array."""
    return found if isinstance(x, Tensor) else found.numpy()


def _tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype.char not in AS_THEY_ARE:
        array = array.astype(np.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nor is it written to
        return torch.from_numpy(np.ascontiguousarray(array))
