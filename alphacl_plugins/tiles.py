"""Who is compared with whom, tile by tile: `alphacl_plugins.pairs` for blocks that come one after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.pairs import candidate_views
from alphacl_plugins.ranks import world_size

SIDE = 512  # anchors, and candidates, that are compared at once


class Block(NamedTuple):
    """The embeddings of one rank, on their way."""

    views: Tensor  # [V, n, D]
    classes: Tensor  # [n]
    home: int  # the rank they belong to


@dataclass(frozen=True)
class Tile:
    """Some anchors against some rows of a block, or of the queue."""

    anchors: slice  # in the order of the loss
    place: tuple[int, slice] | None  # view and rows of the block; None: the queue, which takes no gradient
    a: Tensor  # [m, D]
    b: Tensor  # [k, D]
    candidate: Tensor | None  # [m, k] bool; None: no pair is
    positive: Tensor | None


@dataclass(frozen=True)
class Comparison:
    """The anchors of this rank, and the rule by which they meet a block."""

    own: Block
    queue: Tensor | None
    negatives: str
    symmetric: bool
    labelled: bool

    @property
    def n_anchors(self) -> int:
        """M."""
        n_views, n, _ = self.own.views.shape
        return n_views * n if self.symmetric else n

    @property
    def steps(self) -> int:
        """How many blocks this rank's anchors have to meet."""
        return 1 if self.negatives == "queue" and not self.labelled else world_size()

    def tiles(self, block: Block) -> Iterator[Tile]:
        """This rank's anchors against a block, and with its own block, against the queue."""
        n_views, n, _ = self.own.views.shape
        everything = self.labelled or block.home == self.own.home  # positives may lie in any view
        for view in range(n_views if self.symmetric else 1):
            others = range(n_views) if everything else candidate_views(self.negatives, view, n_views)
            for rows in _pieces(n):
                for other, columns in itertools.product(others, _pieces(n)):
                    yield self._tile(block, view, rows, other, columns)
                if self.queue is not None and block.home == self.own.home:
                    for columns in _pieces(len(self.queue)):
                        yield self._queue_tile(self.queue, view, rows, columns)

    def _tile(self, block: Block, view: int, rows: slice, other: int, columns: slice) -> Tile:
        n_views = len(self.own.views)
        at_home = block.home == self.own.home
        same_class = self.own.classes[rows, None] == block.classes[None, columns]
        positive = None
        if at_home and other == view:
            positive = same_class & ~_diagonal(rows, columns, same_class.device)
        elif at_home or self.labelled:
            positive = same_class
        candidate = ~same_class if other in candidate_views(self.negatives, view, n_views) else None
        a, b = self.own.views[view, rows], block.views[other, columns]
        return Tile(self._anchors(view, rows), (other, columns), a, b, candidate, positive)

    def _queue_tile(self, queue: Tensor, view: int, rows: slice, columns: slice) -> Tile:
        a, b = self.own.views[view, rows], queue[columns]
        candidate = torch.ones(len(a), len(b), dtype=torch.bool, device=a.device)
        return Tile(self._anchors(view, rows), None, a, b, candidate, None)

    def _anchors(self, view: int, rows: slice) -> slice:
        first = view * self.own.views.shape[1]
        return slice(first + rows.start, first + rows.stop)


def _pieces(n: int) -> Iterator[slice]:
    for start in range(0, n, SIDE):
        yield slice(start, min(start + SIDE, n))


def _diagonal(rows: slice, columns: slice, device: torch.device) -> Tensor:
    """Where row i meets column i."""
    i, j = (torch.arange(piece.start, piece.stop, device=device) for piece in (rows, columns))
    return i[:, None] == j[None, :]
