"""Weights of the softmax types and kernels where an anchor's other positives stand among its negatives.

Each positive p then has sums of its own: over the negatives that are no positives, and over the other positives. All is
counted in logarithms, and nothing large is subtracted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.strategies.separable import Separable, Totals


class BesideOthers(NamedTuple):
    """Weights of m anchors, the mean over their positives."""

    log_scale: Tensor  # [m, 1]; a negative that is no positive has weight exp(log w + log_scale)
    neg: Tensor  # [m, P], of each positive, as a negative of the others
    pos: Tensor  # [m, P]
    value: Tensor | None  # [m, 1]


def lowest(x: Tensor) -> float:
    """Stand for log 0, so far from the end of the dtype that two may be added."""
    return torch.finfo(x.dtype).min / 8


def log_sum_exp(x: Tensor) -> Tensor:
    """``log Σ_j exp x_j`` of each row, ``[m, 1]``, finite where all are -inf."""
    return torch.logsumexp(x.clamp_min(lowest(x)), dim=1, keepdim=True)


def beside_others(strategy: Separable, d2_pos: Tensor, share: Tensor, times: Tensor, rest: Totals) -> BesideOthers:
    """Weigh positives at distances ``d2_pos [m, P]``, each of which counts ``times [m, P]`` as a negative.

    Args:
        share: of each positive in the anchor's mean, 0 for none.
        rest: sums over the negatives that are no positives, which may be none.
    """
    zero = lowest(d2_pos)
    counted = times > 0
    log_times = times.masked_fill(~counted, 1.0).log()
    log_w = torch.where(counted, strategy.log_weight(d2_pos) + log_times, zero)
    log_sums = torch.logaddexp(rest.log_sum_exp.clamp_min(zero), without_each(log_w))
    u = strategy.potential(d2_pos)
    potential = 0.0 if u is None else rest.potential + (u * times).sum(dim=1, keepdim=True) - u * times
    number, log_mass = rest.number + times.sum(dim=1, keepdim=True) - times, rest.log_mass
    if isinstance(log_mass, Tensor):
        log_v = torch.where(counted, strategy.log_mass(d2_pos) + log_times, zero)  # type: ignore[operator]  # a tensor too
        log_mass = torch.logaddexp(log_mass.clamp_min(zero), without_each(log_v))
    void = (share == 0) | (log_sums < zero / 2) | (number <= 0)
    share, log_sums = share.masked_fill(void, 0.0), log_sums.masked_fill(void, 0.0)
    log_mass = log_mass.masked_fill(void, 0.0) if isinstance(log_mass, Tensor) else log_mass
    totals = Totals(log_sums, potential, number.masked_fill(void, 1.0), log_mass)
    row_sum, pos, value = strategy.factors(d2_pos, totals)
    strength = share * row_sum
    none = strength == 0
    log_strength = torch.where(none, zero, strength.masked_fill(none, 1.0).log() - log_sums)
    neg = torch.exp(log_w + without_each(log_strength))
    value = None if value is None else (share * value).sum(dim=1, keepdim=True)
    return BesideOthers(torch.logsumexp(log_strength, dim=1, keepdim=True), neg, share * pos, value)


def without_each(x: Tensor) -> Tensor:
    """Return ``log Σ_{q != p} exp x_p`` for each p, ``[m, P]``; nothing is drowned by the largest."""
    top, place = x.max(dim=1, keepdim=True)
    is_top = torch.zeros_like(x, dtype=torch.bool).scatter(1, place, True)
    rest = torch.logsumexp(x.masked_fill(is_top, lowest(x)), dim=1, keepdim=True)
    others = ((rest - top).exp() - (x - top).exp()).masked_fill(is_top, 0.0).clamp_min(0.0)
    return torch.where(is_top, rest, top + torch.log1p(others))
