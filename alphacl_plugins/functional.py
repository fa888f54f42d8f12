"""Squared distances, the energy E_α, its gradient and the contrastive covariance C_α: the paper's Eq. 1-5."""

from __future__ import annotations

import contextlib
import functools
import math

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from alphacl_plugins.checks import check_alpha, check_matrix, check_rows, check_same_shape, check_width
from alphacl_plugins.strategies import AnyStrategy
from alphacl_plugins.strategies.guarded import strategy_for_alpha


def promote(*tensors: Tensor) -> list[Tensor]:
    """Bring tensors to their common dtype, float32 at least: the precision in which distances and α are formed."""
    dtypes = {tensor.dtype for tensor in tensors}
    if dtypes == {torch.float32}:
        return list(tensors)
    dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def without_autocast(device: torch.device | None) -> contextlib.AbstractContextManager[object]:
    """Disable autocast if it is on (entering the context costs time otherwise)."""
    if device is not None and device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def l2_normalize(z: Tensor) -> Tensor:
    """Scale every row to Euclidean length 1, in float32 at least.

    A row ``[N, D]`` whose largest entry is below 1e-12 (float16: 6e-5, its smallest normal number) has no direction: it
    becomes zero, and so does its gradient. Each row is first divided by its largest entry, which no length overflows.
    """
    return unit_and_length(promote(z)[0], z.dtype)[0]


