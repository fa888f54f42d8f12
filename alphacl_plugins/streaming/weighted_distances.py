"""``Σ_ij W_ij D_ij`` and its gradient, as products of matrices, for weights that come block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from alphacl_plugins.streaming.by_anchor import ByAnchor


class WeightedDistances:
    """``Σ_ij W_ij D_ij`` of rows ``a [M, D]`` and columns ``b [K, D]``, with ``D_ij = ||a_i - b_j||²/2``.

    Its gradient is ``Σ_j W_ij (a_i - b_j)`` for a_i and ``Σ_i W_ij (b_j - a_i)`` for b_j. Where rows and columns are
    one set and all weights are there at once, one product with ``S = W + Wᵀ`` is the gradient for both.

    Args:
        rows: a.
        columns: b; None: they are the rows.
        n_moving: how many columns, the first, take a gradient; None: all.
    """

    def __init__(self, rows: Tensor, columns: Tensor | None = None, n_moving: int | None = None) -> None:
        self._a, self._b = rows, rows if columns is None else columns
        self._same = columns is None
        self._n_moving = len(self._b) if n_moving is None else n_moving
        self._half_a = _half_squares(rows)
        self._half_b = self._half_a if columns is None else _half_squares(columns)
        self._of_rows = ByAnchor(len(rows))
        self._sums: Tensor | None = None  # Σ_i W_ij
        self._pulled: Tensor | None = None  # Σ_i W_ij a_i

    def measure(self, i: slice) -> Tensor:
        """Return ``D`` of the rows i. Shape: ``[m, K]``, >= 0."""
        products = torch.addmm(self._half_b, self._a[i], self._b.T, alpha=-1)
        return products.add_(self._half_a[i, None]).clamp_min_(0.0)

    def weigh(self, i: slice, weights: Tensor, scale: Tensor | None) -> None:
        """Take in the weights ``scale * weights`` of the rows i; their memory may be used.

        Shape: ``[m, K]``, ``[m, 1]``.
        """
        a = self._a[i]
        if self._same and len(a) == len(self._a):
            weights = weights if scale is None else weights.mul_(scale)
            both_ways = weights.T.contiguous().add_(weights)  # a plain sum reads the transpose slowly
            self._of_rows.write(i, _pull(a, both_ways, self._b))
            return
        of_rows = _pull(a, weights, self._b)
        self._of_rows.write(i, of_rows if scale is None else scale * of_rows)
        if self._n_moving == 0:
            return
        moving = weights[:, : self._n_moving].T
        scaled, scale = (a, torch.ones_like(a[:, 0])) if scale is None else (scale * a, scale[:, 0])
        if self._sums is None or self._pulled is None:
            self._sums, self._pulled = moving @ scale, moving @ scaled
        else:
            self._sums.addmv_(moving, scale)
            self._pulled.addmm_(moving, scaled)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Return those of the rows and of the moving columns, once; None: there is nothing beside that of the rows.

        Shape: ``[M, D]``, ``[n_moving, D]``.
        """
        of_rows = self._of_rows.read()
        assert of_rows is not None  # as rows have passed
        if self._sums is None or self._pulled is None:
            return of_rows, None
        return of_rows, torch.addcmul(self._pulled.neg_(), self._sums[:, None], self._b[: self._n_moving])


def _pull(a: Tensor, weights: Tensor, b: Tensor) -> Tensor:
    """Return ``Σ_j W_ij (a_i - b_j)``. Shape: ``[m, D]``."""
    return torch.addmm(weights.sum(dim=1, keepdim=True) * a, weights, b, alpha=-1)


def _half_squares(x: Tensor) -> Tensor:
    half_squares: Tensor = torch.linalg.vector_norm(x, dim=1).square().mul_(0.5)
    return half_squares
