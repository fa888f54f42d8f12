"""The loss and its gradient block by block, without the N x N matrix.

With α held fixed the gradient of ``-E = Σ_i (Σ_p α_ip D_ip - Σ_j α_ij D_ij)`` is linear in α (Theorem 1), so it can be
formed while the distances of a block of anchors are at hand, for every strategy, since strategies are row-wise. What
remains in memory has the size of the embeddings. A batch that fits is one block, whose α is whole: where anchors and
candidates are the same set, one product with ``α + αᵀ`` is then the gradient for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.functional import through_normalization, unit_and_length
from alphacl_plugins.fused import Fused, fused_outcome
from alphacl_plugins.groups import Group, GroupedBatch, Measured
from alphacl_plugins.known_gradient import with_gradient, with_gradient_on_demand
from alphacl_plugins.pairs import anchor_groups
from alphacl_plugins.rows import Rows, form_rows
from alphacl_plugins.strategies import Strategy, Tempered

_AT_ONCE = 2**20  # distances: larger blocks leave the caches of a CPU
_LEAST_ROWS = 128  # smaller blocks make slow products


def automatic_block(n_anchors: int, n_candidates: int) -> int:
    """How many anchors to compare at once: all of them, if the matrix of distances is small."""
    return min(n_anchors, max(_LEAST_ROWS, _AT_ONCE // max(n_candidates, 1)))


Block = tuple[Group, slice]


class Outcome(NamedTuple):
    """What is known once all blocks have passed."""

    minus_energy: Tensor  # [M]; of a whole batch with its gradient, only their mean is meant
    value: Tensor | None  # [M]; None stands for -E
    gradient: Tensor | None  # like the embeddings
    stats: dict[str, Tensor]


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
        minus_energy, value, gradient, stats = self.outcome(stacked, with_gradient=mean and differentiable)
        if mean:
            minus_energy, value = minus_energy.mean(), None if value is None else value.mean()
        loss = minus_energy if value is None else value
        if isinstance(self.strategy, Tempered) and self.strategy.learnable:
            loss = self.strategy.learn_from(loss, -minus_energy)
        if gradient is not None:
            loss = with_gradient(stacked, gradient, loss)
        elif differentiable:
            loss = with_gradient_on_demand(stacked, loss, self)
        return loss, stats

    def outcome(self, stacked: Tensor, weights: Tensor | None = None, *, with_gradient: bool = True) -> Outcome:
        """Losses of the anchors, and the gradient of their sum with ``weights [M]`` (None: of their mean)."""
        embeddings, length = stacked.detach(), None
        if self.normalize:
            embeddings, length = unit_and_length(embeddings)
        centre = embeddings.mean(dim=(0, 1))  # distances do not depend on the origin, but their rounding does
        centred, queue = embeddings - centre, None if self.queue is None else self.queue - centre
        if isinstance(self.block, str):
            sums, gradient = self._by_kernel(centred, queue, weights, with_gradient)
        else:
            sums, gradient = self._by_blocks(self.block, centred, queue, weights, with_gradient)
        if gradient is not None:
            gradient = gradient if weights is not None else gradient.div_(sums.n_anchors())
            gradient = gradient if length is None else through_normalization(gradient, embeddings, length)
        return sums.outcome(gradient)

    def _by_blocks(
        self, block: int, centred: Tensor, queue: Tensor | None, weights: Tensor | None, with_gradient: bool
    ) -> tuple[_Sums, Tensor | None]:
        groups, sums = self._groups(centred, queue, weights, with_gradient), _Sums()
        for blocks in _steps(groups, block):
            self._compare(blocks, sums)
        if not with_gradient:
            return sums, None
        gradient = torch.zeros_like(centred)
        for group in groups:
            group.add_gradient(gradient)
        return sums, gradient

    def _by_kernel(
        self, centred: Tensor, queue: Tensor | None, weights: Tensor | None, with_gradient: bool
    ) -> tuple[_Sums, Tensor | None]:
        if self.labels is not None:
            raise ValueError('labels: expected None with block_size="kernel"; "auto" and an int take labels')
        views, sums = anchor_groups(self.negatives, self.symmetric, len(centred)), _Sums()
        fused = fused_outcome(self.strategy, centred, queue, self.own, views, weights, with_gradient)
        sums.add_fused(fused)
        return sums, fused.gradient

    def gradient(self, stacked: Tensor, weights: Tensor) -> Tensor:
        """Form the gradient of ``Σ_i weights_i loss_i`` once more."""
        gradient = self.outcome(stacked, weights).gradient
        assert gradient is not None  # as it is wanted
        return gradient

    def _groups(
        self, embeddings: Tensor, queue: Tensor | None, weights: Tensor | None, with_gradient: bool
    ) -> list[Group]:
        views = anchor_groups(self.negatives, self.symmetric, len(embeddings))
        batch = GroupedBatch(embeddings, self.own, self.labels, queue, with_gradient)
        of_groups = [None] * len(views) if weights is None else weights[:, None].chunk(len(views))
        return [Group(batch, *ours, part) for ours, part in zip(views, of_groups, strict=True)]

    def _compare(self, blocks: list[Block], sums: _Sums) -> None:
        measured = Measured.stack([group.measure(i) for group, i in blocks])
        rows = form_rows(self.strategy, *measured)
        sums.add(measured, rows)
        sizes = [i.stop - i.start for _, i in blocks]
        for (group, i), d2_pos, part in zip(
            blocks, torch.split(measured.d2_pos, sizes), rows.split(sizes), strict=True
        ):
            sums.minus_energy.append((part.pos * d2_pos).sum(dim=1) - group.weigh(i, part))


class _Sums:
    """What grows while the blocks pass."""

    def __init__(self) -> None:
        self.minus_energy: list[Tensor] = []
        self._value: list[Tensor] = []
        self._entropy: list[Tensor] = []
        self._d2_pos: list[Tensor] = []
        self._d2_neg: list[Tensor] = []
        self._number: Tensor | int = 0

    def add(self, measured: Measured, rows: Rows) -> None:
        """Take in the distances of a block and what the strategy made of them."""
        self._d2_pos.append((measured.share * measured.d2_pos).sum(dim=1))
        self._d2_neg.append(measured.d2_neg.sum())
        self._number += measured.excluded.total_left(measured.d2_neg)
        self._entropy.append(rows.entropy)
        if rows.value is not None:
            self._value.append(rows.value)

    def add_fused(self, fused: Fused) -> None:
        """Take in what the kernels made of all anchors."""
        self._d2_pos.append(fused.d2_pos)
        self._d2_neg.append(fused.d2_neg)
        self._number += fused.number
        self._entropy.append(fused.entropy)
        self.minus_energy.append(fused.minus_energy)
        if fused.value is not None:
            self._value.append(fused.value)

    def n_anchors(self) -> int:
        """M."""
        return sum(len(entropy) for entropy in self._entropy)

    def outcome(self, gradient: Tensor | None) -> Outcome:
        """Bring the blocks together."""
        entropy = _together(self._entropy).mean()
        number = self._number.clamp_min(1) if isinstance(self._number, Tensor) else self._number
        stats = {
            "d2_pos": _together(self._d2_pos).mean(),
            "d2_neg": torch.stack(self._d2_neg).sum() / number,
            "alpha_entropy": entropy,
            "effective_negatives": entropy.exp(),
        }
        return Outcome(_together(self.minus_energy), _together(self._value) if self._value else None, gradient, stats)


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _steps(groups: Sequence[Group], block: int) -> Iterator[list[Block]]:
    """The anchors that are compared at once: some of one group, or all of all groups."""
    if block >= sum(len(group.rows) for group in groups):
        yield [(group, slice(0, len(group.rows))) for group in groups]
        return
    for group in groups:
        for start in range(0, len(group.rows), block):
            yield [(group, slice(start, min(start + block, len(group.rows))))]