def unit_and_length(z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `l2_normalize` of rows ``[..., D]``, that came in a dtype, and their lengths ``[..., 1]``: inf if 0."""
    smallest = max(1e-12, torch.finfo(dtype).tiny)
    largest = (z.detach() if z.requires_grad else z).abs().amax(dim=-1, keepdim=True)
    largest = torch.threshold(largest, smallest, math.inf)
    z = z / largest
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(0.5)  # at least 1, but for zero rows
    return z / length, largest * length


def through_normalization(gradient: Tensor, unit: Tensor, length: Tensor | None) -> Tensor:
    """Return the gradient of rows ``[..., D]``, given the gradient of `l2_normalize` of them; None: not normalised."""
    if length is None:
        return gradient
    along = (gradient * unit).sum(dim=-1, keepdim=True)
    return torch.addcmul(gradient, along, unit, value=-1).div_(length)


def centre_of(rows: Tensor) -> Tensor:
    """Return the mean of rows ``[..., D]`` without gradient, ``[D]``: the origin at which distances round least.

    A mean that is not finite counts as 0, so that a bad row stays the only bad row.
    """
    mean = (rows.detach() if rows.requires_grad else rows).mean(dim=tuple(range(rows.ndim - 1)))
    return torch.nan_to_num(mean, nan=0.0, posinf=0.0, neginf=0.0)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared Euclidean distance of every row of ``a`` to every row of ``b``.

    ``D_ij = ||a_i - b_j||² / 2``; for rows of length 1 that is ``1 - cos``, in [0, 2].

    Args:
        a: rows ``[M, D]``, any floating-point dtype.
        b: rows ``[K, D]`` of the same width.

    Returns:
        ``[M, K]``, >= 0, in float32 at least, whatever autocast says.

    Raises:
        TypeError: ``a`` or ``b`` is not a floating-point tensor.
        ValueError: they are not matrices of one width.

    Source:
        Tian (2022), Sec. 3 (d_ij²).

    Examples:
        >>> squared_distances(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        tensor([[0., 1.],
                [1., 2.]])
    """
    check_matrix("a", a)
    check_width("b", b, "a", a)
    a, b = promote(a, b)
    centre = centre_of(b)
    with without_autocast(a.device):
        return distances(a - centre, b - centre)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """`squared_distances` of rows near the origin ``[M, D]``, ``[K, D]``, in their dtype."""
    squares_a = (a * a).sum(dim=1)
    squares_b = squares_a if b is a else (b * b).sum(dim=1)
    products = torch.addmm(squares_b, a, b.T, beta=0.5, alpha=-1)
    return products.add_(squares_a[:, None], alpha=0.5).clamp_min_(0.0)


def paired_squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return half the squared distance of row i of ``a`` to row i of ``b``, ``[..., D] -> [...]``."""
    a, b = promote(a, b)
    return (a - b).square().sum(dim=-1) / 2


class Laplacian:
    """The gradient of ``Σ_ij W_ij D_ij``, ``D_ij = ||a_i - b_j||²/2``, for weights W that come some rows at a time.

    It is ``Σ_j W_ij (a_i - b_j)`` for a_i and ``Σ_i W_ij (b_j - a_i)`` for b_j. Where rows and columns are one set x,
    both together are a product with the Laplacian of the weights: ``(diag(W 1 + Wᵀ 1) - W - Wᵀ) x``.

    Args:
        a: rows ``[M, D]``.
        b: columns ``[K, D]``; None if they are the rows.
        moving: how many columns, the first, take a gradient; None for all.
    """

    def __init__(self, a: Tensor, b: Tensor | None = None, moving: int | None = None) -> None:
        self.a, self.b, self.one_set = a, a if b is None else b, b is None
        self.moving = self.b.shape[0] if moving is None else moving
        self._of_rows: Tensor | None = None
        self._sums: Tensor | None = None  # Wᵀ 1
        self._product: Tensor | None = None  # Wᵀ a

    def add(self, i: slice, weights: Tensor, transposed: Tensor | None = None) -> None:
        """Take in the weights ``[m, K]`` of the rows i; every row comes once.

        Rows and columns that are one set take one product. ``transposed`` is Wᵀ if it is at hand, and is overwritten.
        """
        tiny = torch.finfo(weights.dtype).tiny  # smaller numbers make a product on a CPU many times as long
        if self.one_set and weights.shape[0] == weights.shape[1]:
            both_ways = hardshrink(weights + weights.T if transposed is None else transposed.add_(weights), tiny)
            self._of_rows = torch.addmm(both_ways.sum(dim=1, keepdim=True) * self.a, both_ways, self.a, alpha=-1)
            return
        a, weights = self.a if len(weights) == len(self.a) else self.a[i], hardshrink(weights, tiny)
        of_rows = torch.addmm(weights.sum(dim=1, keepdim=True) * a, weights, self.b, alpha=-1)
        self._of_rows = put(self._of_rows, i, of_rows, len(self.a))
        if self.moving == 0:
            return
        back = weights[:, : self.moving].T
        if self._sums is None or self._product is None:
            self._sums, self._product = back.sum(dim=1, keepdim=True), back @ a
        else:
            self._sums += back.sum(dim=1, keepdim=True)
            self._product.addmm_(back, a)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Return, once, the gradients of the rows ``[M, D]`` and of the moving columns; of one set their sum, None."""
        assert self._of_rows is not None  # as weights have come
        if self._sums is None or self._product is None:
            return self._of_rows, None
        of_columns = (self._sums * self.b[: self.moving]).sub_(self._product)
        return (self._of_rows.add_(of_columns), None) if self.one_set else (self._of_rows, of_columns)


def put(rows: Tensor | None, i: slice, part: Tensor, n: int) -> Tensor:
    """Write ``part`` into rows i of n, allocated once: small results between large temporaries fragment the heap."""
    if part.shape[0] == n:
        return part
    if rows is None:
        rows = part.new_empty(n, *part.shape[1:])
    rows[i] = part
    return rows


def energy(z: Tensor, z_aug: Tensor, alpha: Tensor | AnyStrategy | str) -> Tensor:
    """The energy that every contrastive loss of the family maximises, with the pairwise importance α held fixed.

    ``E_α = Σ_i Σ_{j≠i} α_ij (D_ij - D_i) = ½ tr C_α[z, z]``, with ``D_ij = ||z_i - z_j||²/2`` and
    ``D_i = ||z_i - z'_i||²/2``. No normalisation of ``z``, no mean; no gradient passes through α.

    Args:
        z: embeddings of the N samples, ``[N, D]``.
        z_aug: embeddings of their other view, ``[N, D]``.
        alpha: importances ``[N, N]`` (the diagonal is ignored), or a strategy or its name, whose weights of the
            negatives are used.

    Returns:
        a scalar, in float32 at least.

    Raises:
        TypeError: an argument is not of these kinds.
        ValueError: the shapes are not these, or N < 2.

    Source:
        Tian (2022), Theorem 1, Eq. 3-5.

    Examples:
        >>> z = torch.eye(4)
        >>> energy(z, z, torch.ones(4, 4))  # twelve ordered pairs at D = 1, positives at 0
        tensor(12.)
    """
    check_same_shape("z_aug", z_aug, "z", z)
    check_rows("z", z, 2)
    d2_pos, d2_neg = paired_squared_distances(z, z_aug), squared_distances(z, z)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    if not isinstance(alpha, Tensor):
        strategy = strategy_for_alpha(alpha, d2_pos)
        alpha = strategy(d2_pos.detach(), d2_neg.detach().masked_fill(itself, math.inf)).neg
    alpha = check_alpha(alpha, len(z)).detach().to(d2_neg.dtype).masked_fill(itself, 0.0)
    return (alpha * (d2_neg - d2_pos[:, None])).sum()


def contrastive_covariance(a: Tensor, b: Tensor, alpha: Tensor, a_aug: Tensor, b_aug: Tensor) -> Tensor:
    """The contrastive covariance C_α[a, b] of two features: between samples, weighted by α, minus between views.

    ``C_α[a, b] = Σ_i Σ_{j≠i} α_ij (a_i - a_j)(b_i - b_j)ᵀ - Σ_i (Σ_{j≠i} α_ij) (a_i - a'_i)(b_i - b'_i)ᵀ``, formed as
    a product with the Laplacian of α. It does not depend on the origin of the features.

    Args:
        a: first feature of the N samples, ``[N, A]``.
        b: second feature of the same samples, ``[N, B]``.
        alpha: importance of each pair, ``[N, N]``; its diagonal is ignored.
        a_aug: first feature of their other view, ``[N, A]``.
        b_aug: second feature of their other view, ``[N, B]``.

    Returns:
        ``[A, B]``, in float32 at least.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: the shapes are not these, or N < 2.

    Source:
        Tian (2022), Eq. 5.
    """
    check_same_shape("a_aug", a_aug, "a", a)
    check_same_shape("b_aug", b_aug, "b", b)
    check_rows("a", a, 2)
    if len(b) != len(a):
        raise ValueError(f"b: expected {len(a)} rows as a has, got {tuple(b.shape)}")
    a, b, alpha, a_aug, b_aug = promote(a, b, check_alpha(alpha, len(a)), a_aug, b_aug)
    alpha = alpha.masked_fill(torch.eye(len(a), dtype=torch.bool, device=alpha.device), 0.0)
    with without_autocast(a.device):
        between_views = (a - a_aug).T @ (alpha.sum(dim=1, keepdim=True) * (b - b_aug))
        laplacian = Laplacian(b - centre_of(b))
        laplacian.add(slice(None), alpha)
        return (a - centre_of(a)).T @ laplacian.gradients()[0] - between_views
