"""How good an embedding is, and how selective α: numbers to watch beside a loss, in memory linear in the samples."""

import functools
import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alphacl_plugins import pairwise
from alphacl_plugins.checks import check_labels, check_positive, check_rows, check_same_shape
from alphacl_plugins.functional import (
    centre_of,
    distances,
    l2_normalize,
    paired_squared_distances,
    promote,
    without_autocast,
)
from alphacl_plugins.pairwise import if_finite, tiles
from alphacl_plugins.sphere import wasserstein_uniformity
from alphacl_plugins.statistics import entropy_of_rows

__all__ = [
    "alignment",
    "alpha_entropy",
    "effective_negatives",
    "effective_rank",
    "rank",
    "singular_spectrum",
    "tolerance",
    "uniformity",
    "wasserstein_uniformity",
]


def alignment(z: Tensor, z_aug: Tensor) -> Tensor:
    """How far apart the two views of a sample are: the mean of ``||z_i - z'_i||²`` (twice the mean D_+). Lower: closer.

    Args:
        z: embeddings of one view, ``[N, D]``.
        z_aug: embeddings of the other view, ``[N, D]``.

    Returns:
        a scalar, differentiable; in [0, 4] for rows of length 1.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: the two are not matrices of one shape, with rows.

    Source:
        Wang & Isola (2020), arXiv:2005.10242, L_align.

    Examples:
        >>> alignment(torch.eye(2), -torch.eye(2))
        tensor(4.)
    """
    check_same_shape("z_aug", z_aug, "z", z)
    check_rows("z", z)
    return 2 * paired_squared_distances(z, z_aug).mean()


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    """How evenly rows of length 1 cover the sphere: ``log mean_{i<j} exp(-t ||z_i - z_j||²)``. Lower: more evenly.

    Formed some rows at a time, and once more in the backward pass, so that N rows need O(N) memory.

    Args:
        z: embeddings, ``[N, D]``.
        t: inverse squared width of the Gaussian, > 0.

    Returns:
        a scalar, differentiable; <= 0; NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: ``z`` is not a matrix of at least 2 rows, or ``t`` is not > 0.

    Source:
        Wang & Isola (2020), arXiv:2005.10242, L_uniform.
    """
    check_rows("z", z, 2)
    check_positive("t", t)
    (rows,) = promote(z)

    def log_sum(some: Tensor, later: Tensor | None) -> Tensor:
        exponents = -2 * t * distances(some, some if later is None else later)
        if later is None:  # each pair once
            exponents = exponents.masked_fill(torch.ones_like(exponents, dtype=torch.bool).tril(), -math.inf)
        return torch.logsumexp(exponents.flatten(), dim=0)

    with without_autocast(z.device):
        rows = rows - centre_of(rows)
        again = functools.partial(checkpoint, log_sum, use_reentrant=False, preserve_rng_state=False)
        several = len(rows) > pairwise.ROWS_AT_ONCE and rows.requires_grad and torch.is_grad_enabled()
        parts = torch.stack([(again if several else log_sum)(*tile) for tile in tiles(rows)])
    return if_finite(z, torch.logsumexp(parts, dim=0) - math.log(len(z) * (len(z) - 1) / 2))


def effective_rank(z: Tensor) -> Tensor:
    """How many directions an embedding uses: the exponential of the entropy of its normalised singular values.

    ``exp(-Σ_k p_k log p_k)``, ``p_k = σ_k / Σ_l σ_l``, of the rows as they are, not centred.

    Args:
        z: embeddings, ``[N, D]``.

    Returns:
        a scalar, differentiable; in [1, min(N, D)]; 0 for all rows zero; NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: ``z`` is not a floating-point tensor.
        ValueError: ``z`` is not a matrix with rows.

    Source:
        Roy & Vetterli (2007), "The effective rank".

    Examples:
        >>> effective_rank(torch.eye(3))
        tensor(3.)
    """
    singular_values = singular_spectrum(z)
    total = singular_values.sum()
    p = singular_values / total.masked_fill(total == 0, 1.0)
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()  # a singular value of 0 has a gradient, and not inf
    return (-(p * log_p).sum()).exp() * (total > 0)


