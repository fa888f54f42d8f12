"""Anchors that share their candidates, and the gradient that their weights make, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphacl_plugins.rows import Excluded, Rows
from alphacl_plugins.weighted_distances import (
    as_columns,
    as_rows,
    distances,
    energy_of_rows,
    gradient_of_columns,
    gradient_of_rows,
    swapped,
)


class GroupedBatch(NamedTuple):
    """What all groups share."""

    embeddings: Tensor  # of all ranks, [V, n, D]
    own: range  # which of the n samples are this rank's, its anchors
    labels: Tensor | None  # [n]
    queue: Tensor | None  # [Q, D]
    with_gradient: bool

    def view(self, view: int) -> Tensor:
        """This rank's samples in a view, counted on from the last to the first."""
        return self.embeddings[view % len(self.embeddings), self.own.start : self.own.stop]


class Measured(NamedTuple):
    """Distances of m anchors."""

    d2_pos: Tensor  # [m, P]
    share: Tensor  # [m, P], of each positive in the mean
    d2_neg: Tensor  # [m, K], 0 where excluded
    excluded: Excluded

    @staticmethod
    def stack(parts: Sequence[Measured]) -> Measured:
        """Put those of several groups below each other."""
        if len(parts) == 1:
            return parts[0]
        d2_pos, share, d2_neg, excluded = zip(*parts, strict=True)
        return Measured(torch.cat(d2_pos), torch.cat(share), torch.cat(d2_neg), Excluded.stack(excluded))


class Group:
    """The anchors of some views, and the candidates in some views and in the queue.

    Args:
        batch: the embeddings.
        anchor_views: views that give the M anchors.
        candidate_views: views in which the candidates lie.
        weights: of the anchors in the gradient, ``[M, 1]``; None: 1.
    """

    def __init__(
        self, batch: GroupedBatch, anchor_views: Sequence[int], candidate_views: Sequence[int], weights: Tensor | None
    ) -> None:
        self.batch, self.anchor_views, self.candidate_views = batch, anchor_views, candidate_views
        n_views, n, _ = batch.embeddings.shape
        self._takes = len(candidate_views) * n  # columns that take a gradient: not the queue
        self._same_set = len(anchor_views) == len(candidate_views) == n_views and len(batch.own) == n
        self._same_set = self._same_set and batch.queue is None
        if self._same_set:
            self.rows = as_rows(batch.embeddings.flatten(0, 1))
            self._columns = swapped(self.rows)
        else:
            candidates = [batch.embeddings[view] for view in candidate_views]
            self.rows = as_rows(torch.cat([batch.view(view) for view in anchor_views]))
            self._columns = as_columns(torch.cat(candidates if batch.queue is None else [*candidates, batch.queue]))
        self.samples = torch.arange(batch.own.start, batch.own.stop, device=self.rows.device).repeat(len(anchor_views))
        self._weights = weights
        self._positives = _OtherViews(self) if batch.labels is None else _SameClass(self)
        self._of_anchors: list[Tensor] = []
        self._pulled: Tensor | None = None

    def measure(self, i: slice) -> Measured:
        """Distances of the anchors i."""
        excluded = self._excluded(i)
        d2_neg = excluded.fill_(distances(self.rows[i], self._columns), 0.0)
        return Measured(*self._positives.measure(i), d2_neg, excluded)

    def weigh(self, i: slice, rows: Rows) -> Tensor:
        """Energy ``Σ_j α_ij D_ij`` of the anchors i, which come in order; its gradient is remembered.

        With a gradient, the energies of all anchors at once are right in their sum only.
        """
        left = self.rows[i]
        if not self.batch.with_gradient:
            return energy_of_rows(left, rows.scaled(rows.neg @ self._columns))
        self._positives.pull(i, rows.pos if self._weights is None else self._weights[i] * rows.pos)
        if self._same_set and self._weights is None and len(left) == len(self.rows):
            alpha = rows.scaled(rows.neg)
            both_ways = alpha.T.contiguous().add_(alpha) @ self._columns  # a plain sum reads the transpose slowly
            self._of_anchors.append(gradient_of_rows(left, both_ways))
            return energy_of_rows(left, both_ways) / 2
        weighted = rows.scaled(rows.neg @ self._columns)
        of_anchors = gradient_of_rows(left, weighted)
        self._of_anchors.append(of_anchors if self._weights is None else self._weights[i] * of_anchors)
        scaled = rows.scaled(left if self._weights is None else self._weights[i] * left)
        self._pulled = _grown(self._pulled, rows.neg[:, : self._takes].T @ scaled)
        return energy_of_rows(left, weighted)

    def add_gradient(self, gradient: Tensor) -> None:
        """Add that of all weighted distances, the positives' minus the candidates', to that of the embeddings."""
        of_anchors = self._positives.add_gradient(gradient) - torch.cat(self._of_anchors)
        own, n = slice(self.batch.own.start, self.batch.own.stop), gradient.shape[1]
        if self._same_set:
            gradient += of_anchors.view_as(gradient)
            if self._pulled is not None:
                gradient -= gradient_of_columns(self._columns, self._pulled).view_as(gradient)
            return
        for view, part in zip(self.anchor_views, of_anchors.chunk(len(self.anchor_views)), strict=True):
            gradient[view, own] += part
        if self._pulled is None:
            return
        of_candidates = gradient_of_columns(self._columns[: self._takes], self._pulled)
        for view, part in zip(self.candidate_views, torch.split(of_candidates, n), strict=False):
            gradient[view] -= part

    def _excluded(self, i: slice) -> Excluded:
        """Candidates of the anchors i that are none: their own sample, or with labels those of their class."""
        labels = self.batch.labels
        if labels is None:
            n = self.batch.embeddings.shape[1]
            return Excluded(self.samples[i, None] + torch.arange(0, self._takes, n, device=self.rows.device))
        same_class = labels[self.samples[i], None] == labels.repeat(len(self.candidate_views))
        return Excluded(pad(same_class, (0, len(self._columns) - self._takes)))


