"""Anchors that share their candidates, and the gradient that their weights make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphacl_plugins.streaming.positives import Samples
from alphacl_plugins.streaming.rows import Excluded
from alphacl_plugins.streaming.weighted_distances import WeightedDistances


class Group:
    """The anchors of some views, and the candidates in some views and in the queue.

    Args:
        samples: the batch.
        anchor_views: views that give the M anchors.
        candidate_views: views in which the candidates lie.
    """

    def __init__(self, samples: Samples, anchor_views: Sequence[int], candidate_views: Sequence[int]) -> None:
        n_views, n, _ = samples.embeddings.shape
        self._samples, self._anchor_views, self._candidate_views = samples, anchor_views, candidate_views
        self.n_anchors = len(anchor_views) * len(samples.own)
        ours = samples.ours(samples.embeddings)
        if self.n_anchors == len(candidate_views) * n == n_views * n and samples.queue is None:
            self._pairs = WeightedDistances(samples.embeddings.flatten(0, 1))
        else:
            anchors = torch.cat([ours[view] for view in anchor_views])
            candidates = [samples.embeddings[view] for view in candidate_views]
            candidates += [] if samples.queue is None else [samples.queue]
            self._pairs = WeightedDistances(anchors, torch.cat(candidates), len(candidate_views) * n)
        index = torch.arange(self.n_anchors, device=ours.device)
        self._sample = index.remainder_(len(samples.own)).add_(samples.own.start)

    def measure(self, i: slice) -> tuple[Tensor, Excluded]:
        """Distances of the anchors i, ``[m, K]``, 0 where excluded, and where that is."""
        excluded = self._excluded(i)
        return excluded.fill_(self._pairs.measure(i), 0.0), excluded

    def weigh(self, i: slice, weights: Tensor, scale: Tensor | None) -> None:
        """Take in the weights ``scale * weights`` of the anchors i, which come in order: ``[m, K]``, ``[m, 1]``."""
        self._pairs.weigh(i, weights, scale)

    def subtract_gradient(self, gradient: Tensor) -> None:
        """Subtract that of ``Σ_ij α_ij D_ij`` from that of the embeddings."""
        of_anchors, of_candidates = self._pairs.gradients()
        subtract(self._samples.ours(gradient), self._anchor_views, of_anchors)
        if of_candidates is not None:
            subtract(gradient, self._candidate_views, of_candidates)

    def _excluded(self, i: slice) -> Excluded:
        """Candidates of the anchors i that are none: their own sample, or with labels those of their class."""
        labels, n = self._samples.labels, self._samples.embeddings.shape[1]
        n_views, queue = len(self._candidate_views), self._samples.queue
        sample = self._sample[i, None]
        if labels is None:
            return Excluded(sample + torch.arange(0, n_views * n, n, device=sample.device))
        same_class = labels[sample] == labels.repeat(n_views)
        return Excluded(same_class if queue is None else pad(same_class, (0, len(queue))))


def subtract(gradient: Tensor, views: Sequence[int], rows: Tensor) -> None:
    """Subtract rows, those of one view after another, from the views of a gradient ``[V, n, D]``."""
    if len(views) == len(gradient):
        gradient.sub_(rows.view_as(gradient))
        return
    for view, part in zip(views, rows.chunk(len(views)), strict=True):
        gradient[view].sub_(part)
