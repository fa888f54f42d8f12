"""How good an embedding is, and how selective α: numbers to log beside a loss, without gradient."""

import math

import torch
from torch import Tensor

from alphacl_plugins.checks import check_matrix, check_positive, check_same_shape
from alphacl_plugins.engines.blocks import automatic_block
from alphacl_plugins.engines.weights import weigh
from alphacl_plugins.functional import (
    centre_of,
    l2_normalize,
    paired_squared_distances,
    promote,
    squared_distances,
    without_autocast,
)  # fmt: skip
from alphacl_plugins.pairs import Batch
from alphacl_plugins.sphere import wasserstein_to_uniform
from alphacl_plugins.strategies import Strategy


@torch.no_grad()
def alignment(z: Tensor, z_aug: Tensor) -> Tensor:
    """How far apart the two views of a sample are: the mean of ``||z_i - z'_i||²`` (twice the mean D_+). Lower: closer.

    Args:
        z: embeddings of one view, ``[N, D]``.
        z_aug: embeddings of the other view, ``[N, D]``.

    Returns: a scalar; in [0, 4] for rows of length 1.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: the two are not matrices of one shape, with rows.

    Source: Wang & Isola (2020), arXiv:2005.10242, L_align.

    >>> alignment(torch.eye(2), -torch.eye(2))
    tensor(4.)
    """
    check_same_shape("z_aug", z_aug, "z", z)
    _check_rows("z", z)
    return 2 * paired_squared_distances(z, z_aug).mean()


@torch.no_grad()
def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    """How evenly rows of length 1 cover the sphere: ``log mean_{i<j} exp(-t ||z_i - z_j||²)``. Lower: more evenly.

    Args:
        z: embeddings, ``[N, D]``.
        t: inverse squared width of the Gaussian, > 0.

    Returns: a scalar, <= 0; NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: ``z`` is not a matrix of at least 2 rows, or ``t`` is not > 0.

    Source: Wang & Isola (2020), arXiv:2005.10242, L_uniform.
    """
    check_matrix("z", z)
    check_positive("t", t)
    pairs = _distinct_pairs(squared_distances(z, z), "z")
    return _if_finite(z, torch.logsumexp(-2 * t * pairs, dim=0) - math.log(len(pairs)))


@torch.no_grad()
def effective_rank(z: Tensor) -> Tensor:
    """How many directions an embedding uses: the exponential of the entropy of its normalised singular values.

    ``exp(-Σ_k p_k log p_k)``, ``p_k = σ_k / Σ_l σ_l``, of the rows as they are, not centred.

    Args:
        z: embeddings, ``[N, D]``.

    Returns: a scalar in [1, min(N, D)]; 0 for all rows zero; NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: ``z`` is not a floating-point tensor.
        ValueError: ``z`` is not a matrix with rows.

    Source: Roy & Vetterli (2007), "The effective rank".

    >>> effective_rank(torch.eye(3))
    tensor(3.)
    """
    check_matrix("z", z)
    _check_rows("z", z)
    (rows,) = promote(z)
    rows = rows.nan_to_num(0.0, 0.0, 0.0)  # LAPACK raises on NaN
    largest = rows.abs().max()
    singular_values = torch.linalg.svdvals(rows / largest.masked_fill(largest == 0, 1.0))  # no square overflows
    total = singular_values.sum()
    p = singular_values / total.masked_fill(total == 0, 1.0)
    return _if_finite(z, torch.special.entr(p).sum().exp() * (total > 0))


@torch.no_grad()
def alpha_entropy(alpha: Tensor) -> Tensor:
    """How widely α spreads: the mean entropy of its rows, each divided by its sum, in nats. A zero row has entropy 0.

    Args:
        alpha: pair weights ``[M, K]``, such as ``loss.pair_weights(z, z_aug).neg``; only weights > 0 count.

    Returns: a scalar in [0, log K].

    Raises:
        TypeError, ValueError: ``alpha`` is not a floating-point matrix.

    >>> alpha_entropy(torch.ones(2, 4)).exp()
    tensor(4.)
    """
    check_matrix("alpha", alpha)
    _check_rows("alpha", alpha)
    (alpha,) = promote(alpha)
    return entropy_of_rows(alpha).mean()


