"""Weights of the softmax types and kernels where an anchor's other positives stand among its negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alphacl_plugins.engines.weights import Excluded, Positives, Weights
from alphacl_plugins.strategies.separable import Separable, Totals


def separable_beside_others(
    strategy: Separable, d2_pos: Tensor, d2: Tensor, excluded: Excluded, others: Positives, log_w: Tensor
) -> Weights:
    """Weigh where each positive p has the anchor's other positives among its negatives: without p in its sums.

    The sums without the nearest positive are formed by themselves; those without another one are differences, which the
    nearest keeps away from 0.
    """
    real, nearest = others.share > 0, others.nearest(d2_pos)
    assert isinstance(excluded.where, Tensor)  # a mask, as there are rules beyond the plain ones
    counted = (~excluded.where).to(d2.dtype) if excluded.times is None else excluded.times
    counts = others.of(counted) * real
    number = excluded.left - counts
    void = ~real | (number <= 0)
    number, share = number.masked_fill(void, 1), others.share.masked_fill(void, 0.0)
    rest = others.replace(log_w, others.of(log_w).masked_fill(nearest, -math.inf))
    rest = rest.masked_fill((void | ~nearest).all(dim=1, keepdim=True), 0.0)
    row_max = log_w.detach().amax(dim=1, keepdim=True).clamp_min(torch.finfo(d2.dtype).min)
    w = torch.exp(log_w - row_max)
    at = others.of(w) * real
    sums = others.without_each(w, at, nearest).masked_fill(void | nearest, 1.0)
    log_sums = torch.where(nearest, torch.logsumexp(rest, dim=1, keepdim=True), row_max + sums.log())
    u = strategy.potential(d2)
    potential = 0.0 if u is None else others.without_each(u * counted, others.of(u) * counts, nearest)
    row_sum, pos, value = strategy.factors(d2_pos, Totals(log_sums, potential, number))
    strength = share * row_sum
    far = (strength * torch.exp(row_max - log_sums)).masked_fill(nearest | void, 0.0)
    total, near = far.sum(dim=1, keepdim=True), (strength * nearest).sum(dim=1, keepdim=True)
    neg = others.replace(w * total, at * (total - far)) + near * torch.softmax(rest, dim=1)
    return Weights(neg, share * pos, None if value is None else (share * value).sum(dim=1))
