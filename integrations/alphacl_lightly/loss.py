"""The α-CL loss with lightly's conventions: ``forward(out0, out1)``, flat options, a memory bank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

import alphacl_plugins
from alphacl_plugins import EmbeddingQueue, PairWeights
from alphacl_plugins.arguments import Call
from alphacl_plugins.checks import check_same_shape, check_width
from alphacl_plugins.distributed import Maybe, world_size
from alphacl_plugins.functional import l2_normalize
from alphacl_plugins.options import BlockSize, Negatives
from alphacl_plugins.strategies import AnyStrategy, StrategyOptions, reserve_options

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Unpack

    from alphacl_plugins.arguments import PairArguments


class AlphaCLLoss(alphacl_plugins.AlphaCLLoss):
    """Pair-weighted contrastive loss, in place of a lightly contrastive loss.

    ``AlphaCLLoss("infonce", tau=0.5)`` is τ times ``NTXentLoss(0.5)``, ``AlphaCLLoss("entropy", tau=0.5)`` τ times
    ``DCLLoss(0.5)``: gradients in the paper's scale do not grow as τ shrinks.

    With a memory bank the loss is lightly's MoCo form: the anchors are ``out0``, their positives ``out1``, and the
    negatives the bank as it was before this batch (``negatives="queue"``, ``symmetric=False``, unless told otherwise).
    ``out1`` enters the bank while ``out0`` requires a gradient, with its labels if there are any. The bank is an
    `alphacl_plugins.EmbeddingQueue`: filled as lightly's, but part of the state dict, so that a run resumes exactly.
    lightly itself need not be installed.

    A batch of one sample, as the last of an epoch may be, has no negatives: its loss is 0, as lightly's.

    A strategy without a loss of its own, such as "direct", has the value -E / M: negative as a rule, and no measure of
    progress for a learning rate finder, a plateau scheduler or early stopping. The manual has a value to watch.

    Args:
        strategy: a registered name, an import path or a strategy object.
        memory_bank_size: rows of the bank, 0 for none; (rows, width), or an int: the first batch or the state dict sets
            the width. Give the width if the model is copied before the first batch, as by an exponential moving average
            (``AveragedModel``, timm's ``ModelEmaV3``, Lightning's ``WeightAveraging``).
        gather_distributed: negatives from all ranks, gathered (True, or "auto" as in the core) or passed round ("ring",
            for some strategies, as in the core); with a memory bank, ranks instead share what enters the bank.
        process_group: the processes that gather, as in the core, and that share the memory bank.
        negatives: as in `alphacl_plugins.AlphaCLLoss`, and so are the options below.
        symmetric: which views give anchors.
        l2_normalize: whether embeddings are scaled to length 1.
        detach_alpha: whether α is held fixed.
        reduction: "mean" over the anchors, or "none".
        block_size: how the loss is computed.
        positives: with labels, which rows of the class are positives.
        positives_as_negatives: whether the other positives are negatives too.
        ignore_label: of samples that are a class of their own each.
        scale: "paper", or "ntxent" for lightly's own value: then ``AlphaCLLoss("infonce", tau=0.5, scale="ntxent")`` is
            ``NTXentLoss(0.5)``, and learning rates stay.
        **options: options of a strategy given by name: ``tau``, ``p``, ``gamma``, ..., ``learnable_tau``.

    Raises:
        ValueError: an option is outside its range, or options do not go together.
        TypeError: an option is unknown or of another kind.

    Examples:
        >>> import torch
        >>> criterion = AlphaCLLoss("infonce", tau=0.5)
        >>> criterion(torch.eye(4), torch.eye(4)).shape
        torch.Size([])
    """

    memory_bank: EmbeddingQueue | None

    def __init__(
        self,
        strategy: str | AnyStrategy = "direct",
        *,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool | Literal["auto", "ring"] = False,
        process_group: ProcessGroup | DeviceMesh | None = None,
        negatives: Negatives | None = None,
        symmetric: bool | None = None,
        l2_normalize: bool = True,
        detach_alpha: bool = True,
        reduction: Literal["mean", "none"] = "mean",
        block_size: BlockSize = "auto",
        positives: Literal["all", "other_views"] = "all",
        positives_as_negatives: bool = False,
        ignore_label: int | None = None,
        scale: Literal["paper", "ntxent"] = "paper",
        **options: Unpack[StrategyOptions],
    ) -> None:
        rows, width = _bank_shape(memory_bank_size)
        if rows:
            negatives = "queue" if negatives is None else negatives
            symmetric = False if symmetric is None else symmetric
        elif negatives == "queue":
            raise ValueError('memory_bank_size: expected (rows, width) as negatives is "queue", got 0')
        super().__init__(
            strategy,
            negatives=negatives,
            symmetric=symmetric,
            l2_normalize=l2_normalize,
            detach_alpha=detach_alpha,
            reduction=reduction,
            block_size=block_size,
            gather_distributed=gather_distributed,
            process_group=process_group,
            positives=positives,
            positives_as_negatives=positives_as_negatives,
            ignore_label=ignore_label,
            scale=scale,
            **options,
        )
        self.memory_bank_size = rows
        self.memory_bank = None
        if rows:
            self.memory_bank = EmbeddingQueue(
                rows,
                width or None,
                gather_distributed=bool(gather_distributed),
                process_group=process_group,
                overflow="drop",
                labels=True,
            )

    def forward(  # type: ignore[override]  # the bank is the queue
        self,
        out0: Tensor,
        out1: Maybe = None,
        *more_views: Tensor,
        labels: Maybe = None,
        **pairs: Unpack[PairArguments],
    ) -> Tensor:
        """Compute the loss of a batch and, with a memory bank, remember ``out1``.

        Args:
            out0: projections of the first view, ``[N, D]``.
            out1: projections of the second view (MoCo: of the key encoder), ``[N, D]``. None: there is one view, which
                needs labels, and enters the bank itself.
            *more_views: of further views.
            labels: classes ``[N]``, whose rows are positives, those in the bank too.
            **pairs: as `alphacl_plugins.AlphaCLLoss.forward`; the bank has its own ``queue_labels``.

        Returns:
            a scalar, or with reduction "none" the losses of the anchors.
        """
        call = self._with_bank(out0, out1, labels, pairs)
        views: list[Any] = [out0] if out1 is None and not more_views else [out0, out1, *more_views]
        if self._without_negatives(views, call):
            Call.of(labels, None, pairs)  # refuses a keyword that there is not
            zero = 0 * torch.stack(views if self.symmetric else views[:1]).sum(dim=2).flatten()  # with a gradient, of 0
            return zero.mean() if self.reduction == "mean" else zero
        loss = super().forward(out0, out1, *more_views, **call)
        if self.memory_bank is not None and out0.requires_grad:
            keys = (out0 if out1 is None else out1).detach()
            classes = torch.full((len(keys),), -1, device=keys.device) if labels is None else labels
            self.memory_bank.enqueue(l2_normalize(keys) if self.l2_normalize else keys, classes)
        return loss

    def pair_weights(  # type: ignore[override]
        self,
        out0: Tensor,
        out1: Maybe = None,
        *more_views: Tensor,
        labels: Maybe = None,
        **pairs: Unpack[PairArguments],
    ) -> PairWeights:
        """Return the α of this batch, as `alphacl_plugins.AlphaCLLoss.pair_weights`; the bank stays as it is."""
        return super().pair_weights(out0, out1, *more_views, **self._with_bank(out0, out1, labels, pairs))

    def extra_repr(self) -> str:
        """Show every option."""
        return f"{super().extra_repr()}, memory_bank_size={self.memory_bank_size}"

    def _with_bank(self, out0: Tensor, out1: Maybe, labels: Maybe, pairs: Any) -> dict[str, Any]:
        """Return the keywords of the core's call: the bank is its queue."""
        if out1 is not None:
            check_same_shape("out1", out1, "out0", out0)
        if {"queue", "queue_labels"} & set(pairs):
            raise TypeError("queue: expected none, as memory_bank_size gives the loss a queue of its own, got one")
        bank = self.memory_bank
        if bank is None:
            return {"labels": labels, **pairs}
        keys = out0 if out1 is None else out1
        if bank.pointer.device != keys.device:  # in lightly too the loss need not be moved to the device of the model
            bank.to(keys.device)
        if bank.embeddings.shape[1] == 0:
            bank.set_width(keys.shape[1])
        check_width("out0" if out1 is None else "out1", keys, "the memory bank", bank.embeddings)
        return {
            "labels": labels,
            "queue": bank.embeddings,
            "queue_labels": labels if labels is None else bank.labels,
            **pairs,
        }

    def _without_negatives(self, views: Sequence[Tensor], call: dict[str, Any]) -> bool:
        """Whether this is one sample by itself, of any number of views."""
        alone = len(views[0]) == 1 and call.get("queue") is None and call.get("extra_negatives") is None
        return alone and len(views) > 1 and views[1] is not None and world_size(self.gathering_group()) == 1


def _bank_shape(size: Any) -> tuple[int, int]:
    """Read lightly's ways to give the size of a bank: 0, rows, or (rows, width)."""
    rows, *width = list(size) if isinstance(size, Sequence) else [size, 0]
    whole = all(hasattr(entry, "__index__") and not isinstance(entry, bool) and entry >= 0 for entry in (rows, *width))
    widthless = isinstance(size, Sequence) and width in ([], [0])
    if not whole or len(width) > 1 or (rows and widthless):
        raise ValueError(f"memory_bank_size: expected an int >= 0 or (rows, width), got {size!r}")
    return int(rows), int(width[0]) if width else 0


reserve_options("memory_bank_size")
