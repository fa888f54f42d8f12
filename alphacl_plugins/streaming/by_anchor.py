"""Numbers of the anchors that come block by block."""

from __future__ import annotations

from torch import Tensor


class ByAnchor:
    """A tensor with a row for each anchor, in memory that is taken once.

    Small tensors that stay, between large ones that go, would leave holes that no later block fits into: memory that
    grows with every block.
    """

    def __init__(self, n_anchors: int) -> None:
        self._n_anchors = n_anchors
        self._rows: Tensor | None = None

    def write(self, i: slice, part: Tensor) -> None:
        """Take in the rows of the anchors i."""
        if part.shape[0] == self._n_anchors:
            self._rows = part
            return
        if self._rows is None:
            self._rows = part.new_empty(self._n_anchors, *part.shape[1:])
        self._rows[i] = part

    def read(self) -> Tensor | None:
        """Return all rows, or None if none was written."""
        return self._rows
