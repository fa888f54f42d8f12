"""Anchors with several positives: the mean of the losses that each positive would give by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.strategies.base import PairWeights, Strategy

Drop = Callable[[Tensor], Tensor]


def weigh(strategy: Strategy, d2_pos: Tensor, share: Tensor, d2_neg: Tensor, drop: Drop) -> PairWeights:
    """Apply a strategy, which knows one positive per anchor, to anchors with several.

    Three ways, one result. A strategy that declares ``linear_in_positive`` (its candidate weights do not depend on D_+
    and its loss is linear in it) sees the mean distance. One with a method ``average`` has a closed form. Any other
    is asked once per positive.

    Args:
        strategy: the rule.
        d2_pos: distances to the positives.
        share: weight of each positive in the mean; rows sum to 1.
        d2_neg: distances to the candidates, +inf where excluded.
        drop: gives excluded candidates weight 0, in a copy.

    Shape: ``[M, P]``, ``[M, P]``, ``[M, K]`` -> ``neg [M, K]``, ``pos [M, P]``, ``value [M]`` or None.
    """
    if d2_pos.shape[1] == 1:
        neg, pos, value = _apply(strategy, d2_pos[:, 0], d2_neg, drop)
        return PairWeights(neg, pos[:, None], value)
    if getattr(strategy, "linear_in_positive", False):
        neg, pos, value = _apply(strategy, (share * d2_pos).sum(dim=1), d2_neg, drop)
        return PairWeights(neg, share * pos[:, None], value)
    average = getattr(strategy, "average", None)
    if average is not None:
        neg, pos, value = average(d2_pos, share, d2_neg)
        return PairWeights(drop(neg), pos, value)
    return _one_by_one(strategy, d2_pos, share, d2_neg, drop)


def _one_by_one(strategy: Strategy, d2_pos: Tensor, share: Tensor, d2_neg: Tensor, drop: Drop) -> PairWeights:
    neg, pos, value = d2_neg.new_zeros(d2_neg.shape), [], None
    for distance, part in zip(d2_pos.unbind(dim=1), share.unbind(dim=1), strict=True):
        one_neg, one_pos, one_value = _apply(strategy, distance, d2_neg, drop)
        neg = neg + part[:, None] * one_neg
        pos.append(part * one_pos)
        if one_value is not None:
            value = part * one_value + (0.0 if value is None else value)
    return PairWeights(neg, torch.stack(pos, dim=1), value)


def _apply(strategy: Strategy, d2_pos: Tensor, d2_neg: Tensor, drop: Drop) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ask for one positive, check what comes back, drop weights of excluded candidates, fill in the positive's."""
    weights: Any = strategy(d2_pos, d2_neg)
    if not isinstance(weights, tuple) or len(weights) != 3:
        what = f"{len(weights)} values" if isinstance(weights, tuple) else type(weights).__name__
        raise TypeError(f"strategy: expected one that returns PairWeights, got one that returns {what}")
    neg, pos, value = weights
    for name, part, like in (("neg", neg, d2_neg), ("pos", pos, d2_pos), ("value", value, d2_pos)):
        if part is None and name != "neg":
            continue
        if not isinstance(part, Tensor) or part.shape != like.shape:
            got = tuple(part.shape) if isinstance(part, Tensor) else repr(part)
            raise ValueError(f"strategy: expected PairWeights.{name} {tuple(like.shape)}, got {got}")
    neg = drop(neg)
    return neg, neg.sum(dim=1) if pos is None else pos, value
