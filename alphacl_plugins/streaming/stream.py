"""One pass over the anchors, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.functional import through_normalization, unit_and_length
from alphacl_plugins.pairs import anchor_groups
from alphacl_plugins.strategies import Strategy, Tempered
from alphacl_plugins.streaming.by_anchor import ByAnchor
from alphacl_plugins.streaming.fused import pass_by_kernel
from alphacl_plugins.streaming.groups import Group
from alphacl_plugins.streaming.known_gradient import with_gradient, with_gradient_on_demand
from alphacl_plugins.streaming.passed import Passed, Tally, Views
from alphacl_plugins.streaming.positives import OtherViews, SameClass, Samples
from alphacl_plugins.streaming.rows import Excluded, form_rows

_AT_ONCE = 2**20  # distances: larger blocks leave the caches of a CPU
_AT_ONCE_SOLVED = 2**19  # where a strategy solves for its weights, with more matrices of that size
_LEAST_ROWS = 128  # smaller blocks make slow products


def automatic_block(strategy: Strategy, n_anchors: int, n_candidates: int) -> int:
    """How many anchors to compare at once: all of them, if the matrix of distances is small."""
    at_once = _AT_ONCE_SOLVED if getattr(strategy, "factored", None) is None else _AT_ONCE
    return min(n_anchors, max(_LEAST_ROWS, at_once // max(n_candidates, 1)))


class Step(NamedTuple):
    """The anchors that are compared at once: some of one group, or all of all groups."""

    anchors: slice  # in the order of the loss
    blocks: list[tuple[Group, slice]]  # the same, counted in each group


@dataclass(frozen=True)
class Stream:
    """Everything but the embeddings; those are ``stacked [V, n, D]``, of all ranks.

    Args:
        strategy: the rule.
        negatives, symmetric: as in `alphacl_plugins.AlphaCLLoss`.
        normalize: whether rows are still to be scaled to length 1.
        labels: classes ``[n]``, or None.
        queue: further candidates ``[Q, D]``, or None.
        own: which of the n samples are this rank's, its anchors.
        block: how many anchors are compared at once, or "kernel": no matrix at all.
    """

    strategy: Strategy
    negatives: str
    symmetric: bool
    normalize: bool
    labels: Tensor | None
    queue: Tensor | None
    own: range
    block: int | str

    def loss(self, stacked: Tensor, reduction: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, "mean" or "none" (of each anchor), and the statistics of the batch."""
        mean, differentiable = reduction == "mean", torch.is_grad_enabled()
        minus_energy, value, gradient, tally = self.outcome(stacked, with_gradient=mean and differentiable)
        loss = minus_energy if value is None else value
        assert loss is not None  # as `outcome` forms -E where there is no value
        loss = loss.mean() if mean else loss
        if isinstance(self.strategy, Tempered) and minus_energy is not None:
            loss = self.strategy.learn_from(loss, -minus_energy.mean() if mean else -minus_energy)
        if gradient is not None:
            loss = with_gradient(stacked, gradient, loss)
        elif differentiable:
            loss = with_gradient_on_demand(stacked, loss, self)
        return loss, tally.stats()

    def outcome(self, stacked: Tensor, weights: Tensor | None = None, *, with_gradient: bool = True) -> Passed:
        """Losses of the anchors, and the gradient of their sum with ``weights [M]`` (None: of their mean)."""
        embeddings, length = stacked.detach(), None
        if self.normalize:
            embeddings, length = unit_and_length(embeddings)
        centre = embeddings.mean(dim=(0, 1))  # distances do not depend on the origin, but their rounding does
        queue = None if self.queue is None else self.queue - centre
        n_views = len(stacked)
        samples = Samples(embeddings - centre, self.own, n_views if self.symmetric else 1, self.labels, queue)
        views = anchor_groups(self.negatives, self.symmetric, n_views)
        if isinstance(self.block, str):
            passed = pass_by_kernel(self.strategy, samples, views, weights, with_gradient)
        else:
            passed = self._pass_by_blocks(self.block, samples, views, weights, with_gradient)
        gradient = passed.gradient
        if gradient is not None:
            gradient = gradient.div_(samples.n_anchors) if weights is None else gradient
            gradient = gradient if length is None else through_normalization(gradient, embeddings, length)
        return passed._replace(gradient=gradient)

    def gradient(self, stacked: Tensor, weights: Tensor) -> Tensor:
        """Form the gradient of ``Σ_i weights_i loss_i`` once more."""
        gradient = self.outcome(stacked, weights).gradient
        assert gradient is not None  # as it is wanted
        return gradient

    def _pass_by_blocks(
        self, block: int, samples: Samples, views: Sequence[Views], weights: Tensor | None, with_gradient: bool
    ) -> Passed:
        groups = [Group(samples, *of_group) for of_group in views]
        positives = OtherViews(samples) if samples.labels is None else SameClass(samples, samples.labels)
        value, minus_energy, tally = ByAnchor(samples.n_anchors), ByAnchor(samples.n_anchors), None
        for step in _steps(groups, block):
            part = self._compare(step, positives, weights, with_gradient)
            tally = part.tally if tally is None else tally.add_(part.tally)
            if part.value is not None:
                value.write(step.anchors, part.value)
            if part.minus_energy is not None:
                minus_energy.write(step.anchors, part.minus_energy)
        assert tally is not None  # as there are anchors
        gradient = None
        if with_gradient:
            gradient = positives.gradient()
            for group in groups:
                group.subtract_gradient(gradient)
        return Passed(minus_energy.read(), value.read(), gradient, tally)

    def _compare(
        self, step: Step, positives: OtherViews | SameClass, weights: Tensor | None, with_gradient: bool
    ) -> Passed:
        """Compare some anchors; their gradient stays with the groups and positives. Distances end with the call."""
        anchors, blocks = step
        d2_neg, excluded = _stacked([group.measure(i) for group, i in blocks])
        d2_pos, share = positives.measure(anchors)
        rows = form_rows(self.strategy, d2_pos, share, d2_neg, excluded)
        total_pos = torch.dot(share.flatten(), d2_pos.flatten())
        tally = Tally(total_pos, d2_neg.sum(), excluded.total_left(d2_neg), rows.entropy.sum(), len(d2_neg))
        minus_energy = None
        if rows.value is None or self._learns:
            energy = rows.scaled(torch.linalg.vecdot(rows.neg, d2_neg)[:, None])[:, 0]
            minus_energy = torch.linalg.vecdot(rows.pos, d2_pos) - energy
        del d2_neg  # its memory serves once more
        if with_gradient:
            weighted = rows if weights is None else rows.times(weights[anchors, None])
            positives.weigh(anchors, weighted.pos)
            for (group, i), part in zip(blocks, weighted.split([i.stop - i.start for _, i in blocks]), strict=True):
                group.weigh(i, part.neg, part.scale)
        return Passed(minus_energy, rows.value, None, tally)

    @property
    def _learns(self) -> bool:
        """Whether a temperature learns from the energy."""
        return isinstance(self.strategy, Tempered) and self.strategy.learnable


def _steps(groups: Sequence[Group], block: int) -> Iterator[Step]:
    n_anchors = sum(group.n_anchors for group in groups)
    if block >= n_anchors:
        yield Step(slice(0, n_anchors), [(group, slice(0, group.n_anchors)) for group in groups])
        return
    first = 0
    for group in groups:
        for start in range(0, group.n_anchors, block):
            stop = min(start + block, group.n_anchors)
            yield Step(slice(first + start, first + stop), [(group, slice(start, stop))])
        first += group.n_anchors


def _stacked(parts: list[tuple[Tensor, Excluded]]) -> tuple[Tensor, Excluded]:
    if len(parts) == 1:
        return parts[0]
    d2_neg, excluded = zip(*parts, strict=True)
    return torch.cat(d2_neg), Excluded.stack(excluded)
