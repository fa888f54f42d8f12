"""The positives of the anchors, and the gradient that their weights make."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.streaming.by_anchor import ByAnchor
from alphacl_plugins.streaming.weighted_distances import WeightedDistances


class Samples(NamedTuple):
    """The batch, as all blocks see it."""

    embeddings: Tensor  # of all ranks, [V, n, D]
    own: range  # which of the n samples are this rank's, its anchors
    anchor_views: int  # how many of the V views give anchors, the first
    labels: Tensor | None  # [n]
    queue: Tensor | None  # [Q, D]

    @property
    def n_anchors(self) -> int:
        """M."""
        return self.anchor_views * len(self.own)

    def ours(self, stacked: Tensor) -> Tensor:
        """This rank's samples of a tensor ``[V, n, D]``, as a view of it."""
        return stacked if len(self.own) == stacked.shape[1] else stacked[:, self.own.start : self.own.stop]

    def of_everyone(self, of_anchors: Tensor) -> Tensor:
        """What anchors ``[anchor_views, own, D]`` have, among all ``[V, n, D]``, 0 elsewhere."""
        if of_anchors.shape == self.embeddings.shape:
            return of_anchors
        everyone = torch.zeros_like(self.embeddings)
        self.ours(everyone)[: self.anchor_views] = of_anchors
        return everyone


class OtherViews:
    """Positives without labels: the anchor's sample in every other view."""

    def __init__(self, samples: Samples) -> None:
        ours, n_others = samples.ours(samples.embeddings), len(samples.embeddings) - 1
        self._samples = samples
        self._gaps = [(ours - ours.roll(-shift, 0))[: samples.anchor_views] for shift in range(1, n_others + 1)]
        lengths = [torch.linalg.vector_norm(gap, dim=2).flatten() for gap in self._gaps]
        self._d2 = torch.stack(lengths, dim=1).square().mul_(0.5)
        self._share = torch.full_like(self._d2, 1 / n_others)
        self._weights = ByAnchor(samples.n_anchors)

    def measure(self, i: slice) -> tuple[Tensor, Tensor]:
        """Distances of the anchors i, and the share of each in the mean, ``[m, P]``."""
        return self._d2[i], self._share[i]

    def weigh(self, i: slice, weights: Tensor) -> None:
        """Take in the weights ``[m, P]`` of the anchors i, which come in order."""
        self._weights.write(i, weights)

    def gradient(self) -> Tensor:
        """Return that of ``Σ_ip α_ip D_ip`` for the embeddings, ``[V, n, D]``."""
        weights = self._weights.read()
        assert weights is not None  # as anchors have passed
        parts = []
        for shift, (weight, gap) in enumerate(zip(weights.unbind(dim=1), self._gaps, strict=True), start=1):
            pull = self._samples.of_everyone(weight.view(self._samples.anchor_views, -1, 1) * gap)
            parts.append(pull - pull.roll(shift, 0))
        return sum(parts[1:], parts[0])


class SameClass:
    """Positives with labels: every other row of the anchor's class, in any view."""

    def __init__(self, samples: Samples, labels: Tensor) -> None:
        embeddings, own = samples.embeddings, samples.own
        n_views, n, _ = embeddings.shape
        everyone = embeddings.flatten(0, 1)
        all_are_anchors = samples.n_anchors == len(everyone)
        anchors = everyone if all_are_anchors else samples.ours(embeddings)[: samples.anchor_views].flatten(0, 1)
        self._samples, self._pairs = samples, WeightedDistances(anchors, None if all_are_anchors else everyone)
        self._classes = labels[own.start : own.stop].repeat(samples.anchor_views)
        self._of_columns = labels.repeat(n_views)
        index = torch.arange(n_views * n, device=embeddings.device).view(n_views, n, 1)
        self._itself = samples.ours(index)[: samples.anchor_views].flatten(0, 1)

    def measure(self, i: slice) -> tuple[Tensor, Tensor]:
        """Distances of the anchors i to all rows, and the share of each in the mean, ``[m, P]``."""
        positive = (self._classes[i, None] == self._of_columns).scatter_(1, self._itself[i], False)
        d2 = self._pairs.measure(i)
        return d2, positive.to(d2.dtype) / positive.sum(dim=1, keepdim=True).clamp_min(1)

    def weigh(self, i: slice, weights: Tensor) -> None:
        """Take in the weights ``[m, P]`` of the anchors i, which come in order."""
        self._pairs.weigh(i, weights, None)

    def gradient(self) -> Tensor:
        """Return that of ``Σ_ip α_ip D_ip`` for the embeddings, ``[V, n, D]``."""
        of_anchors, of_everyone = self._pairs.gradients()
        gradient = self._samples.of_everyone(of_anchors.view(self._samples.anchor_views, -1, of_anchors.shape[1]))
        return gradient if of_everyone is None else gradient + of_everyone.view_as(gradient)