def entropy_of_rows(alpha: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the entropy of each row's positive part, divided by its sum, ``[M, K] -> [M]``.

    With ``count`` the weights are those of so many copies together: ``-Σ_j q_j log(q_j / count_j)``.
    """
    weights = alpha.clamp_min(0.0)
    largest = weights.amax(dim=1, keepdim=True)
    weights = weights / largest.masked_fill(largest == 0, 1.0)  # the sum of large weights would overflow
    p = weights / weights.sum(dim=1, keepdim=True).masked_fill(largest == 0, 1.0)
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log_()  # a few times faster than torch.special.entr
    log_p = log_p if count is None else log_p - count.masked_fill(count == 0, 1.0).log()
    return -log_p.mul_(p).sum(dim=1)


def batch_statistics(
    d2_pos: Tensor, d2_neg: Tensor, entropy: Tensor, n_negatives: Tensor, n_anchors: Tensor, some: Tensor
) -> dict[str, Tensor]:
    """Return what a loss shows as ``last_stats``, by name; unless ``some`` negative has weight, 0 are effective."""
    stats = {"d2_pos": d2_pos, "d2_neg": d2_neg, "alpha_entropy": entropy}
    effective = entropy.exp() * some
    return stats | {"effective_negatives": effective, "negatives": n_negatives / n_anchors}


def statistics_of(strategy: Strategy, batch: Batch) -> dict[str, Tensor]:
    """Return the means that a loss shows: distances, and the entropy of the α of an anchor, in nats."""
    with torch.no_grad(), without_autocast(batch.rows.device):
        d2_pos, d2_neg, number, entropy, n, largest = (batch.rows.new_zeros(()) for _ in range(6))
        block, (_, d2_of_views) = automatic_block(strategy, batch), batch.other_views()
        for group in batch.groups(centre_of(batch.rows)):
            for start, stop in group.blocks(block):
                found = weigh(strategy, batch, group, d2_of_views, start, stop)
                left, share, neg = found.excluded.left, found.share, found.weights.neg
                anchors = slice(group.first + start, group.first + stop)
                weights = torch.ones_like(neg[:, 0]) if batch.weights is None else batch.weights[anchors]
                d2_pos += weights @ (share * found.d2_pos).sum(dim=1)
                d2_neg += weights @ found.excluded.total(found.d2)[:, 0]
                number += weights @ left[:, 0].to(neg.dtype) if isinstance(left, Tensor) else left * weights.sum()
                entropy += weights @ entropy_of_rows(neg, found.excluded.times)
                n += weights @ (share > 0).any(dim=1).to(neg.dtype) if isinstance(share, Tensor) else weights.sum()
                largest = torch.maximum(largest, neg.amax())
        n = n.masked_fill(n == 0, 1)
        return batch_statistics(
            d2_pos / n, d2_neg / number.masked_fill(number == 0, 1), entropy / n, number, n, largest > 0
        )


def effective_negatives(alpha: Tensor) -> Tensor:
    """How many negatives an anchor attends to: the exponential of `alpha_entropy`.

    Args:
        alpha: pair weights ``[M, K]``.

    Returns: a scalar in [1, K]; 0 if no weight is above 0.

    Raises:
        TypeError, ValueError: ``alpha`` is not a floating-point matrix.
    """
    return alpha_entropy(alpha).exp() * (alpha > 0).any()


@torch.no_grad()
def wasserstein_uniformity(z: Tensor) -> Tensor:
    """How far the cosines of an embedding are from those of points spread uniformly on the sphere. Lower: more evenly.

    The W1 distance ``∫ |F_N(c) - F(c)| dc`` between the law F_N of the cosines of all pairs i < j and the law F of the
    cosine of a uniform pair in D dimensions, where ``(1 + cos)/2`` is Beta((D-1)/2, (D-1)/2), without sampling. Unlike
    a mean, it sees a wrong shape of the distribution.

    Args:
        z: embeddings, ``[N, D]``; rows need not have length 1.

    Returns: a scalar in [0, 2), in float64; NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: ``z`` is not a floating-point tensor.
        ValueError: ``z`` is not a matrix of at least 2 rows.

    Source: the uniform law of Koromilas et al. (2024), arXiv:2405.18045; F is integrated to 1e-10.
    """
    check_matrix("z", z)
    z = l2_normalize(z.double())
    with torch.autocast(z.device.type, enabled=False):
        cosines = _distinct_pairs(z @ z.T, "z").clamp(-1.0, 1.0).sort().values
    return wasserstein_to_uniform(cosines, z.shape[1])


def _if_finite(z: Tensor, value: Tensor) -> Tensor:
    """Return the value, NaN if an entry of z is not finite; without a host sync."""
    return torch.where(z.isfinite().all(), value, math.nan)


def _check_rows(name: str, z: Tensor) -> None:
    if len(z) == 0:
        raise ValueError(f"{name}: expected at least 1 row, got shape {tuple(z.shape)}")


def _distinct_pairs(matrix: Tensor, name: str) -> Tensor:
    """Return the entries i < j of a square matrix, as a vector."""
    n = len(matrix)
    if n < 2:
        raise ValueError(f"{name}: expected at least 2 rows to compare, got {n}")
    rows, columns = torch.triu_indices(n, n, offset=1, device=matrix.device)
    return matrix[rows, columns]
