"""Squared distances, the energy E_α and the contrastive covariance C_α: the paper's Eq. 1-5 as functions."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alphacl_plugins._checks import check_matrix, check_same_shape, check_width

if TYPE_CHECKING:
    from alphacl_plugins.strategies.base import Strategy


def promote(*tensors: Tensor) -> list[Tensor]:
    """Bring tensors to their common dtype, float32 at least: the precision in which distances and α are formed."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which products keep the precision of their factors; entered for nothing it would cost time."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def l2_normalize(z: Tensor) -> Tensor:
    """Scale every row to Euclidean length 1, in float32 at least.

    A row whose largest entry is below 1e-12 (float16: 6e-5, its smallest normal number) has no direction: it becomes
    zero, and so does its gradient. Large and small entries are safe, since each row is first divided by its largest.

    Shape: ``[N, D]`` -> ``[N, D]``.
    """
    return unit_and_length(z)[0]


def unit_and_length(z: Tensor) -> tuple[Tensor, Tensor]:
    """`l2_normalize`, and the lengths that it divided by: inf for a row without direction.

    Shape: ``[..., D]`` -> ``[..., D]``, ``[..., 1]``.
    """
    smallest = max(1e-12, torch.finfo(z.dtype).tiny)
    (z,) = promote(z)
    largest = z.detach().abs().amax(dim=-1, keepdim=True)
    largest = largest.masked_fill(largest < smallest, math.inf)
    z = z / largest
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(0.5)  # at least 1, but for zero rows
    return z / length, largest * length


