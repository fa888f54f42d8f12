"""The loss and its gradient by the kernels of `alphacl_plugins.streaming.softmax_kernel`, instead of block by block.

Beside the kernels stand only sums over D columns: the positives, and the constants of each anchor. What remains in
memory, here too, has the size of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alphacl_plugins.strategies import Strategy, Tempered
from alphacl_plugins.strategies.factored import Exponent, Factored, Totals
from alphacl_plugins.streaming.groups import subtract
from alphacl_plugins.streaming.passed import Passed, Tally, Views
from alphacl_plugins.streaming.positives import OtherViews, Samples

if TYPE_CHECKING:
    from alphacl_plugins.streaming.softmax_kernel import Side


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


def pass_by_kernel(
    strategy: Strategy, samples: Samples, groups: Sequence[Views], weights: Tensor | None, with_gradient: bool
) -> Passed:
    """Compare all anchors with their candidates; the gradient counts the anchors with ``weights [M]`` (None: 1)."""
    from alphacl_plugins.streaming import softmax_kernel as kernel

    _check_samples(samples, kernel.device_types())
    factored, exponent = strategy.factored, exponent_of(strategy)  # type: ignore[attr-defined]
    assert exponent is not None  # as check_strategy has seen
    sides = [_sides(samples, views) for views in groups]
    sums = [kernel.sum_rows(*pair, exponent) for pair in sides]
    weight, spread, energy, d2_neg, top = (torch.cat(parts)[:, None] for parts in zip(*sums, strict=True))
    number = len(sides[0][1].samples) - len(groups[0][1])  # of candidates; each anchor has as many

    positives, everything = OtherViews(samples), slice(0, samples.n_anchors)
    d2_pos, share = positives.measure(everything)
    mass, pos, value = factored.factors(d2_pos, Totals(top + weight.log(), 0.0, number))
    mass, pos = (share * mass).sum(dim=1, keepdim=True), share * pos
    entropy = torch.where(mass > 0, weight.log() - spread / weight, 0.0)
    passed = Passed(
        torch.linalg.vecdot(pos, d2_pos) - (mass * energy / weight)[:, 0],
        None if value is None else (share * value).sum(dim=1),
        None,
        Tally((share * d2_pos).sum(), d2_neg.sum(), number * len(d2_neg), entropy.sum(), len(d2_neg)),
    )
    if not with_gradient:
        return passed
    scale = mass / weight
    if weights is not None:
        scale, pos = weights[:, None] * scale, weights[:, None] * pos
    positives.weigh(everything, pos)
    gradient = positives.gradient()
    sizes = [len(anchors.samples) for anchors, _ in sides]
    constants = torch.split(torch.stack([top[:, 0], scale[:, 0]]), sizes, dim=1)
    for views, pair, of_group in zip(groups, sides, constants, strict=True):
        _subtract_pulls(gradient, samples, views, pair, of_group, exponent)
    return passed._replace(gradient=gradient)


def _check_samples(samples: Samples, device_types: Sequence[str]) -> None:
    if samples.labels is not None:
        raise ValueError('labels: expected None with block_size="kernel"; "auto" and an int take labels')
    dtype, device = samples.embeddings.dtype, samples.embeddings.device
    if dtype != torch.float32:
        raise TypeError(f'z: expected float32, float16 or bfloat16 with block_size="kernel", got an input of {dtype}')
    if device.type not in device_types:
        raise ValueError(
            f'z: expected a tensor on a GPU with block_size="kernel", got one on {device}; "auto" is for any'
        )


def _sides(samples: Samples, views: Views) -> tuple[Side, Side]:
    """Anchors and candidates, the queue's last; the same object where they are one set."""
    from alphacl_plugins.streaming.softmax_kernel import side

    (anchor_views, candidate_views), (embeddings, own, _, _, queue) = views, samples
    index = torch.arange(embeddings.shape[1], device=embeddings.device)
    candidates, of_candidates = [embeddings[view] for view in candidate_views], [index] * len(candidate_views)
    if queue is None and list(anchor_views) == list(candidate_views) and len(own) == len(index):
        both = side(torch.cat(candidates), torch.cat(of_candidates))
        return both, both
    anchors = [samples.ours(embeddings)[view] for view in anchor_views]
    if queue is not None:
        candidates, of_candidates = [*candidates, queue], [*of_candidates, index.new_full((len(queue),), -1)]
    of_anchors = index[own.start : own.stop].repeat(len(anchors))
    return side(torch.cat(anchors), of_anchors), side(torch.cat(candidates), torch.cat(of_candidates))


def _subtract_pulls(
    gradient: Tensor, samples: Samples, views: Views, pair: tuple[Side, Side], constants: Tensor, exponent: Exponent
) -> None:
    """Subtract the gradient of ``Σ_ij α_ij D_ij``, of which each anchor's constants are top and scale, ``[2, m]``."""
    from alphacl_plugins.streaming.softmax_kernel import Side, pull

    (anchor_views, candidate_views), (anchors, candidates), n = views, pair, gradient.shape[1]
    if anchors is candidates:
        of_both = pull(anchors, anchors, constants, exponent, by_row=True, by_column=True)
        subtract(gradient, anchor_views, of_both)
        return
    of_anchors = pull(anchors, candidates, constants, exponent, by_row=True, by_column=False)
    subtract(samples.ours(gradient), anchor_views, of_anchors)
    if candidate_views:  # the queue takes no gradient
        moving = Side(*(part[: len(candidate_views) * n] for part in candidates))
        of_candidates = pull(moving, anchors, constants, exponent, by_row=False, by_column=True)
        subtract(gradient, candidate_views, of_candidates)
