"""The loss on distances that somebody else has measured: for hosts that bring their own pairs."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from alphacl_plugins.checks import check_matrix
from alphacl_plugins.columns import Excluded
from alphacl_plugins.engines.weights import weights_of
from alphacl_plugins.functional import promote, without_autocast
from alphacl_plugins.options import check_scale
from alphacl_plugins.strategies import AnyStrategy, resolve_strategy
from alphacl_plugins.strategies.guarded import plain, plain_on
from alphacl_plugins.strategies.masked import learnable_of


def row_losses(
    strategy: str | AnyStrategy,
    d_pos: Tensor,
    d_neg: Tensor,
    *,
    share: Tensor | None = None,
    count: Tensor | None = None,
    scale: Literal["paper", "ntxent"] = "paper",
) -> Tensor:
    """The losses of anchors from their distances: as `AlphaCLLoss` with reduction "none" would compute them.

    The gradient is that of ``-E_i``, ``E_i = Σ_j α_ij D_ij - Σ_p α_ip D_ip``, with α held fixed, for whatever the
    distances were computed from; no value is read. Where only differences of distances matter (``needs_distance`` of
    the strategy is False), minus a dot product serves as well as a distance.

    Args:
        strategy: a registered name, an import path, or a strategy object.
        d_pos: distances D of each anchor to its positives, ``[M, P]``, half squared for the usual temperatures.
        d_neg: distances to its negatives, ``[M, K]``; +inf where a column is no negative.
        share: weight of each positive, ``[M, P]``, >= 0; rows sum to 1, or to 0 for an anchor without positives, whose
            loss is 0. None: 1 / P.
        count: how often each negative counts, >= 0, ``[M, K]`` or ``[K]``; 0 excludes it, and its D may then be
            anything. A bool mask of the negatives for strategies that cannot count. None: 1.
        scale: "paper", or "ntxent": times the strategy's ``usual_scale``, 1/τ, as in `AlphaCLLoss`.

    Returns:
        ``[M]``, in float32 at least.

    Raises:
        TypeError: an argument is of another kind, or the strategy cannot count.
        ValueError: the shapes are not these, the scale needs a τ, or the strategy the whole batch and there is a share.

    Source:
        Tian (2022), arXiv:2201.12680, Theorem 1.

    Examples:
        >>> row_losses("triplet", torch.tensor([[0.5]]), torch.tensor([[0.25, 2.0]]))
        tensor([0.7500])
    """
    check_matrix("d_pos", d_pos)
    check_matrix("d_neg", d_neg)
    m, k = d_neg.shape
    for name, given in (("share", share), ("count", count)):
        if given is not None and (not isinstance(given, Tensor) or given.is_complex()):
            raise TypeError(f"{name}: expected a tensor of numbers >= 0, got {type(given).__name__}")
    if d_pos.shape[0] != m or d_pos.shape[1] == 0:
        raise ValueError(f"d_pos: expected [{m}, P] with P >= 1, got {tuple(d_pos.shape)}")
    if share is not None and share.shape != d_pos.shape:
        raise ValueError(f"share: expected {tuple(d_pos.shape)} as d_pos has, got {tuple(share.shape)}")
    if count is not None and tuple(count.shape) not in ((m, k), (k,)):
        raise ValueError(f"count: expected [{m}, {k}] or [{k}], got {tuple(count.shape)}")
    asked = resolve_strategy(strategy)
    check_scale(scale, asked)
    if share is not None and plain(asked).uses_batch:
        raise ValueError(f"share: expected None with {asked!r}, which needs a mean over all positives, got a tensor")
    rule = plain_on(asked, d_pos)
    if count is not None and count.dtype != torch.bool and not rule.counts:
        raise TypeError(f"count: expected a bool mask with {asked!r}, which cannot count, got {count.dtype}")
    d_pos, d_neg = promote(d_pos, d_neg)
    parts = 1 / d_pos.shape[1] if share is None else share.detach().to(d_pos.dtype)
    with without_autocast(d_pos.device):
        number = torch.ones_like(d_neg) if count is None else count.detach().to(d_neg.dtype).expand(m, k)
        number = number.masked_fill(d_neg == math.inf, 0.0)
        none = number == 0
        d_neg = d_neg.masked_fill(none, 0.0)
        excluded = Excluded(none, number.sum(dim=1, keepdim=True), None if count is None else number)
        neg, pos, value, _ = weights_of(rule, d_pos.detach(), parts, d_neg.detach(), excluded)
        minus_energy = (pos.detach() * d_pos).sum(dim=1) - (neg.detach() * d_neg).sum(dim=1)
        times: Any = rule.usual_scale if scale == "ntxent" else 1.0
        value = times * (minus_energy.detach() if value is None else value)
        learnable = learnable_of(asked)
        if learnable is not None:
            value = learnable.learn_from(value, -minus_energy, neg.sum(dim=1) - pos.sum(dim=1))
        total: Tensor = value + times * (minus_energy - minus_energy.detach())
        return total