def through_normalization(gradient: Tensor, unit: Tensor, length: Tensor) -> Tensor:
    """Gradient of the rows, given that of `l2_normalize` of them. Shape: ``[..., D]``."""
    along = (gradient * unit).sum(dim=-1, keepdim=True)
    return torch.addcmul(gradient, along, unit, value=-1) / length


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared Euclidean distance of every row of ``a`` to every row of ``b``.

    ``D_ij = ||a_i - b_j||² / 2``; for rows of length 1 that is ``1 - cos``, in [0, 2].

    Args:
        a: rows, any floating-point dtype.
        b: rows of the same width.

    Shape: ``[M, D]``, ``[K, D]`` -> ``[M, K]``, >= 0, in float32 at least, whatever autocast says.
    Raises: TypeError, ValueError if ``a`` and ``b`` are not floating-point matrices of one width.
    Source: Tian (2022), Sec. 3 (d_ij²).

    >>> squared_distances(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    tensor([[0., 1.],
            [1., 2.]])
    """
    check_matrix("a", a)
    check_width("b", b, "a", a)
    a, b = promote(a, b)
    # Distances do not depend on the origin, but their rounding does: it is least at the centre.
    centre = b.detach().mean(dim=0)
    a, b = a - centre, b - centre
    with without_autocast(a.device):
        half_squares = a.square().sum(dim=1)[:, None] / 2 + b.square().sum(dim=1)[None, :] / 2
        return (half_squares - a @ b.T).clamp_min(0.0)


def paired_squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared Euclidean distance of row i of ``a`` to row i of ``b``: ``D_i = ||a_i - b_i||² / 2``.

    Shape: ``[M, D]``, ``[M, D]`` -> ``[M]``, in float32 at least.
    """
    a, b = promote(a, b)
    return (a - b).square().sum(dim=1) / 2


def energy(z: Tensor, z_aug: Tensor, alpha: Tensor | Strategy) -> Tensor:
    """The energy that every contrastive loss of the family maximises, with the pairwise importance α held fixed.

    ``E_α = Σ_i Σ_{j≠i} α_ij (D_ij - D_i) = ½ tr C_α[z, z]``, with ``D_ij = ||z_i - z_j||²/2`` and
    ``D_i = ||z_i - z'_i||²/2``. No normalisation of ``z``, no mean; no gradient passes through α.

    Args:
        z: embeddings of the N samples.
        z_aug: embeddings of their other view.
        alpha: a tensor of importances (its diagonal is ignored), or a strategy, whose candidate weights are used.

    Shape: ``[N, D]``, ``[N, D]``, ``[N, N]`` -> scalar, in float32 at least.
    Raises: TypeError, ValueError if the shapes or dtypes are not these, or N < 2.
    Source: Tian (2022), Theorem 1, Eq. 3-5.

    >>> z = torch.eye(4)
    >>> energy(z, z, torch.ones(4, 4))  # twelve ordered pairs at D = 1, positives at 0
    tensor(12.)
    """
    check_same_shape("z_aug", z_aug, "z", z)
    n = _check_two_rows("z", z)
    d2_pos = paired_squared_distances(z, z_aug)
    d2_neg = squared_distances(z, z)
    itself = torch.eye(n, dtype=torch.bool, device=z.device)
    if not isinstance(alpha, Tensor):
        if isinstance(alpha, type) or not callable(alpha):
            raise TypeError(f"alpha: expected a tensor [N, N] or a strategy object, got {alpha!r}")
        weights = alpha(d2_pos.detach(), d2_neg.detach().masked_fill(itself, math.inf))
        if not isinstance(weights, tuple):
            raise TypeError(
                f"alpha: expected a strategy that returns PairWeights, got one that returns {type(weights)}"
            )
        alpha = weights[0]
    alpha = _check_alpha(alpha, n).detach().to(d2_neg.dtype).masked_fill(itself, 0.0)
    return (alpha * (d2_neg - d2_pos[:, None])).sum()


def contrastive_covariance(a: Tensor, b: Tensor, alpha: Tensor, a_aug: Tensor, b_aug: Tensor) -> Tensor:
    """The contrastive covariance C_α[a, b] of two features: between samples, weighted by α, minus between views.

    ``C_α[a, b] = Σ_i Σ_{j≠i} α_ij (a_i - a_j)(b_i - b_j)ᵀ - Σ_i (Σ_{j≠i} α_ij) (a_i - a'_i)(b_i - b'_i)ᵀ``,
    formed as products with the Laplacian of α, so no loop over pairs and nothing larger than its inputs and outputs.

    Args:
        a: first feature of the N samples.
        b: second feature of the same samples.
        alpha: importance of each pair; its diagonal is ignored.
        a_aug: first feature of their other view.
        b_aug: second feature of their other view.

    Shape: ``[N, A]``, ``[N, B]``, ``[N, N]``, ``[N, A]``, ``[N, B]`` -> ``[A, B]``, in float32 at least.
    Raises: TypeError, ValueError if the shapes or dtypes are not these, or N < 2.
    Source: Tian (2022), Eq. 5.
    """
    check_same_shape("a_aug", a_aug, "a", a)
    check_same_shape("b_aug", b_aug, "b", b)
    n = _check_two_rows("a", a)
    if len(b) != n:
        raise ValueError(f"b: expected {n} rows as a has, got {tuple(b.shape)}")
    a, b, alpha, a_aug, b_aug = promote(a, b, _check_alpha(alpha, n), a_aug, b_aug)
    alpha = alpha.masked_fill(torch.eye(n, dtype=torch.bool, device=alpha.device), 0.0)
    row_sums, column_sums = alpha.sum(dim=1), alpha.sum(dim=0)
    with torch.autocast(a.device.type, enabled=False):
        laplacian_b = (row_sums + column_sums)[:, None] * b - (alpha + alpha.T) @ b
        between_views = (a - a_aug).T @ (row_sums[:, None] * (b - b_aug))
        return a.T @ laplacian_b - between_views


def _check_two_rows(name: str, z: Tensor) -> int:
    if len(z) < 2:
        raise ValueError(f"{name}: expected at least 2 samples to compare, got {len(z)}")
    return len(z)


def _check_alpha(alpha: Tensor, n: int) -> Tensor:
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha: expected a tensor [{n}, {n}], got {alpha!r}")
    check_matrix("alpha", alpha)
    if alpha.shape != (n, n):
        raise ValueError(f"alpha: expected shape [{n}, {n}], got {tuple(alpha.shape)}")
    return alpha
