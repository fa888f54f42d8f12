"""Which columns are positives of some anchors, and which are no negatives: the answer of the rules of pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Excluded(NamedTuple):
    """Columns that are not negatives of m anchors: a mask ``[m, K]``, indices ``[m, C]`` (which may repeat), or V.

    V: rows and columns are the same V views, and those of the anchor's sample are excluded.
    """

    where: Tensor | int
    left: Tensor | int  # how many negatives there are: ``[m, 1]``, or one number for every anchor
    times: Tensor | None = None  # how often each column counts, ``[m, K]``; None: once


class Positives(NamedTuple):
    """Positives of m anchors among their columns: all columns, or the columns at indices ``[m, P]``."""

    where: Tensor | None
    share: Tensor  # [m, P], weight of each in the anchor's mean; 0 for a column that is not a positive
    negatives_too: bool = False  # each is a negative where another one is the positive

    def of(self, x: Tensor) -> Tensor:
        """Return the entries of ``x [m, K]`` at the positives, ``[m, P]``."""
        return x if self.where is None else x.gather(1, self.where)

    def add_to(self, weights: Tensor, pos: Tensor) -> Tensor:
        """Add the weights ``[m, P]`` of the positives to weights ``[m, K]`` of the columns."""
        return weights + pos if self.where is None else weights.scatter_add(1, self.where, pos)

    def found(self) -> Tensor:
        """Return 1 for each anchor that has a positive, else 0, ``[m]``."""
        return (self.share > 0).any(dim=1).to(self.share.dtype)

    def replace(self, x: Tensor, at: Tensor) -> Tensor:
        """Return ``x [m, K]`` with the entries of positives replaced by ``at [m, P]``."""
        at = torch.where(self.share > 0, at, self.of(x))
        return at if self.where is None else x.scatter(1, self.where, at)

    def hide(self, p: int, d2: Tensor) -> Tensor:
        """Return distances ``[m, K]`` with the positive number p excluded."""
        place = torch.full_like(d2[:, :1], p, dtype=torch.int64) if self.where is None else self.where[:, p : p + 1]
        return d2.scatter(1, place, torch.inf)
