"""Kernels of fully connected ReLU networks whose hidden layers are infinitely wide: pure functions of samples."""

import math

import torch
from torch import Tensor


def relu_moments(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """E[φ(u)φ(v)] and E[φ'(u)φ'(v)] for φ = ReLU and (u, v) ~ N(0, [[a, c], [c, b]]): arc-cosine kernels (Cho and Saul 2009).

    With ρ = c/√(ab) and the angle θ = arccos ρ they are √(ab) (sin θ + (π − θ) ρ) / 2π and (π − θ) / 2π. 0 and ¼, as for ρ = 0,
    where u or v is always 0.

    Args:
        a, b, c: of shapes that broadcast; a, b ≥ 0.
    """
    size = (a * b).sqrt()
    rho = torch.where(size > 0, c / size, 0.0).clamp(-1.0, 1.0)
    left = math.pi - rho.acos()
    return size * (((1 - rho) * (1 + rho)).sqrt() + left * rho) / (2 * math.pi), left / (2 * math.pi)


def wide_kernels(
    x: Tensor, s: Tensor, depth: int, weight_variance: float = 2.0, bias_variance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The network's Gaussian process and tangent kernels, NNGP Σ and NTK Θ, both (m, k), of samples x (m, n) and s (k, n).

    Layers are h = σ_w/√fan_in ω z + σ_b β, z = φ(h below), of weights ω and biases β with variance 1 (Jacot et al. 2018, "NTK
    parametrisation"); then, from Σ = Θ = σ_w² x·s/n + σ_b², for each hidden layer

        Σ ← σ_w² E[φ(u)φ(v)] + σ_b²,    Θ ← Θ · σ_w² E[φ'(u)φ'(v)] + Σ,    (u, v) ~ N(0, Σ before)

    (Lee et al. 2018; Arora et al. 2019). Σ is the covariance of the outputs of networks as they are drawn, and depends on the
    variance of weights alone, σ_w²/fan_in, whatever their distribution: σ_w² = 2 is He's, 1/3 that of U(±1/√fan_in). Θ is what
    products of ∂f/∂ω come to.

    Args:
        depth: hidden layers; with 0 both are the linear kernel.
    """
    n = x.shape[1]
    of_x, of_s = (weight_variance * some.square().sum(1) / n + bias_variance for some in (x, s))
    nngp = weight_variance * x @ s.T / n + bias_variance
    tangent = nngp
    for _ in range(depth):
        product, derivative = relu_moments(of_x[:, None], of_s[None], nngp)
        nngp = weight_variance * product + bias_variance
        tangent = tangent * (weight_variance * derivative) + nngp
        of_x, of_s = (weight_variance * some / 2 + bias_variance for some in (of_x, of_s))
    return nngp, tangent
