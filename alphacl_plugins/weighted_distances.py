"""Distances, and weighted sums of distances with their gradient, as matrix products.

With rows ``(a, ||a||²/2, 1)`` and columns ``(-b, 1, ||b||²/2)`` the product of both is ``D_ij`` itself. So
``W @ columns`` has all that ``Σ_ij W_ij D_ij`` and its gradient for the a need, ``Wᵀ @ rows`` its gradient for the b.
"""

import torch
from torch import Tensor


def as_rows(a: Tensor) -> Tensor:
    """Return ``(a, ||a||²/2, 1)``. Shape: ``[M, D] -> [M, D + 2]``."""
    half_squares = a.square().sum(dim=1, keepdim=True) / 2
    return torch.cat([a, half_squares, torch.ones_like(half_squares)], dim=1)


def as_columns(b: Tensor) -> Tensor:
    """Return ``(-b, 1, ||b||²/2)``. Shape: ``[K, D] -> [K, D + 2]``."""
    return swapped(as_rows(b))


def swapped(rows: Tensor) -> Tensor:
    """Columns of the same embeddings. Shape: ``[M, D + 2] -> [M, D + 2]``."""
    return torch.cat([-rows[:, :-2], rows[:, -1:], rows[:, -2:-1]], dim=1)


def distances(rows: Tensor, columns: Tensor) -> Tensor:
    """Return ``D``. Shape: ``[M, D + 2]``, ``[K, D + 2] -> [M, K]``, >= 0."""
    return (rows @ columns.T).clamp_min_(0.0)


def energy_of_rows(rows: Tensor, weighted: Tensor) -> Tensor:
    """Return ``Σ_j W_ij D_ij`` from ``weighted = W @ columns``. Shape: ``[M, D + 2]`` twice ``-> [M]``."""
    return (rows * weighted).sum(dim=1)


def gradient_of_rows(rows: Tensor, weighted: Tensor) -> Tensor:
    """Gradient of ``Σ_ij W_ij D_ij`` for the a, from ``weighted = W @ columns``. Shape: ``[M, D]``."""
    width = rows.shape[1] - 2
    return torch.addcmul(weighted[:, :width], weighted[:, width : width + 1], rows[:, :width])


def gradient_of_columns(columns: Tensor, weighted: Tensor) -> Tensor:
    """Gradient of ``Σ_ij W_ij D_ij`` for the b, from ``weighted = Wᵀ @ rows``. Shape: ``[K, D]``."""
    width = columns.shape[1] - 2
    return torch.addcmul(weighted[:, :width], weighted[:, width + 1 :], columns[:, :width]).neg_()