class _OtherViews:
    """Positives without labels: the anchor's sample in every other view."""

    def __init__(self, group: Group) -> None:
        self._group = group
        n_others = len(group.batch.embeddings) - 1
        anchors = group.rows[:, :-2]
        self._gaps = [anchors - self._samples(shift) for shift in range(1, n_others + 1)]
        self._d2 = torch.stack([gap.square().sum(dim=1) for gap in self._gaps], dim=1) / 2
        self._share = torch.full_like(self._d2, 1 / n_others)
        self._weights: list[Tensor] = []

    def measure(self, i: slice) -> tuple[Tensor, Tensor]:
        """Distances of the anchors i, and the share of each in the mean, ``[m, P]``."""
        return self._d2[i], self._share[i]

    def pull(self, i: slice, weights: Tensor) -> None:
        """Take in the weights ``[m, P]`` of the anchors i, which come in order."""
        self._weights.append(weights)

    def add_gradient(self, gradient: Tensor) -> Tensor:
        """Add that of the weighted distances for the positives; return that for the anchors, ``[M, D]``."""
        group, weights = self._group, torch.cat(self._weights)
        own, n_views = slice(group.batch.own.start, group.batch.own.stop), len(gradient)
        pulls = [weight[:, None] * gap for weight, gap in zip(weights.unbind(dim=1), self._gaps, strict=True)]
        for shift, pull in enumerate(pulls, start=1):
            for view, part in zip(group.anchor_views, pull.chunk(len(group.anchor_views)), strict=True):
                gradient[(view + shift) % n_views, own] -= part
        return pulls[0] if len(pulls) == 1 else torch.stack(pulls).sum(dim=0)

    def _samples(self, shift: int) -> Tensor:
        """The anchors' samples, ``shift`` views on, ``[M, D]``."""
        return torch.cat([self._group.batch.view(view + shift) for view in self._group.anchor_views])


class _SameClass:
    """Positives with labels: every other row of the anchor's class, in any view."""

    def __init__(self, group: Group) -> None:
        batch = group.batch
        self._rows, self._columns = group.rows, as_columns(batch.embeddings.flatten(0, 1))
        self._pulled = torch.zeros_like(self._columns)
        self._of_anchors: list[Tensor] = []
        assert batch.labels is not None
        self._classes, self._of_columns = batch.labels[group.samples], batch.labels.repeat(len(batch.embeddings))
        views = torch.tensor(group.anchor_views, device=group.rows.device).repeat_interleave(len(batch.own))
        self._itself = group.samples + views * batch.embeddings.shape[1]

    def measure(self, i: slice) -> tuple[Tensor, Tensor]:
        """Distances of the anchors i to all rows, and the share of each in the mean, ``[m, P]``."""
        positive = self._classes[i, None] == self._of_columns
        positive = positive.scatter(1, self._itself[i, None], False)
        share = positive.to(self._rows.dtype) / positive.sum(dim=1, keepdim=True).clamp_min(1)
        return distances(self._rows[i], self._columns), share

    def pull(self, i: slice, weights: Tensor) -> None:
        """Take in the weights ``[m, P]`` of the anchors i, which come in order."""
        self._of_anchors.append(gradient_of_rows(self._rows[i], weights @ self._columns))
        self._pulled = _grown(self._pulled, weights.T @ self._rows[i])

    def add_gradient(self, gradient: Tensor) -> Tensor:
        """Add that of the weighted distances for the positives; return that for the anchors, ``[M, D]``."""
        assert self._pulled is not None  # as anchors have passed
        gradient += gradient_of_columns(self._columns, self._pulled).view_as(gradient)
        return torch.cat(self._of_anchors)


def _grown(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
