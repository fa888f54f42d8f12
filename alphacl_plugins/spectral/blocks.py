"""α of all pairs, some anchors at a time: how a strategy weighs N x N pairs without a matrix of that size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from alphacl_plugins._checks import check_count, check_labels, check_matrix
from alphacl_plugins.functional import paired_squared_distances, promote, squared_distances
from alphacl_plugins.spectral.classes import Classes
from alphacl_plugins.strategies import Strategy, build_strategy


class BlockedAlpha:
    """The weights of each anchor's candidates, ``[m, N]`` at a time, and how its positives share their sum.

    A sample's candidates are the others, with ``labels`` those of other classes; its positives are its other view
    and, with ``labels``, the other samples of its class. A strategy sees the mean distance to them.

    Args:
        alpha: a tensor of importances, a strategy, or the name of one.
        z: embedding on which a strategy measures distances.
        z_aug: its other view, if there is one.
        labels: class of each sample.
        block_size: anchors in a block.
        dtype: of the weights.

    Shape: ``alpha [N, N]``; ``z``, ``z_aug`` ``[N, E]``; ``labels [N]``.
    Raises: TypeError, ValueError if shapes or dtypes are not these; ValueError for an unknown name.
    """

    def __init__(
        self,
        alpha: Tensor | Strategy | str,
        z: Tensor,
        z_aug: Tensor | None,
        *,
        labels: Tensor | None,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        if labels is not None:
            check_labels("labels", labels, len(z))
        check_count("block_size", block_size)
        self.weigh = _tensor_or_strategy(alpha, len(z))
        self.z, self.z_aug, self.labels, self.block_size, self.dtype = z, z_aug, labels, block_size, dtype
        self.classes = None if labels is None else Classes.of(labels)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield some anchors and their weights of all samples, ``[m, N]``: 0 for what is no candidate."""
        n = len(self.z)
        d2_pos = None if isinstance(self.weigh, Tensor) else self._positive_distances()
        for start in range(0, n, self.block_size):
            rows = slice(start, min(start + self.block_size, n))
            excluded = self._excluded(rows)
            if d2_pos is None:
                weights = self.weigh[rows]  # type: ignore[index]
            else:
                d2_neg = squared_distances(self.z[rows], self.z).masked_fill_(excluded, math.inf)
                answer = self.weigh(d2_pos[rows], d2_neg)  # type: ignore[operator]
                if not isinstance(answer, tuple):
                    raise TypeError(f"alpha: expected a strategy that returns PairWeights, got {type(answer).__name__}")
                weights = answer[0]
            yield rows, weights.to(self.dtype).masked_fill(excluded, 0.0)

    def share(self, sums: Tensor) -> Tensor:
        """Weight of each positive of an anchor, ``[N]``: the anchor's row sum, divided among them."""
        return sums / self._positives().to(sums.dtype)

    def _excluded(self, rows: slice) -> Tensor:
        """Which samples are no candidates of some anchors, ``[m, N]``: themselves, and those of their class."""
        everyone = torch.arange(len(self.z), device=self.z.device)
        itself = everyone[rows, None] == everyone
        return itself if self.labels is None else itself | (self.labels[rows, None] == self.labels)

    def _positives(self) -> Tensor:
        """How many positives each anchor has, ``[N]``; 1 where it has none, so that it can divide."""
        views = torch.full((len(self.z),), 0 if self.z_aug is None else 1, device=self.z.device)
        return (views if self.classes is None else views + self.classes.others).clamp_min(1)

    def _positive_distances(self) -> Tensor:
        """Mean distance of each anchor to its positives, ``[N]``; 0 without any."""
        total = self.z.new_zeros(len(self.z), dtype=promote(self.z)[0].dtype)
        if self.z_aug is not None:
            total = total + paired_squared_distances(self.z, self.z_aug)
        if self.classes is not None:
            total = total + self.classes.summed_distances(self.z)
        return self.share(total)


def _tensor_or_strategy(alpha: Tensor | Strategy | str, n: int) -> Tensor | Strategy:
    if isinstance(alpha, str):
        return build_strategy(alpha)
    if not isinstance(alpha, Tensor):
        if isinstance(alpha, type) or not callable(alpha):
            raise TypeError(f"alpha: expected a tensor [N, N], a strategy object or its name, got {alpha!r}")
        return alpha
    check_matrix("alpha", alpha)
    if alpha.shape != (n, n):
        raise ValueError(f"alpha: expected shape [{n}, {n}], got {tuple(alpha.shape)}")
    return alpha.detach()
