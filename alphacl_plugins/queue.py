"""A queue of the latest keys, MoCo's source of candidates from before this batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alphacl_plugins._checks import check_bool, check_choice, check_count, check_matrix, check_width
from alphacl_plugins.ranks import gather_rows


class EmbeddingQueue(nn.Module):
    """First in, first out: the latest ``size`` keys, as candidates for `AlphaCLLoss`.

    One step of MoCo, with ``criterion = AlphaCLLoss("infonce", negatives="queue", symmetric=False)``::

        loss = criterion(q, k, queue=queue.embeddings)  # queries, keys of the momentum encoder, keys of earlier batches
        queue.enqueue(k)  # before or after loss.backward()

    It begins with random rows of length 1, the same on every rank, and leaves torch's global generator alone. The rows
    and the place of the next key are buffers, ``embeddings [size, dim]`` and ``pointer``: a run resumed from its state
    dict sees the candidates that it would have seen. Move it to the device of the keys, as any module.

    Args:
        size: number of keys held, >= 1.
        dim: width of a key, >= 1. None: that of `set_width`, of the first keys or of the state dict loaded; until then
            ``embeddings`` is ``[size, 0]``. (With ``torch.compile(fullgraph=True)``, known before the compiled call.)
        gather_distributed: the keys of all ranks enter, in rank order, so that the queue is the same on every rank.
            False: each rank holds its own keys, unless the queue is part of a DistributedDataParallel module that
            synchronises its buffers (its default): rank 0's then replaces the others at every forward pass.
        overflow: where a batch goes beyond the last row, "wrap" continues at row 0: always exactly the latest ``size``
            keys. "drop" leaves out the rest of the batch, and the next begins at row 0, as lightly's memory bank.

    Raises: TypeError, ValueError for an option outside the above.
    Source: He et al. (2020), arXiv:1911.05722.

    >>> queue = EmbeddingQueue(3, dim=1)
    >>> queue.enqueue(torch.tensor([[1.0], [2.0]]))
    >>> queue.enqueue(torch.tensor([[3.0], [4.0]]))
    >>> queue.embeddings.T, queue.pointer
    (tensor([[4., 2., 3.]]), tensor(1))
    """

    embeddings: Tensor
    pointer: Tensor

    def __init__(
        self, size: int, dim: int | None = None, *, gather_distributed: bool = False, overflow: str = "wrap"
    ) -> None:
        super().__init__()
        check_count("size", size)
        if dim is not None:
            check_count("dim", dim)
        check_bool("gather_distributed", gather_distributed)
        check_choice("overflow", overflow, ("wrap", "drop"))
        self.size = size
        self.dim = dim
        self.gather_distributed = gather_distributed
        self.overflow = overflow
        self.register_buffer("embeddings", torch.empty(size, 0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        if dim is not None:
            self._begin(dim)

    def set_width(self, dim: int) -> None:
        """Give a queue made without a width its rows, ahead of the first keys; with that width already, do nothing.

        Raises: TypeError, ValueError if ``dim`` is not an int >= 1, or the queue has another width.
        """
        check_count("dim", dim)
        width = self.embeddings.shape[1]
        if width == 0:
            self._begin(dim)
        elif width != dim:
            raise ValueError(f"dim: expected {width}, the width of the queue, got {dim}")

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Let keys in, in their order, and as many of the oldest out.

        Args:
            keys: any floating-point dtype; kept without gradient, in the dtype of the queue.

        Shape: ``[N, D]``, any N; with ``gather_distributed`` the same on every rank.
        Raises: TypeError, ValueError if ``keys`` is not a floating-point matrix of the queue's width, or (on every
            rank) the shapes differ between ranks to gather.
        """
        check_matrix("keys", keys)
        keys = keys.to(self.embeddings.dtype)
        if self.gather_distributed:
            keys = gather_rows("keys", keys)
        if self.embeddings.shape[1] == 0:
            self._begin(keys.shape[1])
        check_width("keys", keys, "the queue", self.embeddings)
        rows = torch.arange(len(keys), device=keys.device)
        end = self.pointer + len(keys)
        if self.overflow == "wrap":
            rows = rows[-self.size :]
            positions, end = (self.pointer + rows) % self.size, end % self.size
        else:  # the last row takes its key once more for each that is dropped
            rows = torch.minimum(rows[: self.size], self.size - 1 - self.pointer)
            positions, end = self.pointer + rows, end.masked_fill(end >= self.size, 0)
        self.embeddings.index_copy_(0, positions, keys[rows])
        self.pointer.copy_(end)

    def extra_repr(self) -> str:
        """Show every option."""
        names = ("size", "dim", "gather_distributed", "overflow")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _begin(self, width: int) -> None:
        with torch.inference_mode(False):  # a first batch in validation: training must be able to write here later
            self.embeddings = _random_rows(self.size, width).to(self.embeddings)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}embeddings")
        if self.dim is None and isinstance(saved, Tensor) and saved.ndim == 2:
            self._begin(saved.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _random_rows(size: int, dim: int) -> Tensor:
    """Rows of length 1, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(size, dim, generator=generator, dtype=torch.float64, device="cpu")
    return nn.functional.normalize(rows)
