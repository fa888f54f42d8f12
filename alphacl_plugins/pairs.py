"""Who is compared with whom: the anchors, positives and candidates of a batch, and their distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.functional import paired_squared_distances, squared_distances
from alphacl_plugins.ranks import check_that_ranks_agree, gather_labels, gather_views

NEGATIVES = ("both", "same", "cross", "queue")


class Batch(NamedTuple):
    """The embeddings of a step. Rows of one class are positives of each other and never candidates."""

    views: list[Tensor]  # of this rank, each [N, D]
    everyone: list[Tensor]  # of all ranks, each [ranks * N, D]
    classes: Tensor  # [ranks * N], the label of each sample, or without labels its index
    labelled: bool
    first: int  # index of this rank's first sample in `everyone`
    queue: Tensor | None  # [Q, D]


class PairDistances(NamedTuple):
    """Half squared distances of each anchor to its P positives and its K candidates."""

    pos: Tensor  # [M, P]
    share: Tensor  # [M, P], 1 / (number of the anchor's positives), 0 where there is no positive
    neg: Tensor  # [M, K], finite everywhere
    excluded: Tensor  # [M, K] bool

    @staticmethod
    def stack(groups: Sequence[PairDistances]) -> PairDistances:
        """Put the rows of several groups of anchors below each other."""
        return PairDistances(*(torch.cat(parts) for parts in zip(*groups, strict=True)))

    def for_strategy(self) -> Tensor:
        """Candidates as a strategy sees them: +inf where excluded; all at 0 for an anchor that has none."""
        lonely = self.without_candidates()
        return self.neg.masked_fill(self.excluded, math.inf).masked_fill(lonely, 0.0)

    def without_candidates(self) -> Tensor:
        """Which anchors have no candidate, ``[M, 1]``; they contribute 0."""
        return self.excluded.all(dim=1, keepdim=True)


def assemble(
    views: Sequence[Tensor], *, negatives: str, labels: Tensor | None, queue: Tensor | None, gather_distributed: bool
) -> Batch:
    """Bring together what the anchors of this rank are compared with.

    Raises: ValueError if no anchor can have a candidate, or (on every rank) if the ranks' batches differ in kind.
    """
    everyone, first = list(views), 0
    if gather_distributed:
        check_that_ranks_agree("z", views, labels=labels, queue=queue)
    needs_others = negatives != "queue" or labels is not None
    if gather_distributed and needs_others:
        everyone, first = gather_views(views)
        labels = None if labels is None else gather_labels(labels)
    check_candidates(len(everyone[0]), negatives, queue)
    classes = torch.arange(len(everyone[0]), device=views[0].device) if labels is None else labels
    return Batch(list(views), everyone, classes, labels is not None, first, queue)


def pair_distances(batch: Batch, *, negatives: str, symmetric: bool) -> PairDistances:
    """Measure every anchor against its positives and candidates.

    Args:
        batch: the embeddings.
        negatives: candidates in all views ("both"), the anchor's own ("same"), the others ("cross"), or the queue alone
            ("queue").
        symmetric: whether every view gives anchors, or the first alone.

    Returns: rows in the order of the loss: the anchors of the first view, then of the second, ...
    """
    groups = [_measure(batch, *group) for group in anchor_groups(negatives, symmetric, len(batch.views))]
    return groups[0] if len(groups) == 1 else PairDistances.stack(groups)


def anchor_groups(negatives: str, symmetric: bool, n_views: int) -> list[tuple[list[int], list[int]]]:
    """The views that give anchors, grouped by the views in which their candidates lie: (anchors, candidates) each."""
    anchor_views = list(range(n_views)) if symmetric else [0]
    wanted = [candidate_views(negatives, own, n_views) for own in anchor_views]
    if all(views == wanted[0] for views in wanted):
        return [(anchor_views, wanted[0])]
    return [([own], views) for own, views in zip(anchor_views, wanted, strict=True)]


def _measure(batch: Batch, anchor_views: Sequence[int], candidate_views: Sequence[int]) -> PairDistances:
    """Distances of the anchors of some views to the candidates in some views and in the queue."""
    anchors = torch.cat([batch.views[view] for view in anchor_views])
    own = slice(batch.first, batch.first + len(batch.views[0]))
    anchor_classes = batch.classes[own].repeat(len(anchor_views))
    rows = [batch.everyone[view] for view in candidate_views]
    same_class = anchor_classes[:, None] == batch.classes.repeat(len(rows))[None, :]
    if batch.queue is not None:
        rows.append(batch.queue)
        same_class = torch.cat([same_class, same_class.new_zeros(len(anchors), len(batch.queue))], dim=1)
    positives = _labelled_positives if batch.labelled else _other_views
    return PairDistances(
        *positives(batch, anchors, anchor_views), squared_distances(anchors, torch.cat(rows)), same_class
    )


def _other_views(batch: Batch, anchors: Tensor, anchor_views: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The positives of an anchor are its sample in every other view: distances and shares, ``[M, views - 1]``."""
    n_views = len(batch.views)
    columns = [
        torch.cat([batch.views[(view + shift) % n_views] for view in anchor_views]) for shift in range(1, n_views)
    ]
    d2_pos = torch.stack([paired_squared_distances(anchors, column) for column in columns], dim=1)
    return d2_pos, torch.full_like(d2_pos, 1 / (n_views - 1))


def _labelled_positives(batch: Batch, anchors: Tensor, anchor_views: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The positives of an anchor are all other rows of its class, in any view and rank: ``[M, all rows]``."""
    everything = torch.cat(batch.everyone)
    n, n_all = len(batch.views[0]), len(batch.everyone[0])
    samples = torch.arange(batch.first, batch.first + n, device=anchors.device)
    itself = torch.cat([samples + view * n_all for view in anchor_views])
    classes = batch.classes.repeat(len(batch.everyone))
    positive = batch.classes[samples].repeat(len(anchor_views))[:, None] == classes[None, :]
    positive = positive & (itself[:, None] != torch.arange(len(everything), device=anchors.device)[None, :])
    share = positive.to(anchors.dtype) / positive.sum(dim=1, keepdim=True).clamp_min(1)
    return squared_distances(anchors, everything), share


def candidate_views(negatives: str, own: int, n_views: int) -> list[int]:
    """In which views the candidates of an anchor of view ``own`` lie."""
    if negatives == "queue":
        return []
    if negatives == "same":
        return [own]
    return [view for view in range(n_views) if negatives == "both" or view != own]


def check_candidates(n: int, negatives: str, queue: Tensor | None) -> None:
    """Raise unless n samples and the queue leave candidates to an anchor."""
    queued = 0 if queue is None else len(queue)
    if n == 0:
        raise ValueError("z: expected at least 1 sample, got 0")
    if negatives == "queue":
        if queued == 0:
            raise ValueError('queue: expected embeddings [Q, D] with Q >= 1, as negatives is "queue", got none')
    elif n < 2 and queued == 0:
        raise ValueError(f"z: expected at least 2 samples (or a queue) to have candidates, got {n}")
