"""What one pass over the anchors brings together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

Views = tuple[Sequence[int], Sequence[int]]  # of some anchors, and of their candidates


class Tally(NamedTuple):
    """Sums over anchors, from which the statistics of a batch are made."""

    d2_pos: Tensor  # of each anchor's mean D_+
    d2_neg: Tensor  # over all pairs of anchor and candidate
    number: Tensor | int  # of these pairs
    entropy: Tensor

    def add_(self, other: Tally) -> Tally:
        """Add those of other anchors, in the memory of these."""
        number = self.number + other.number
        return Tally(
            self.d2_pos.add_(other.d2_pos), self.d2_neg.add_(other.d2_neg), number, self.entropy.add_(other.entropy)
        )

    def stats(self, n_anchors: int) -> dict[str, Tensor]:
        """Return the means, as `alphacl_plugins.AlphaCLLoss` shows them."""
        number = self.number.clamp_min(1) if isinstance(self.number, Tensor) else self.number
        entropy = self.entropy / n_anchors
        return {
            "d2_pos": self.d2_pos / n_anchors,
            "d2_neg": self.d2_neg / number,
            "alpha_entropy": entropy,
            "effective_negatives": entropy.exp(),
        }


class Passed(NamedTuple):
    """Losses of the M anchors, and the gradient of their weighted sum."""

    minus_energy: Tensor | None  # [M]; None: nobody asked
    value: Tensor | None  # [M]; None stands for -E
    gradient: Tensor | None  # [V, n, D]
    tally: Tally
