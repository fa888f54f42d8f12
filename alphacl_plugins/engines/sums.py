"""What the two-pass engine knows of each anchor: sums that grow block by block, and the constants that follow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphacl_plugins.strategies.separable import Totals

NO_PLACE = 2**53
"""In place of the number of a column: none."""


class Sums(NamedTuple):
    """Sums over the negatives of each anchor, ``[m, 1]``; the sums of w in units of ``exp(row_max)``."""

    row_max: Tensor  # largest log w
    sum_exp: Tensor  # Σ w
    sum_exp_logits: Tensor  # Σ w log w, log w counted from row_max
    sum_exp_d2: Tensor  # Σ w D
    d2: Tensor  # Σ D
    number: Tensor  # of negatives
    potential: Tensor  # Σ u(D)
    log_mass: Tensor | None = None  # log Σ exp v(D); None for a strategy without

    def merged(self, other: Sums) -> Sums:
        """Return the sums over the negatives of both."""
        row_max = torch.maximum(self.row_max, other.row_max)
        scaled = []
        for part in (self, other):
            below = torch.where(part.sum_exp > 0, part.row_max - row_max, 0.0)
            logits = part.sum_exp_logits + part.sum_exp * below
            scaled.append(torch.stack([part.sum_exp, logits, part.sum_exp_d2]) * below.exp())
        added = (x + y for x, y in zip(self[4:7], other[4:7], strict=True))
        log_mass = None
        if self.log_mass is not None and other.log_mass is not None:
            log_mass = torch.logaddexp(self.log_mass, other.log_mass)
        return Sums(row_max, *(scaled[0] + scaled[1]), *added)._replace(log_mass=log_mass)


class OfPositives(NamedTuple):
    """Sums over the positives of each anchor, ``[m, 1]``, each positive taken by itself."""

    number: Tensor
    row_sum: Tensor
    pos: Tensor  # weights β_p
    energy: Tensor  # Σ_p β_p D_p
    d2: Tensor
    value: Tensor | None  # None for a strategy without a loss of its own

    def merged(self, other: OfPositives) -> OfPositives:
        """Return the sums over the positives of both."""
        return OfPositives(*(None if y is None else x + y for x, y in zip(self, other, strict=True)))  # type: ignore[arg-type, operator]


class Listed(NamedTuple):
    """The positives of each anchor, one by one, ``[m, P]``; the first fact of an entry that is none is `NO_PLACE`."""

    place: Tensor  # of its column
    d2: Tensor
    times: Tensor  # how often it counts as a negative

    def merged(self, other: Listed) -> Listed:
        """Return the positives of both."""
        return Listed(*(torch.cat(facts, dim=1) for facts in zip(self, other, strict=True)))

    def padded(self, n: int) -> Listed:
        """Return the same with n entries for each anchor."""
        more = (0, n - self.place.shape[1])
        return Listed(pad(self.place, more, value=NO_PLACE), pad(self.d2, more), pad(self.times, more))


class Constants(NamedTuple):
    """What the weights of an anchor need beside its distances, ``[m, 1]``."""

    totals: Totals
    row_max: Tensor
    scale: Tensor  # row sum / Σ w
    share: Tensor  # of each positive; 0 for an anchor without negatives
    place: Tensor | None = None  # [m, P], columns of the positives, ascending, where they are weighed one by one
    of_place: Tensor | None = None  # [m, P], their weights as negatives minus those as positives

    def of(self, i: slice, weights: Tensor) -> Constants:
        """Return the constants of the anchors i, whose losses count with ``weights [M, 1]``."""
        place, of_place = (None if x is None else x[i] for x in self[4:])
        of_place = None if of_place is None else weights[i] * of_place
        scaled = weights[i] * self.scale[i], weights[i] * self.share[i]
        return Constants(self.totals.of(i), self.row_max[i], *scaled, place, of_place)
