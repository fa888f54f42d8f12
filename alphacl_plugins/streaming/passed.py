"""What a pass over anchors brings together."""

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
    anchors: int

    def add_(self, other: Tally) -> Tally:
        """Add those of other anchors, in the memory of these."""
        d2_pos, d2_neg = self.d2_pos.add_(other.d2_pos), self.d2_neg.add_(other.d2_neg)
        entropy, anchors = self.entropy.add_(other.entropy), self.anchors + other.anchors
        return Tally(d2_pos, d2_neg, self.number + other.number, entropy, anchors)

    def stats(self) -> dict[str, Tensor]:
        """Return the means, as `alphacl_plugins.AlphaCLLoss` shows them."""
        number = self.number.clamp_min(1) if isinstance(self.number, Tensor) else self.number
        entropy = self.entropy / self.anchors
        return {
            "d2_pos": self.d2_pos / self.anchors,
            "d2_neg": self.d2_neg / number,
            "alpha_entropy": entropy,
            "effective_negatives": entropy.exp(),
        }


class Passed(NamedTuple):
    """Losses of M anchors, and the gradient of their weighted sum; that of a block stays with its groups."""

    minus_energy: Tensor | None  # [M]; None: nobody asked
    value: Tensor | None  # [M]; None stands for -E
    gradient: Tensor | None  # [V, n, D]
    tally: Tally
