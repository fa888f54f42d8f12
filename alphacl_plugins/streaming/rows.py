"""α of a block of anchors, from distances that are known, without a graph through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alphacl_plugins.metrics import entropy_of_rows
from alphacl_plugins.positives import weigh
from alphacl_plugins.strategies import Strategy, Tempered
from alphacl_plugins.strategies.factored import Factored


class Rows(NamedTuple):
    """Pair weights ``scale * neg`` and ``pos`` of m anchors; the value may have a gradient for the strategy."""

    neg: Tensor  # [m, K], 0 where excluded
    scale: Tensor | None  # [m, 1]; None: 1
    pos: Tensor  # [m, P], each times its share
    value: Tensor | None  # [m]; None stands for -E
    entropy: Tensor  # [m], of the normalised rows

    def scaled(self, x: Tensor) -> Tensor:
        """``scale * x``."""
        return x if self.scale is None else self.scale * x

    def times(self, weights: Tensor) -> Rows:
        """The pair weights times ``weights [m, 1]``."""
        return self._replace(pos=weights * self.pos, scale=weights if self.scale is None else weights * self.scale)

    def split(self, sizes: list[int]) -> list[Rows]:
        """The rows of each of several groups of anchors."""
        if len(sizes) == 1:
            return [self]
        parts = [[None] * len(sizes) if part is None else torch.split(part, sizes) for part in self]
        return [Rows(*row) for row in zip(*parts, strict=True)]


class Excluded(NamedTuple):
    """Which candidates of m anchors are none: a mask ``[m, K]``, or as many columns in each row, ``[m, C]``."""

    where: Tensor

    @staticmethod
    def stack(parts: Sequence[Excluded]) -> Excluded:
        """Put those of several groups of anchors below each other."""
        return parts[0] if len(parts) == 1 else Excluded(torch.cat([part.where for part in parts]))

    def fill(self, x: Tensor, value: float) -> Tensor:
        """A copy with a value there."""
        return self.fill_(x.clone(), value)

    def fill_(self, x: Tensor, value: float) -> Tensor:
        """Write a value there."""
        if self.where.dtype == torch.bool:
            return x.masked_fill_(self.where, value)
        return x.scatter_(1, self.where, value)

    def number_left(self, x: Tensor) -> Tensor | int:
        """How many candidates each anchor has, ``[m, 1]``, or one number for all."""
        if self.where.dtype == torch.bool:
            return (~self.where).sum(dim=1, keepdim=True).to(x.dtype)
        return x.shape[1] - self.where.shape[1]

    def total_left(self, x: Tensor) -> Tensor | int:
        """How many candidates all anchors have."""
        if self.where.dtype == torch.bool:
            return (~self.where).sum()
        return x.numel() - self.where.numel()

    def lonely(self) -> Tensor | None:
        """Which anchors have no candidate, ``[m, 1]``; None: all have one."""
        return self.where.all(dim=1, keepdim=True) if self.where.dtype == torch.bool else None


def form_rows(strategy: Strategy, d2_pos: Tensor, share: Tensor, d2_neg: Tensor, excluded: Excluded) -> Rows:
    """Ask a strategy for the rows of some anchors.

    Shape: ``[m, P]``, ``[m, P]``, ``[m, K]``, finite everywhere.
    """
    factored = _factored(strategy)
    if factored is not None:
        return _form_factored(factored, d2_pos, share, d2_neg, excluded)
    # the τ of a Tempered learns from the energy, see `Tempered.learn_from`
    if isinstance(strategy, Tempered) or getattr(strategy, "parameter_free", False):
        with torch.no_grad():
            return _form_any(strategy, d2_pos, share, d2_neg, excluded)
    return _form_any(strategy, d2_pos, share, d2_neg, excluded)


def _factored(strategy: Strategy) -> Factored | None:
    """The strategy as one whose weights factor and that has no parameters to give a gradient to."""
    if isinstance(strategy, nn.Module) and not isinstance(strategy, Tempered):
        return None
    factored: Factored | None = getattr(strategy, "factored", None)
    return factored


def _form_factored(strategy: Factored, d2_pos: Tensor, share: Tensor, d2_neg: Tensor, excluded: Excluded) -> Rows:
    potential, number, lonely = strategy.potential(d2_neg), excluded.number_left(d2_neg), excluded.lonely()
    if potential is not None:
        potential = excluded.fill(potential, 0.0).sum(dim=1, keepdim=True)
    log_weights = excluded.fill_(strategy.log_weight(d2_neg), -math.inf)
    if lonely is not None:
        log_weights, number = log_weights.masked_fill_(lonely, 0.0), torch.as_tensor(number).clamp_min(1)
    softmax, mass, pos, value, log_top, log_sum = strategy.rows(d2_pos, share, log_weights, potential, number)
    if lonely is not None:
        mass = mass.masked_fill(lonely, 0.0)
    finite = excluded.fill_(log_weights.sub_(log_top), 0.0)  # not -inf times a weight of 0
    entropy = (log_sum[:, 0] - finite.mul_(softmax).sum(dim=1)).mul_(mass[:, 0] > 0)
    return Rows(softmax, mass, *_without(lonely, pos, value), entropy)


def _form_any(strategy: Strategy, d2_pos: Tensor, share: Tensor, d2_neg: Tensor, excluded: Excluded) -> Rows:
    lonely, seen = excluded.lonely(), excluded.fill(d2_neg, math.inf)
    if lonely is not None:
        seen = seen.masked_fill_(lonely, 0.0)
    neg, pos, value = weigh(strategy, d2_pos, share, seen, lambda neg: excluded.fill(neg, 0.0))
    assert pos is not None  # completed by weigh
    neg = neg.detach().to(d2_neg.dtype)
    pos, value = _without(lonely, pos.detach().to(d2_neg.dtype), value)
    return Rows(neg, None, pos, value, entropy_of_rows(neg))


def _without(lonely: Tensor | None, pos: Tensor, value: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Anchors without candidates contribute nothing."""
    if lonely is None:
        return pos, value
    return pos.masked_fill(lonely, 0.0), None if value is None else value.masked_fill(lonely[:, 0], 0.0)
