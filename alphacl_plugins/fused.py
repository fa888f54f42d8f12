"""The loss and its gradient by the kernels of `alphacl_plugins.softmax_kernel`, instead of block by block.

Beside the kernels stand only sums over D columns: the positives, and the constants of each anchor. What remains in
memory, here too, has the size of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from alphacl_plugins.strategies import Strategy, Tempered
from alphacl_plugins.strategies.factored import Exponent, Factored, Totals

if TYPE_CHECKING:
    from alphacl_plugins.softmax_kernel import Side

Views = tuple[Sequence[int], Sequence[int]]  # of some anchors, and of their candidates


class Fused(NamedTuple):
    """What the blocks bring together: of the M anchors, and the gradient of the sum of their losses."""

    d2_pos: Tensor  # [M], mean
    d2_neg: Tensor  # scalar, sum over all pairs
    number: int  # of these pairs
    entropy: Tensor  # [M]
    minus_energy: Tensor  # [M]
    value: Tensor | None  # [M]; None stands for -E
    gradient: Tensor | None  # [V, n, D]


def exponent_of(strategy: Strategy) -> Exponent | None:
    """The exponent by which the kernels form a strategy's weights; None: they cannot."""
    if isinstance(strategy, nn.Module) and not isinstance(strategy, Tempered):
        return None  # its parameters are to have a gradient
    factored: Factored | None = getattr(strategy, "factored", None)
    return None if factored is None else factored.exponent


def check_strategy(strategy: Strategy) -> None:
    """Raise unless the kernels can form the weights of the strategy."""
    if exponent_of(strategy) is None:
        raise ValueError(
            f'block_size: expected "auto", an int >= 1 or None with {strategy!r}, got "kernel", which needs weights '
            "α_j = c · exp(-D_j^p / τ): the softmax types, such as InfoNCE, Entropy, Direct and DHEL"
        )


def fused_outcome(
    strategy: Strategy,
    embeddings: Tensor,
    queue: Tensor | None,
    own: range,
    groups: Sequence[Views],
    weights: Tensor | None,
    with_gradient: bool,
) -> Fused:
    """Compare all anchors with their candidates; the gradient counts the anchors with ``weights [M]`` (None: 1).

    Shape: ``[V, n, D]``, queue ``[Q, D]``, float32; ``own`` says which of the n samples are this rank's, its anchors.
    """
    from alphacl_plugins import softmax_kernel as kernel

    _check_embeddings(embeddings, kernel.device_types())
    factored, exponent = strategy.factored, exponent_of(strategy)  # type: ignore[attr-defined]
    assert exponent is not None  # as check_strategy has seen
    sides = [_sides(embeddings, queue, own, views) for views in groups]
    sums = [kernel.sum_rows(*pair, exponent) for pair in sides]
    weight, spread, energy, d2_neg, top = (torch.cat(parts) for parts in zip(*sums, strict=True))
    number = len(sides[0][1].samples) - len(groups[0][1])  # of candidates; each has as many

    gaps = _gaps(embeddings, own, sum(len(anchors) for anchors, _ in groups))
    d2_pos = gaps.square().sum(dim=-1).flatten(1).T / 2
    totals = Totals((top + weight.log())[:, None], weight.new_zeros(()), weight.new_full((1, 1), number))
    mass, pos, value = factored.factors(d2_pos, totals)
    mass, pos = mass.mean(dim=1), pos / len(gaps)
    of_anchors = Fused(
        d2_pos.mean(dim=1),
        d2_neg.sum(),
        number * len(d2_neg),
        torch.where(mass > 0, weight.log() - spread / weight, 0.0),
        (pos * d2_pos).sum(dim=1) - mass * energy / weight,
        None if value is None else value.mean(dim=1),
        None,
    )
    if not with_gradient:
        return of_anchors
    scale = mass / weight
    if weights is not None:
        scale, pos = weights * scale, weights[:, None] * pos
    gradient = _of_positives(embeddings, own, gaps, pos)
    sizes = [len(anchors.samples) for anchors, _ in sides]
    constants = torch.split(torch.stack([top, scale]), sizes, dim=1)
    for views, pair, of_group in zip(groups, sides, constants, strict=True):
        _add_pulls(gradient, own, views, pair, of_group, exponent)
    return of_anchors._replace(gradient=gradient)


