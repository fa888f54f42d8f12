"""A queue of the latest keys: the negatives from earlier batches, as in MoCo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alphacl_plugins.agreement import gather_rows, tell_ranks
from alphacl_plugins.caller_warnings import warn_caller
from alphacl_plugins.checks import check_bool, check_choice, check_count, check_labels, check_matrix, check_width
from alphacl_plugins.distributed import Maybe, gather
from alphacl_plugins.process_groups import InGroup, group_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Self


class EmbeddingQueue(InGroup):
    """First in, first out: the latest ``size`` keys, as negatives for `AlphaCLLoss`.

    One step of MoCo, with ``criterion = AlphaCLLoss("infonce", negatives="queue", symmetric=False)``::

        loss = criterion(q, k, queue=queue.embeddings)  # queries, keys, keys of earlier batches
        queue.enqueue(k)  # before or after loss.backward()

    The queue begins with random rows of length 1, the same on every rank, and leaves torch's global generator alone.
    The rows and the place of the next key are buffers, ``embeddings [size, dim]`` and ``pointer``, so that a run that
    is resumed from a state dict has the same negatives. Move the queue to the device of the keys, as any module.

    A key with an entry that is not finite does not enter: the row that it would replace stays as it was before the
    call, and the next key goes to the next row.

    Args:
        size: number of keys held, >= 1.
        dim: width of a key, >= 1. None: the width given by `set_width`, by the first keys or by a loaded state dict;
            until then ``embeddings`` is ``[size, 0]``. Give it if the queue is part of a model that is copied before
            the first batch, as by an exponential moving average (``torch.optim.swa_utils.AveragedModel``, timm's
            ``ModelEma``): the copy of a queue without width cannot take the rows of the original later. With
            ``torch.compile(fullgraph=True)`` the width has to be known before the compiled call.
        gather_distributed: True: the keys of all ranks enter, in rank order, so that the queue is the same on every
            rank. False: each rank holds its own keys, unless the queue is part of a DistributedDataParallel module
            that synchronises its buffers (its default): the rows of rank 0 then replace the others at every forward
            pass.
        process_group: the processes whose keys enter, as a ProcessGroup of torch.distributed or a 1-D DeviceMesh; None:
            the default group. Deep copies have the same group. A pickle leaves it out: set ``process_group`` before the
            next keys.
        overflow: where a batch goes beyond the last row, "wrap" continues at row 0, so that the queue always holds
            exactly the latest ``size`` keys. "drop" leaves out the rest of the batch, and the next batch begins at row
            0, as in lightly's memory bank.
        labels: keep the class of each key too, in the buffer ``labels [size]``, for the ``queue_labels`` of the loss;
            -1 is a row of no class, as the random ones that the queue begins with. Without, ``labels`` is None.

    Raises:
        TypeError: an option is of another kind.
        ValueError: an option is outside the above.

    Source:
        He et al. (2020), arXiv:1911.05722.

    Examples:
        >>> queue = EmbeddingQueue(3, dim=1)
        >>> queue.enqueue(torch.tensor([[1.0], [2.0]]))
        >>> queue.enqueue(torch.tensor([[3.0], [4.0]]))
        >>> queue.embeddings.T, queue.pointer
        (tensor([[4., 2., 3.]]), tensor(1))
    """

    embeddings: Tensor
    pointer: Tensor
    labels: Tensor | None

    def __init__(
        self,
        size: int,
        dim: int | None = None,
        *,
        gather_distributed: bool = False,
        process_group: ProcessGroup | DeviceMesh | None = None,
        overflow: str = "wrap",
        labels: bool = False,
    ) -> None:
        super().__init__()
        check_count("size", size)
        if dim is not None:
            check_count("dim", dim)
        check_bool("gather_distributed", gather_distributed)
        check_choice("overflow", overflow, ("wrap", "drop"))
        check_bool("labels", labels)
        if process_group is not None and not gather_distributed:
            raise ValueError("gather_distributed: expected True with a process_group, got False")
        self.size = size
        self.dim = dim
        self.gather_distributed = gather_distributed
        self.process_group = group_of(process_group)
        self.overflow = overflow
        self._copied_without_width = False
        self.register_buffer("embeddings", torch.empty(size, 0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("labels", torch.full((size,), -1) if labels else None)
        if dim is not None:
            self._begin(dim)

    def set_width(self, dim: int) -> None:
        """Give a queue without width its rows, before the first keys; do nothing if it has that width.

        Args:
            dim: width of a key, >= 1.

        Raises:
            TypeError: ``dim`` is not an int.
            ValueError: ``dim`` is not >= 1, or the queue has another width.

        Warns:
            UserWarning: a copy was made while the queue had no width.
        """
        check_count("dim", dim)
        width = self.embeddings.shape[1]
        if width == 0:
            self._begin(dim, warn=True)
        elif width != dim:
            raise ValueError(f"dim: expected {width}, the width of the queue, got {dim}")

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Maybe = None) -> None:
        """Put keys in, in their order, in place of the oldest.

        Args:
            keys: ``[N, D]``, any N and any floating-point dtype; with ``gather_distributed`` the same shape on every
                rank. Kept without gradient, in the dtype of the queue.
            labels: their classes ``[N]``, if the queue keeps labels, and only then.

        Raises:
            TypeError: ``keys`` is not a floating-point tensor, or ``labels`` are not integers.
            ValueError: ``keys`` is not a matrix of the queue's width, ``labels`` are missing or not expected, or (on
                every rank) the shapes to gather differ between ranks.

        Warns:
            UserWarning: a copy was made while the queue had no width.
        """
        try:
            self._check(keys, labels)
        except (TypeError, ValueError):
            if self.gather_distributed:
                tell_ranks([keys], self.process_group)
            raise
        keys = keys.to(self.embeddings.dtype)
        labels = None if labels is None else labels.long()
        if self.gather_distributed:
            keys = gather_rows("keys", keys, self.process_group)
            labels = None if labels is None else gather(labels.view(1, -1, 1), self.process_group).flatten()
        if self.embeddings.shape[1] == 0:
            self._begin(keys.shape[1], warn=True)
        check_width("keys", keys, "the queue", self.embeddings)
        rows = torch.arange(len(keys), device=keys.device)
        end = self.pointer + len(keys)
        if self.overflow == "wrap":
            rows = rows[-self.size :]
            positions, end = (self.pointer + rows) % self.size, end % self.size
        else:  # the last row takes its key once more for each that is dropped
            rows = torch.minimum(rows[: self.size], self.size - 1 - self.pointer)
            positions, end = self.pointer + rows, end.masked_fill(end >= self.size, 0)
        keys, before = keys[rows], self.embeddings[positions]
        finite = keys.isfinite().all(dim=1, keepdim=True)  # one bad key would make every loss NaN until it has left
        self.embeddings.index_copy_(0, positions, torch.where(finite, keys, before))
        if self.labels is not None and labels is not None:
            of_keys = labels[rows].to(self.labels)
            self.labels.index_copy_(0, positions, torch.where(finite[:, 0], of_keys, self.labels[positions]))
        self.pointer.copy_(end)

    def _check(self, keys: Tensor, labels: Maybe) -> None:
        check_matrix("keys", keys)
        if (labels is None) != (self.labels is None):
            wanted, got = (
                ("labels [N]", "none") if labels is None else ("none without EmbeddingQueue(labels=True)", "some")
            )
            raise ValueError(f"labels: expected {wanted}, got {got}")
        if labels is not None:
            check_labels("labels", labels, len(keys))

    def extra_repr(self) -> str:
        """Show every option but the process group."""
        names = ("size", "dim", "gather_distributed", "overflow")
        shown = [f"{name}={getattr(self, name)!r}" for name in names]
        return ", ".join([*shown, f"labels={self.labels is not None}"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy, and remember a copy that has no width."""
        clone = super().__deepcopy__(memo)
        self._copied_without_width = self.embeddings.shape[1] == 0
        return clone

    def _begin(self, width: int, *, warn: bool = False) -> None:
        if warn and self._copied_without_width:
            warn_caller(
                "dim: a copy of this queue was made before its width was known. If the copy follows the queue, as an "
                'exponential moving average does, torch will say "size of tensor a (0)" or "size mismatch": give '
                f"EmbeddingQueue({self.size}, dim={width}), or in lightly's form "
                f"memory_bank_size=({self.size}, {width})",
                UserWarning,
            )
        with torch.inference_mode(False):  # a first batch in validation: training must be able to write here later
            self.embeddings = _random_rows(self.size, width).to(self.embeddings)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}embeddings")
        if self.dim is None and isinstance(saved, Tensor) and saved.ndim == 2:
            self._begin(saved.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _random_rows(size: int, dim: int) -> Tensor:
    """Return rows of length 1, ``[size, dim]``, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(size, dim, generator=generator, dtype=torch.float64, device="cpu")
    return nn.functional.normalize(rows)
