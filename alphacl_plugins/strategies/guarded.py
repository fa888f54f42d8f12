"""How the engines call a strategy: registered ones as they are, a user's own with copies and a checked answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.strategies.base import PairWeights, Strategy
from alphacl_plugins.strategies.calibrated import Calibrated
from alphacl_plugins.strategies.learnable import Learnable
from alphacl_plugins.strategies.masked import Masked, learnable_of
from alphacl_plugins.strategies.registry import resolve_strategy


class Guarded(Strategy):
    """A strategy of any kind that gets copies of the distances and whose answer is checked.

    So a strategy that writes into its arguments (``d2_neg /= -tau``) changes no tensor of the caller, and weights of
    another dtype (bool, int) come in that of the distances.

    Args:
        strategy: any callable ``(d2_pos, d2_neg) -> PairWeights``; attributes of `Strategy` that it declares hold for
            this one too.

    Raises:
        TypeError: if a call returns something else than PairWeights.
        ValueError: if weights of a call are not of the right shape.
    """

    pure = True

    def __init__(self, strategy: Callable[[Tensor, Tensor], Any]) -> None:
        self.strategy = strategy
        self.negatives = getattr(strategy, "negatives", None)
        self.symmetric = getattr(strategy, "symmetric", None)
        self.uses_positive = getattr(strategy, "uses_positive", True)
        self.has_loss = getattr(strategy, "has_loss", False)
        self.needs_distance = getattr(strategy, "needs_distance", True)
        self.counts = getattr(strategy, "counts", False)
        self.uses_batch = getattr(strategy, "uses_batch", False)
        self._usual_scale = getattr(strategy, "usual_scale", None)

    def __repr__(self) -> str:
        return f"Guarded({self.strategy!r})"

    @property
    def usual_scale(self) -> Any:
        """What the strategy declares."""
        return self._usual_scale

    def on_batch(self, d2_pos: Tensor, weight: Tensor | None = None) -> Strategy:
        """Guard the strategy that the user's makes of a batch."""
        strategy: Any = self.strategy
        return Guarded(strategy.on_batch(d2_pos, weight)) if self.uses_batch else self

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, *count: Tensor) -> PairWeights:
        weights = self.strategy(d2_pos.clone(), d2_neg.clone(), *(number.clone() for number in count))
        if not isinstance(weights, tuple) or len(weights) != 3:
            what = f"{len(weights)} values" if isinstance(weights, tuple) else type(weights).__name__
            raise TypeError(f"strategy: expected one that returns PairWeights, got one that returns {what}")
        neg, pos, value = weights
        return PairWeights(
            _checked("neg", neg, d2_neg).masked_fill(torch.isinf(d2_neg), 0.0),
            None if pos is None else _checked("pos", pos, d2_pos),
            None if value is None else _checked("value", value, d2_pos),
        )


def plain(strategy: Any, *, detach: bool = True, at: Mapping[str, Any] | None = None) -> Strategy:
    """Return a strategy as the engines call it: pure, and with its learnt options as they are now.

    Args:
        strategy: a strategy of any kind, see `Strategy`.
        detach: whether a `Learnable` gets no gradient through α.
        at: options that it gets in place of its own, as ``tau``.
    """
    if isinstance(strategy, Masked):
        return strategy.around(plain(strategy.strategy, detach=detach, at=at))
    if isinstance(strategy, Learnable):
        strategy = strategy.current(detach=detach) if at is None else dataclasses.replace(strategy.strategy, **at)
    return strategy if isinstance(strategy, Strategy) and strategy.pure else Guarded(strategy)


def plain_on(strategy: Any, d2_pos: Tensor) -> Strategy:
    """Return a strategy for callers without a loss, whose positives are at these distances."""
    kept = learnable_of(strategy)
    if isinstance(kept, Calibrated):
        kept.check_found()
    rule = plain(strategy)
    return rule.on_batch(d2_pos.detach()) if rule.uses_batch else rule


def strategy_for_alpha(alpha: object, d2_pos: Tensor) -> Strategy:
    """Return the strategy that was given as ``alpha``, for positives at these distances."""
    if not isinstance(alpha, str) and not callable(alpha):
        raise TypeError(f"alpha: expected a tensor [N, N], a strategy object or its name, got {alpha!r}")
    return plain_on(resolve_strategy(alpha, argument="alpha"), d2_pos)


def _checked(name: str, part: Any, like: Tensor) -> Tensor:
    if not isinstance(part, Tensor) or part.shape != like.shape:
        got = tuple(part.shape) if isinstance(part, Tensor) else repr(part)
        raise ValueError(f"strategy: expected PairWeights.{name} {tuple(like.shape)}, got {got}")
    return part.to(like.dtype, copy=True)  # the user may keep what was returned