def _check_embeddings(embeddings: Tensor, device_types: Sequence[str]) -> None:
    if embeddings.dtype != torch.float32:
        raise TypeError(
            f'z: expected float32, float16 or bfloat16 with block_size="kernel", got an input of {embeddings.dtype}'
        )
    if embeddings.device.type not in device_types:
        raise ValueError(
            f'z: expected a tensor on a GPU with block_size="kernel", got one on {embeddings.device}; "auto" is for any'
        )


def _sides(embeddings: Tensor, queue: Tensor | None, own: range, views: Views) -> tuple[Side, Side]:
    """Anchors and candidates, the queue's last; the same object where they are one set."""
    from alphacl_plugins.softmax_kernel import side

    anchor_views, candidate_views = views
    samples = torch.arange(embeddings.shape[1], device=embeddings.device)
    candidates, of_candidates = [embeddings[view] for view in candidate_views], [samples] * len(candidate_views)
    if queue is None and list(anchor_views) == list(candidate_views) and len(own) == len(samples):
        both = side(torch.cat(candidates), torch.cat(of_candidates))
        return both, both
    mine = slice(own.start, own.stop)
    anchors = [embeddings[view, mine] for view in anchor_views]
    if queue is not None:
        candidates, of_candidates = [*candidates, queue], [*of_candidates, samples.new_full((len(queue),), -1)]
    of_anchors = samples[mine].repeat(len(anchors))
    return side(torch.cat(anchors), of_anchors), side(torch.cat(candidates), torch.cat(of_candidates))


def _gaps(embeddings: Tensor, own: range, n_anchor_views: int) -> Tensor:
    """From each positive to its anchor, ``[V - 1, anchor views, own, D]``: the sample's other views, in turn."""
    here = embeddings[:, own.start : own.stop]
    others = [here.roll(-shift, dims=0)[:n_anchor_views] for shift in range(1, len(embeddings))]
    return here[:n_anchor_views] - torch.stack(others)


def _of_positives(embeddings: Tensor, own: range, gaps: Tensor, weights: Tensor) -> Tensor:
    """Gradient of ``Σ_ip weights_ip D_ip``. Shape: ``[M, V - 1]`` weights -> ``[V, n, D]``."""
    gradient = torch.zeros_like(embeddings)
    mine, n_views = gradient[:, own.start : own.stop], len(embeddings)
    pulls = weights.T.reshape(gaps.shape[:3])[..., None] * gaps
    mine[: pulls.shape[1]] += pulls.sum(dim=0)
    for shift, of_shift in enumerate(pulls, start=1):
        for view, part in enumerate(of_shift):
            mine[(view + shift) % n_views] -= part
    return gradient


def _add_pulls(
    gradient: Tensor,
    own: range,
    views: Views,
    pair: tuple[Side, Side],
    constants: Tensor,
    exponent: Exponent,
) -> None:
    """Add the gradient of ``-Σ_ij α_ij D_ij``, of which each anchor's constants are top and scale, ``[2, m]``."""
    from alphacl_plugins.softmax_kernel import Side, pull

    (anchor_views, candidate_views), (anchors, candidates), n = views, pair, gradient.shape[1]
    if anchors is candidates:
        of_both = pull(anchors, anchors, constants, exponent, by_row=True, by_column=True)
        for view, part in zip(anchor_views, torch.split(of_both, n), strict=True):
            gradient[view] -= part
        return
    of_anchors = pull(anchors, candidates, constants, exponent, by_row=True, by_column=False)
    for view, part in zip(anchor_views, torch.split(of_anchors, len(own)), strict=True):
        gradient[view, own.start : own.stop] -= part
    if candidate_views:  # the queue takes no gradient
        moving = Side(*(part[: len(candidate_views) * n] for part in candidates))
        of_candidates = pull(moving, anchors, constants, exponent, by_row=False, by_column=True)
        for view, part in zip(candidate_views, torch.split(of_candidates, n), strict=True):
            gradient[view] -= part
