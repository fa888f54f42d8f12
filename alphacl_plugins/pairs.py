"""Who is compared with whom: the anchors, positives and candidates of a batch, and their distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.functional import paired_squared_distances, squared_distances
from alphacl_plugins.ranks import gather_views

NEGATIVES = ("both", "same", "cross", "queue")

_FROM_QUEUE = -1


class Group(NamedTuple):
    """Anchors that share one set of candidates. A candidate of the anchor's own sample is excluded."""

    anchors: Tensor  # [M, D]
    positives: Tensor  # [M, D]
    candidates: Tensor  # [K, D]
    anchor_samples: Tensor  # [M], index of the sample in the batch of all ranks
    candidate_samples: Tensor  # [K], the same; -1 for a row of the queue


class PairDistances(NamedTuple):
    """Half squared distances of each anchor to its positive and its candidates."""

    pos: Tensor  # [M]
    neg: Tensor  # [M, K], finite everywhere
    excluded: Tensor  # [M, K] bool

    def for_strategy(self) -> tuple[Tensor, Tensor]:
        """What a strategy sees: excluded candidates at +inf."""
        return self.pos, self.neg.masked_fill(self.excluded, math.inf)


def group_pairs(
    views: Sequence[Tensor], *, negatives: str, symmetric: bool, queue: Tensor | None, gather_distributed: bool
) -> list[Group]:
    """Arrange two views and a queue into groups, whose anchors stacked are the loss's anchor order.

    Args:
        views: embeddings of the two views of this rank's samples, each ``[N, D]``.
        negatives: candidates in all views ("both"), the anchor's own ("same"), the other ("cross"), or the queue alone
            ("queue").
        symmetric: whether the second view gives anchors too.
        queue: further candidates ``[Q, D]``, or None.
        gather_distributed: whether the views of all ranks give candidates.

    Raises: ValueError if no anchor has a candidate.
    """
    anchor_views = range(len(views)) if symmetric else range(1)
    in_batch = negatives != "queue"
    everyone, first_sample = gather_views(views) if gather_distributed and in_batch else (list(views), 0)
    _check_candidates(everyone[0], negatives, queue)
    samples = torch.arange(len(views[0]), device=views[0].device) + first_sample

    def group(anchors: Sequence[int], candidates: Sequence[int]) -> Group:
        rows = [everyone[view] for view in candidates]
        all_samples = torch.arange(len(everyone[0]), device=samples.device).repeat(len(rows))
        if queue is not None:
            rows.append(queue)
            all_samples = torch.cat([all_samples, all_samples.new_full((len(queue),), _FROM_QUEUE)])
        return Group(
            anchors=torch.cat([views[view] for view in anchors]),
            positives=torch.cat([views[1 - view] for view in anchors]),
            candidates=torch.cat(rows),
            anchor_samples=samples.repeat(len(anchors)),
            candidate_samples=all_samples,
        )

    if negatives == "both":
        return [group(anchor_views, range(len(views)))]
    if negatives == "queue":
        return [group(anchor_views, [])]
    return [group([view], [view if negatives == "same" else 1 - view]) for view in anchor_views]


def pair_distances(groups: Sequence[Group]) -> PairDistances:
    """Measure every group; rows are stacked in the order of the groups."""
    return PairDistances(
        pos=torch.cat([paired_squared_distances(group.anchors, group.positives) for group in groups]),
        neg=torch.cat([squared_distances(group.anchors, group.candidates) for group in groups]),
        excluded=torch.cat([group.anchor_samples[:, None] == group.candidate_samples[None, :] for group in groups]),
    )


def _check_candidates(everyone: Tensor, negatives: str, queue: Tensor | None) -> None:
    queued = 0 if queue is None else len(queue)
    if len(everyone) == 0:
        raise ValueError("z: expected at least 1 sample, got 0")
    if negatives == "queue":
        if queued == 0:
            raise ValueError('queue: expected embeddings [Q, D] with Q >= 1, as negatives is "queue", got none')
    elif len(everyone) < 2 and queued == 0:
        raise ValueError(f"z: expected at least 2 samples (or a queue) to have candidates, got {len(everyone)}")
