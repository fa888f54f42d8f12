"""The law of the cosine of two uniform points on the sphere, and how far embeddings are from it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from alphacl_plugins.checks import check_rows
from alphacl_plugins.functional import l2_normalize, without_autocast
from alphacl_plugins.pairwise import if_finite, once, tiles

_CELLS = 8192
_NEWTON_STEPS = 3
_INTERVALS_AT_ONCE = 2**20
_EXACT_ROWS = 4096
_BINS = 2**20


@torch.no_grad()
def wasserstein_uniformity(z: Tensor) -> Tensor:
    """How far the cosines of an embedding are from those of points spread uniformly on the sphere. Lower: more evenly.

    The W1 distance ``∫ |F_N(c) - F(c)| dc`` between the law F_N of the cosines of all pairs i < j and the law F of the
    cosine of a uniform pair in D dimensions, where ``(1 + cos)/2`` is Beta((D-1)/2, (D-1)/2), without sampling. Unlike
    a mean, it sees a wrong shape of the distribution. Beyond 4,096 rows cosines are counted in 2^20 bins, which moves
    each by 1e-6 at most, and the distance by no more.

    Args:
        z: embeddings, ``[N, D]``; rows need not have length 1.

    Returns:
        a scalar in [0, 2), in float64; NaN if an entry of ``z`` is not finite.

    Raises:
        TypeError: ``z`` is not a floating-point tensor.
        ValueError: ``z`` is not a matrix of at least 2 rows.

    Source:
        the uniform law of Koromilas et al. (2024), arXiv:2405.18045; F is integrated to 1e-10.
    """
    check_rows("z", z, 2)
    unit = l2_normalize(z.double())
    with without_autocast(z.device):
        cosines = (once((a @ (a if b is None else b).T).clamp_(-1.0, 1.0), b) for a, b in tiles(unit))
        if len(unit) <= _EXACT_ROWS:
            points, counts = torch.cat(list(cosines)).sort().values, None
        else:
            points, counts = _binned(cosines, unit)
    return if_finite(z, wasserstein_to_uniform(points, z.shape[1], counts))


def _binned(cosines: Iterator[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the middles of the bins of [-1, 1] that have values, in order, and how many values each has."""
    counts = torch.zeros(_BINS, dtype=torch.int64, device=like.device)
    for block in cosines:
        places = block.nan_to_num_().add_(1).mul_(_BINS / 2).long().clamp_(max=_BINS - 1)
        counts += torch.bincount(places, minlength=_BINS)
    middles = (torch.arange(_BINS, dtype=like.dtype, device=like.device) + 0.5) * (2 / _BINS) - 1
    return middles[counts > 0], counts[counts > 0]


