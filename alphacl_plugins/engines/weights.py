"""α of some anchors: the one place that measures pairs and asks a strategy, which knows one positive at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.columns import Excluded, Positives
from alphacl_plugins.functional import distances
from alphacl_plugins.strategies import Strategy
from alphacl_plugins.strategies.beside_others import beside_others, log_sum_exp
from alphacl_plugins.strategies.separable import Separable, Totals

if TYPE_CHECKING:
    from alphacl_plugins.pairs import Batch, Group

_FEW = 128  # rows: so small a matrix is quickly transposed


class Losses(NamedTuple):
    """What every engine finds: the losses of the M anchors of a batch."""

    minus_energy: Any  # Tensor [M], -E; None if not computed
    value: Tensor | None  # [M], the strategy's own loss; None stands for -E
    excess: Any = None  # Tensor [M], Σ_j α_ij - Σ_p α_ip; as minus_energy
    found: Tensor | None = None  # [M], 1 for an anchor that has a positive, else 0; None for 1


class Weights(NamedTuple):
    """Pair weights of m anchors."""

    neg: Tensor  # [m, K], 0 where excluded
    pos: Tensor  # [m, P], each times its share
    value: Tensor | None  # [m]; None stands for -E
    transposed: Tensor | None = None  # negᵀ; None if not asked for, or not known without transposing


class Weighed(NamedTuple):
    """Distances and weights of some anchors."""

    d2_pos: Tensor  # [m, P]
    share: Tensor | float  # of each positive in the anchor's mean
    d2: Tensor  # [m, K]
    excluded: Excluded
    positives: Positives | None  # which columns are positives; None without labels
    weights: Weights


def fill(x: Tensor, excluded: Excluded, value: float) -> Tensor:
    """Write ``value`` where columns are excluded, in place unless autograd, torch.compile or torch.func looks on."""
    # is_traced, written out: every call of the loss comes by here
    tracked = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x) or x.requires_grad
    where = excluded.where
    if isinstance(where, int):
        n = x.shape[0] // where
        if not tracked:
            x.view(where, n, where, n).diagonal(dim1=1, dim2=3).fill_(value)
            return x
        where = torch.eye(n, dtype=torch.bool, device=x.device).repeat(where, where)
    if where.dtype == torch.bool:
        return x.masked_fill(where, value) if tracked else x.masked_fill_(where, value)
    return x.scatter(1, where, value) if tracked else x.scatter_(1, where, value)


def sum_negatives(x: Tensor, excluded: Excluded) -> Tensor:
    """Sum ``x [m, K]`` over the negatives, each as often as it counts, ``[m, 1]``; may overwrite x."""
    x = fill(x, excluded, 0.0)
    return (x if excluded.times is None else x * excluded.times).sum(dim=1, keepdim=True)


def logs(x: Tensor, excluded: Excluded) -> Tensor:
    """Add to ``x [m, K]`` the log of how often each column counts, -inf for none; may overwrite x."""
    return fill(x if excluded.times is None else x + excluded.times.log(), excluded, -math.inf)


def weigh(
    strategy: Strategy,
    batch: Batch,
    group: Group,
    d2_of_views: Tensor | None,
    start: int,
    stop: int,
    detach: bool = True,
    transpose: bool = False,
) -> Weighed:
    """Measure the anchors start, ..., stop - 1 of a group of a batch and ask for their weights.

    ``d2_of_views`` are the distances of all positives without labels, by `Batch.other_views`. Distances keep the graph
    of the embeddings; weights have one only if not ``detach``.
    """
    m = stop - start
    a = group.a if m == group.a.shape[0] else group.a[start:stop]
    d2 = distances(a, group.b)
    if group.own is not None:
        own = group.gaps(start, stop).square().sum(dim=2) / 2
        d2 = torch.cat([d2[:, : group.moving], own, d2[:, group.moving :]], dim=1)
    excluded, positives = batch.compare(group, start, stop)
    share: Tensor | float
    if d2_of_views is None:
        assert positives is not None  # as there are labels
        d2_pos, share = positives.of(d2), positives.share
    else:
        d2_pos = d2_of_views if m == d2_of_views.shape[0] else d2_of_views[group.first + start : group.first + stop]
        share = 1 / d2_pos.shape[1]
    seen = (d2_pos.detach(), d2.detach()) if detach and d2.requires_grad else (d2_pos, d2)
    transpose = transpose and positives is None and group.b is group.a and a is group.a and m > _FEW
    transpose = transpose and group.own is None and excluded.times is None and batch.said.exclude is None
    weights = weights_of(strategy, seen[0], share, seen[1], excluded, positives, transpose)
    return Weighed(d2_pos, share, d2, excluded, positives, weights)


def weights_of(
    strategy: Strategy,
    d2_pos: Tensor,
    share: Tensor | float,
    d2: Tensor,
    excluded: Excluded,
    positives: Positives | None = None,
    transpose: bool = False,
) -> Weights:
    """Weigh columns at distances ``d2 [m, K]`` (finite everywhere) against positives at ``d2_pos [m, P]``.

    An anchor gets the mean, with ``share [m, P]`` or one number, of the weights that each positive would give; all 0 if
    it has no negatives or no positives.
    """
    none = excluded.left == 0 if isinstance(excluded.left, Tensor) else None  # [m, 1], anchors without negatives
    if isinstance(share, Tensor):
        without = share.sum(dim=1, keepdim=True) == 0
        none = without if none is None else none | without
    others = positives if positives is not None and positives.negatives_too else None
    if strategy.separable and isinstance(strategy, Separable):
        weights = _separable(strategy, d2_pos, share, d2, excluded, others, transpose)
    else:
        seen = fill(d2.clone(), excluded, math.inf)
        seen = seen if none is None else seen.masked_fill(none, 0.0)
        times = excluded.times if strategy.counts else None
        times = times if times is None or none is None else times.masked_fill(none, 1.0)
        weights = _asked(strategy, d2_pos, share, seen, times, others)
    if none is None:
        return weights
    neg, pos, value, transposed = weights
    value = None if value is None else value * ~none[:, 0]  # 0, but NaN where it was: nothing is hidden
    return Weights(neg.masked_fill(none, 0.0), pos.masked_fill(none, 0.0), value, transposed)


def _separable(
    strategy: Separable,
    d2_pos: Tensor,
    share: Tensor | float,
    d2: Tensor,
    excluded: Excluded,
    others: Positives | None,
    transpose: bool,
) -> Weights:
    """Every positive leaves the same softmax over the negatives; row sums, weights and values are averaged."""
    log_w, left = logs(strategy.log_weight(d2), excluded), excluded.left
    log_v = None if not strategy.uses_totals or (v := strategy.log_mass(d2)) is None else logs(v, excluded)
    if others is not None:
        assert isinstance(excluded.where, Tensor)  # a mask, as there are rules beyond the plain ones
        times = (~excluded.where if excluded.times is None else excluded.times).to(d2.dtype)
        none, at = torch.zeros_like(d2_pos), others.of(times) * (others.share > 0)
        rest = others.replace(times, none)
        log_sum = log_sum_exp(others.replace(log_w, none - math.inf))
        potential = 0.0 if (u := strategy.potential(d2)) is None else (u * rest).sum(dim=1, keepdim=True)
        log_mass = 0.0 if log_v is None else log_sum_exp(others.replace(log_v, none - math.inf))
        totals = Totals(log_sum, potential, rest.sum(dim=1, keepdim=True), log_mass)
        log_scale, neg, pos, value = beside_others(strategy, d2_pos, others.share, at, totals)
        return Weights(others.replace(torch.exp(log_w + log_scale), neg), pos, None if value is None else value[:, 0])
    # The caller drops the weights of an anchor without negatives: no NaN. Softmax is faster than exp, and much faster
    # where weights underflow.
    logits = fill(log_w, Excluded(left == 0, left), 0.0) if isinstance(left, Tensor) else log_w
    neg, log_sum = torch.softmax(logits, dim=1), logits  # the sum if it is looked at
    transpose = transpose and not neg.requires_grad
    if strategy.uses_totals or transpose:
        log_sum = logits.amax(dim=1, keepdim=True) - neg.amax(dim=1, keepdim=True).log()
    totals = Totals(d2, 0.0, 0)  # not looked at
    if strategy.uses_totals:
        u = strategy.potential(d2)
        potential = 0.0 if u is None else sum_negatives(u.clone(), excluded)
        number = left.masked_fill(left == 0, 1).to(d2.dtype) if isinstance(left, Tensor) else left
        log_mass = 0.0 if log_v is None else log_sum_exp(log_v)
        if isinstance(left, Tensor) and isinstance(log_mass, Tensor):
            log_mass = log_mass.masked_fill(left == 0, 0.0)
        totals = Totals(log_sum, potential, number, log_mass)
    row_sum, pos, value = strategy.factors(d2_pos, totals)
    if isinstance(share, Tensor) or share != 1.0:
        row_sum, pos = (share * row_sum).sum(dim=1, keepdim=True), share * pos
        value = None if value is None else (share * value).sum(dim=1, keepdim=True)
    value = None if value is None else value[:, 0]
    # w is symmetric: computing negᵀ is faster than transposing. The clamp is for D_ij and D_ji that round apart.
    transposed = log_w.sub_(log_sum.T).clamp_max_(0.0).exp_().mul_(row_sum.T) if transpose else None
    return Weights(neg * row_sum if neg.requires_grad else neg.mul_(row_sum), pos, value, transposed)


def _asked(
    strategy: Strategy,
    d2_pos: Tensor,
    share: Tensor | float,
    d2_neg: Tensor,
    count: Tensor | None,
    others: Positives | None,
) -> Weights:
    """Ask once for each positive, or once in all if the weights of the negatives do not depend on the positive."""
    share = share if isinstance(share, Tensor) else torch.full_like(d2_pos, share)
    distance, parts = d2_pos.unbind(dim=1), share.unbind(dim=1)
    if not strategy.uses_positive and len(distance) > 1 and others is None:
        distance, parts = ((share * d2_pos).sum(dim=1),), (torch.ones_like(parts[0]),)
    neg, pos, value = None, [], None  # type: Tensor | None, list[Tensor], Tensor | None
    for p, (d, part) in enumerate(zip(distance, parts, strict=True)):
        seen = d2_neg if others is None else others.hide(p, d2_neg)
        if others is not None:  # is anything left?
            empty = (seen == math.inf).all(dim=1, keepdim=True)
            seen, part = seen.masked_fill(empty, 0.0), part.masked_fill(empty[:, 0], 0.0)
        one_neg, one_pos, one_value = strategy(d, seen, *([] if count is None else [count]))
        pos.append(part * (one_neg.sum(dim=1) if one_pos is None else one_pos))
        if len(parts) > 1 or others is not None:
            one_value = None if one_value is None else part * one_value
            one_neg = part[:, None] * one_neg if neg is None else torch.addcmul(neg, part[:, None], one_neg)
        neg, value = one_neg, one_value if value is None or one_value is None else value + one_value
    assert neg is not None  # as there is a positive
    all_pos = torch.stack(pos, dim=1) if len(pos) == d2_pos.shape[1] else share * pos[0][:, None]
    return Weights(neg, all_pos, value)