def rank(z: Tensor) -> Tensor:
    """How many directions an embedding has: its singular values above the largest times ``max(N, D) ε``.

    ε is that of the dtype, float32 at least. Where `effective_rank` is far below the rank, most directions are hardly
    used.

    Args:
        z: embeddings, ``[N, D]``.

    Returns:
        a scalar without gradient, in [0, min(N, D)]; NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: ``z`` is not a floating-point tensor.
        ValueError: ``z`` is not a matrix with rows.

    Source:
        Golub & Van Loan, Matrix Computations, Sec. 5.5.

    Examples:
        >>> rank(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
        tensor(1.)
    """
    with torch.no_grad():
        singular_values = singular_spectrum(z)
        least = singular_values.amax() * max(z.shape) * torch.finfo(singular_values.dtype).eps
        return torch.where(singular_values.isnan().any(), math.nan, (singular_values > least).sum())


def singular_spectrum(z: Tensor) -> Tensor:
    """Return the singular values of the rows as they are, largest first, relative to the largest entry.

    Args:
        z: embeddings, ``[N, D]``.

    Returns:
        ``[min(N, D)]``, differentiable, in float32 at least; all NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: ``z`` is not a floating-point tensor.
        ValueError: ``z`` is not a matrix with rows.

    Examples:
        >>> singular_spectrum(torch.diag(torch.tensor([1.0, 2.0])))
        tensor([1.0000, 0.5000])
    """
    check_rows("z", z)
    (rows,) = promote(z)
    rows = rows.nan_to_num(0.0, 0.0, 0.0)  # LAPACK raises on NaN
    largest = rows.detach().abs().amax()
    with without_autocast(z.device):
        rows = rows / largest.masked_fill(largest == 0, 1.0)  # no square overflows
        return if_finite(z, torch.linalg.svdvals(rows))


def tolerance(z: Tensor, labels: Tensor) -> Tensor:
    """How similar samples of one class are: the mean cosine of all pairs i < j of one class. Higher: closer.

    A loss that pushes all negatives apart pushes these apart too. From the sums of the classes, in O(N) memory.

    Args:
        z: embeddings, ``[N, D]``; rows need not have length 1.
        labels: classes, ``[N]`` integers.

    Returns:
        a scalar, differentiable; in [-1, 1]; NaN if no two samples share a class.

    Raises:
        TypeError: ``z`` is not a floating-point tensor, or ``labels`` are no integers.
        ValueError: ``z`` is not a matrix with rows, or ``labels`` are not one for each row.

    Source:
        Wang & Liu (2021), arXiv:2012.09740, Sec. 4, here the mean over the pairs of one class instead of over all.

    Examples:
        >>> tolerance(torch.eye(4)[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 1]))
        tensor(0.5000)
    """
    check_rows("z", z)
    check_labels("labels", labels, len(z))
    unit = l2_normalize(z)
    _, place, count = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = unit.new_zeros(len(count), unit.shape[1]).index_add(0, place, unit)
    return (sums.square().sum() - unit.square().sum()).div((count * (count - 1)).sum())


@torch.no_grad()
def alpha_entropy(alpha: Tensor) -> Tensor:
    """How widely α spreads: the mean entropy of its rows, each divided by its sum, in nats. A zero row has entropy 0.

    Args:
        alpha: pair weights ``[M, K]``, such as ``loss.pair_weights(z, z_aug).neg``; only weights > 0 count.

    Returns:
        a scalar in [0, log K].

    Raises:
        TypeError, ValueError: ``alpha`` is not a floating-point matrix.

    Examples:
        >>> alpha_entropy(torch.ones(2, 4)).exp()
        tensor(4.)
    """
    check_rows("alpha", alpha)
    (alpha,) = promote(alpha)
    return entropy_of_rows(alpha).mean()


def effective_negatives(alpha: Tensor) -> Tensor:
    """How many negatives an anchor attends to: the exponential of `alpha_entropy`.

    Args:
        alpha: pair weights ``[M, K]``.

    Returns:
        a scalar in [1, K]; 0 if no weight is above 0.

    Raises:
        TypeError, ValueError: ``alpha`` is not a floating-point matrix.
    """
    return alpha_entropy(alpha).exp() * (alpha > 0).any()