class UniformCosines:
    """Distribution function and quantiles of ``c = cos θ``, where θ has a density ∝ sin^(D-2) θ.

    Equivalently ``(1 + c)/2`` is Beta((D-1)/2, (D-1)/2). The density of the latitude φ = π/2 - θ is integrated by
    Simpson's rule on a fine grid. Between its points, cubics of the right slope interpolate: exact to 1e-10 at any D.

    Args:
        dim: dimension D of the space, >= 2.
        device: device of the table.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self.dim = dim
        self._log_scale = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2) - math.log(math.pi) / 2
        self._reach = min(math.pi / 2, 16 / math.sqrt(dim))  # beyond 16 standard deviations there is nothing
        self._step = 2 * self._reach / _CELLS
        nodes = torch.linspace(-self._reach, self._reach, _CELLS + 1, dtype=torch.float64, device=device)
        self._density = self._latitude_density(nodes)
        middles = self._latitude_density(nodes[:-1] + self._step / 2)
        cells = self._step / 6 * (self._density[:-1] + 4 * middles + self._density[1:])
        cdf = torch.cat([cells.new_zeros(1), cells.cumsum(dim=0)])
        self._cdf = cdf / cdf[-1]

    def cdf(self, c: Tensor) -> Tensor:
        """Return ``F(c) = P(cos <= c)``."""
        return self._latitude_cdf(torch.asin(c))

    def quantile(self, p: Tensor) -> Tensor:
        """Return the c with ``F(c) = p``."""
        cell = (torch.searchsorted(self._cdf, p, right=True) - 1).clamp(0, _CELLS - 1)
        start = cell.to(p.dtype) * self._step - self._reach
        latitude = start + self._step / 2
        for _ in range(_NEWTON_STEPS):
            density = self._latitude_density(latitude).clamp_min(torch.finfo(p.dtype).tiny)
            latitude = latitude - (self._latitude_cdf(latitude) - p) / density
            latitude = latitude.clamp(start, start + self._step)
        return torch.sin(latitude)

    def partial_mean(self, c: Tensor) -> Tensor:
        """Return ``G(c) = ∫_{-1}^c s f(s) ds``.

        It is ``-(1 - c²)^((D-1)/2) / ((D-1) Z)``, as ``f(s) = (1 - s²)^((D-3)/2) / Z``.
        """
        scale = math.exp(self._log_scale) / (self.dim - 1)
        return -scale * (1 - c.square()).clamp_min(0.0).pow((self.dim - 1) / 2)

    def _latitude_density(self, latitude: Tensor) -> Tensor:
        cosine = torch.cos(latitude).clamp_min(torch.finfo(latitude.dtype).tiny)
        return torch.exp(self._log_scale + (self.dim - 2) * torch.log(cosine))

    def _latitude_cdf(self, latitude: Tensor) -> Tensor:
        position = ((latitude + self._reach) / self._step).clamp(0.0, float(_CELLS))
        cell = position.nan_to_num(0.0).long().clamp(max=_CELLS - 1)
        s = position - cell
        left, right = self._cdf[cell], self._cdf[cell + 1]
        left_slope, right_slope = self._step * self._density[cell], self._step * self._density[cell + 1]
        rise = s.square() * (3 - 2 * s)
        bend = s * (1 - s)
        return left + (right - left) * rise + bend * (left_slope * (1 - s) - right_slope * s)


def wasserstein_to_uniform(cosines: Tensor, dim: int, counts: Tensor | None = None) -> Tensor:
    """Return the W1 distance ``∫ |F_N(c) - F(c)| dc`` of cosines to the uniform law in D dimensions.

    F_N is constant, p, between two cosines a <= b, and F increases, so the integrand changes sign at most once there,
    at the quantile of p clamped to [a, b]; F itself has the antiderivative ``c F(c) - G(c)``.

    Args:
        cosines: sorted, ``[K]``, in float64.
        dim: dimension D of the space, >= 1.
        counts: how often each occurs, ``[K]``; None: once.

    Returns:
        a scalar; NaN if a cosine is.
    """
    law = UniformCosines(dim, cosines.device) if dim > 1 else None
    counts = torch.ones_like(cosines) if counts is None else counts.to(cosines.dtype)
    edges = torch.cat([cosines.new_full((1,), -1.0), cosines, cosines.new_ones(1)])
    p = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    p /= p[-1].clone()
    some = [slice(i, i + _INTERVALS_AT_ONCE) for i in range(0, len(p), _INTERVALS_AT_ONCE)]
    return torch.stack([_between(law, edges[:-1][i], edges[1:][i], p[i]) for i in some]).sum()


def _between(law: UniformCosines | None, a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Integrate ``|p - F|`` over intervals [a, b]. On a line, without law, cosines are -1 or +1 with equal chance."""
    if law is None:
        return ((p - 0.5).abs() * (b - a)).sum()
    cdf_a, cdf_b = law.cdf(a), law.cdf(b)
    turn = torch.minimum(torch.maximum(law.quantile(p), a), b)
    cdf_at_turn = torch.minimum(torch.maximum(p, cdf_a), cdf_b)
    at_turn = turn * cdf_at_turn - law.partial_mean(turn)
    below = p * (turn - a) - (at_turn - (a * cdf_a - law.partial_mean(a)))
    above = (b * cdf_b - law.partial_mean(b) - at_turn) - p * (b - turn)
    return (below + above).sum()
