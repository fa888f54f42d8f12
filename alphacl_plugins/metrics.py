"""How good an embedding is, and how selective its α: numbers to log beside a loss. No gradient, inputs as they are."""

import math

import torch
from torch import Tensor

from alphacl_plugins._checks import check_matrix, check_positive, check_same_shape
from alphacl_plugins.functional import l2_normalize, paired_squared_distances, promote, squared_distances
from alphacl_plugins.sphere import wasserstein_to_uniform


@torch.no_grad()
def alignment(z: Tensor, z_aug: Tensor) -> Tensor:
    """How far apart the two views of a sample are: the mean of ``||z_i - z'_i||²`` (twice the mean D_+). Lower: closer.

    Shape: ``[N, D]``, ``[N, D]`` -> scalar; in [0, 4] for rows of length 1.
    Raises: TypeError, ValueError if the two are not floating-point matrices of one shape.
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
        z: embeddings.
        t: inverse squared width of the Gaussian, > 0.

    Shape: ``[N, D]`` -> scalar, <= 0.
    Raises: TypeError, ValueError if ``z`` is not a floating-point matrix of at least 2 rows, or ``t`` not > 0.
    Source: Wang & Isola (2020), arXiv:2005.10242, L_uniform.
    """
    check_matrix("z", z)
    check_positive("t", t)
    pairs = _distinct_pairs(squared_distances(z, z), "z")
    return torch.logsumexp(-2 * t * pairs, dim=0) - math.log(len(pairs))


@torch.no_grad()
def effective_rank(z: Tensor) -> Tensor:
    """How many directions an embedding uses: the exponential of the entropy of its normalised singular values.

    ``exp(-Σ_k p_k log p_k)``, ``p_k = σ_k / Σ_l σ_l``, of the rows as they are, not centred.

    Shape: ``[N, D]`` -> scalar in [1, min(N, D)]; 0 for all rows zero.
    Raises: TypeError, ValueError if ``z`` is not a floating-point matrix with rows.
    Source: Roy & Vetterli (2007), "The effective rank".

    >>> effective_rank(torch.eye(3))
    tensor(3.)
    """
    check_matrix("z", z)
    _check_rows("z", z)
    (z,) = promote(z)
    singular_values = torch.linalg.svdvals(z)
    total = singular_values.sum()
    p = singular_values / total.masked_fill(total == 0, 1.0)
    rank: Tensor = torch.special.entr(p).sum().exp() * (total > 0)
    return rank


@torch.no_grad()
def alpha_entropy(alpha: Tensor) -> Tensor:
    """How widely α spreads: the mean entropy of its rows, each divided by its sum, in nats. A zero row has entropy 0.

    Args:
        alpha: pair weights >= 0, such as ``loss.pair_weights(z, z_aug).neg``.

    Shape: ``[M, K]`` -> scalar in [0, log K].
    Raises: TypeError, ValueError if ``alpha`` is not a floating-point matrix.

    >>> alpha_entropy(torch.ones(2, 4)).exp()
    tensor(4.)
    """
    check_matrix("alpha", alpha)
    _check_rows("alpha", alpha)
    (alpha,) = promote(alpha)
    return entropy_of_rows(alpha).mean()


def entropy_of_rows(alpha: Tensor) -> Tensor:
    """The entropy of each row, divided by its sum, ``[M, K] -> [M]``."""
    total = alpha.sum(dim=1, keepdim=True)
    p = alpha / total.masked_fill(total == 0, 1.0)
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log_()  # a few times faster than torch.special.entr
    return -log_p.mul_(p).sum(dim=1)


def effective_negatives(alpha: Tensor) -> Tensor:
    """How many candidates an anchor attends to: the exponential of `alpha_entropy`, in [1, K].

    Shape: ``[M, K]`` -> scalar.
    Raises: TypeError, ValueError if ``alpha`` is not a floating-point matrix.
    """
    return alpha_entropy(alpha).exp()


@torch.no_grad()
def wasserstein_uniformity(z: Tensor) -> Tensor:
    """How far the cosines of an embedding are from those of points spread uniformly on the sphere. Lower: more evenly.

    The W1 distance ``∫ |F_N(c) - F(c)| dc`` between the law F_N of the cosines of all pairs i < j and the law F of the
    cosine of a uniform pair in D dimensions, where ``(1 + cos)/2`` is Beta((D-1)/2, (D-1)/2): no sampling. Unlike a
    mean, it sees a wrong shape of the distribution.

    Shape: ``[N, D]`` -> scalar in [0, 2), in float64; rows need not have length 1.
    Raises: TypeError, ValueError if ``z`` is not a floating-point matrix of at least 2 rows.
    Source: the uniform law of Koromilas et al. (2024), arXiv:2405.18045; F is integrated to 1e-10.
    """
    check_matrix("z", z)
    z = l2_normalize(z.double())
    with torch.autocast(z.device.type, enabled=False):
        cosines = _distinct_pairs(z @ z.T, "z").clamp(-1.0, 1.0).sort().values
    return wasserstein_to_uniform(cosines, z.shape[1])


def _check_rows(name: str, z: Tensor) -> None:
    if len(z) == 0:
        raise ValueError(f"{name}: expected at least 1 row, got shape {tuple(z.shape)}")


def _distinct_pairs(matrix: Tensor, name: str) -> Tensor:
    """The entries i < j of a square matrix, as a vector."""
    n = len(matrix)
    if n < 2:
        raise ValueError(f"{name}: expected at least 2 rows to compare, got {n}")
    rows, columns = torch.triu_indices(n, n, offset=1, device=matrix.device)
    return matrix[rows, columns]
