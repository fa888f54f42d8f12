"""AlphaCLLoss: the one loss module, whatever the strategy and the engine."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from alphacl_plugins.checks import check_batch
from alphacl_plugins.classes import ClassMembers
from alphacl_plugins.distributed import ALONE, Maybe, check_that_ranks_agree, gather, rank, world_size
from alphacl_plugins.engines.attach import attach
from alphacl_plugins.engines.autograd import all_weights, through_autograd
from alphacl_plugins.engines.blocks import in_blocks
from alphacl_plugins.engines.torch_tiles import TorchTiles
from alphacl_plugins.engines.two_pass import TwoPass
from alphacl_plugins.engines.weights import Losses
from alphacl_plugins.functional import l2_normalize, promote, through_normalization, unit_and_length, without_autocast
from alphacl_plugins.metrics import statistics_of
from alphacl_plugins.options import BlockSize, Negatives, check_options
from alphacl_plugins.pairs import Batch
from alphacl_plugins.process_groups import InGroup, group_of
from alphacl_plugins.strategies import AnyStrategy, LearnableTemperature, PairWeights, Strategy, resolve_strategy
from alphacl_plugins.strategies.guarded import plain
from alphacl_plugins.strategies.registry import reserve_options
from alphacl_plugins.strategies.separable import Separable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Unpack

    from alphacl_plugins.strategies.options import StrategyOptions


class AlphaCLLoss(InGroup):
    """Pair-weighted contrastive loss: gradient ascent on the energy E_α, with α chosen by a strategy.

    The gradient is that of ``-E / M`` over the M anchors, ``E = Σ_i (Σ_j α_ij D_ij - α_i+ D_i+)``, with α held fixed.
    The value is the strategy's own loss if it has one (InfoNCE: τ times NT-Xent), else ``-E / M``, which need not fall.

    Args:
        strategy: a registered name, an import path, or a strategy object such as ``InfoNCE(tau=0.1)``.
        negatives: the other samples in all views ("both"), in the anchor's own view ("same"), in the other views
            ("cross"), or the queue alone ("queue"). None: what the strategy declares, else "both".
        symmetric: True: every view gives anchors, M = 2N for two; False: the first alone, M = N. None: what the
            strategy declares, else True.
        l2_normalize: scale embeddings to length 1 first, so that D is 1 - cos; zero rows stay zero, without gradient.
            False: where D / τ leaves the dtype (float32 at least) the loss is inf or NaN, never wrong and finite.
        detach_alpha: hold α fixed. False: the gradient goes through α (the paper's ablation), and the value is -E / M.
        reduction: "mean" over the anchors, or "none".
        block_size: how the loss is computed. Value and gradient are the same.

            - "auto": the gradient is formed beside the loss in O(N) memory, some anchors at a time.
            - an int >= 1: so many anchors at a time; in a ring, tiles of so many anchors and negatives.
            - "autograd" (or None): from the N x N distances. Second derivatives need it, and with reduction "none" a
              strategy that draws random numbers: the other engines ask for α again in the backward pass.
            - "kernel": by Triton on a GPU, for α_j = c · exp(-D_j^p / τ) (InfoNCE, Direct, ...) without labels.
        gather_distributed: take negatives from all ranks: after DDP has averaged, parameter gradients equal those of
            one process with the whole batch. True gathers the embeddings of all ranks on each; "ring" passes them round
            in O(N / ranks) memory, for strategies whose weights factor: the softmax types and the kernels. "auto" is
            True if the group has several processes at the first batch, else False, and stays what it was then.
        process_group: the processes that gather, as a ProcessGroup of torch.distributed or a 1-D DeviceMesh; None: the
            default group. Averaged over the group, value and gradient are those of one process with the group's batch.
            Deep copies have the same group. A pickle leaves it out: set ``process_group`` before the next batch.
        **options: of a strategy given by name, such as ``tau``; ``learnable_tau=True`` makes τ a parameter.

    Attributes:
        last_stats: of the latest batch, detached scalars, computed when they are read (until then the loss keeps the
            batch): ``d2_pos`` and ``d2_neg`` (means), ``alpha_entropy`` (mean over anchors, nats),
            ``effective_negatives`` (its exponential), ``tau`` of a `LearnableTemperature`. Within the transforms of
            torch.func they can be read inside the transform only.

    Raises:
        TypeError, ValueError: an option is unknown or outside the above, or options do not go together.

    Source: Tian (2022), arXiv:2201.12680, Definition 1.

    >>> import torch
    >>> z = torch.eye(4)
    >>> AlphaCLLoss("direct", tau=0.5)(z, z)  # positives at D = 0, all negatives at D = 1
    tensor(-1.)
    """

    def __init__(
        self,
        strategy: str | AnyStrategy = "direct",
        *,
        negatives: Negatives | None = None,
        symmetric: bool | None = None,
        l2_normalize: bool = True,
        detach_alpha: bool = True,
        reduction: Literal["mean", "none"] = "mean",
        block_size: BlockSize = "auto",
        gather_distributed: bool | Literal["auto", "ring"] = False,
        process_group: ProcessGroup | DeviceMesh | None = None,
        **options: Unpack[StrategyOptions],
    ) -> None:
        super().__init__()
        try:
            self.strategy: Any = resolve_strategy(strategy, options)
        except TypeError as error:
            raise TypeError(f"{error}; the loss's own options are {', '.join(OPTIONS)}" if options else error) from None
        declared = plain(self.strategy)
        self.negatives = negatives or declared.negatives or "both"
        self.symmetric = next(flag for flag in (symmetric, declared.symmetric, True) if flag is not None)
        self.l2_normalize, self.detach_alpha, self.reduction = l2_normalize, detach_alpha, reduction
        self.block_size, self.gather_distributed = block_size, gather_distributed
        self.process_group = group_of(process_group)
        check_options(self)
        self._alone: bool | None = None  # what "auto" has found
        self._latest: Any = {}  # statistics, or the batch and the temperature that they are of

    def forward(
        self, z: Tensor, z_aug: Maybe = None, *more_views: Tensor, labels: Maybe = None, queue: Maybe = None
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: embeddings of one view, ``[N, D]``, any floating-point dtype; computed in float32 at least.
            z_aug: embeddings of another view, ``[N, D]``.
            *more_views: of further views. Every other view of an anchor's sample is a positive.
            labels: classes ``[N]``. Every other row of the anchor's class, in any view, is a positive. An anchor with
                several positives has the mean of the losses with one; an anchor without negatives counts 0.
            queue: further negatives ``[Q, D]``, without gradient, beside the others.

        Returns: a scalar, or with reduction "none" the losses of the M anchors, view by view.

        Raises:
            TypeError, ValueError: dtypes or shapes are not these, or no anchor can have a negative.
        """
        views: list[Any] = [z, z_aug, *more_views]
        check_batch(views, labels, queue, None if self.gather_distributed else self.negatives)
        with without_autocast(z.device):
            strategy = plain(self.strategy, detach=self.detach_alpha)
            by_autograd = self.block_size in ("autograd", None) or not self.detach_alpha
            engine: Any = functools.partial(in_blocks, strategy, block=self.block_size, with_energy=self._learns)
            rows, length, batch, differentiable = self._batch(strategy, views, labels, queue, graph=by_autograd)
            if by_autograd:
                losses = through_autograd(strategy, batch, detach_alpha=self.detach_alpha)
                value, energy = self._value(losses, batch._replace(views=batch.views.detach())), losses.minus_energy
                value = value if value is energy else value + (energy - energy.detach())
                return value.mean() if self.reduction == "mean" else value  # type: ignore[no-any-return]
            in_tiles = self.gather_distributed == "ring" or self.block_size == "kernel"
            engine = self._two_pass(strategy, batch) if in_tiles else engine
            losses, gradient = engine(batch, with_gradient=differentiable and self.reduction == "mean")
            if gradient is not None:
                gradient = through_normalization(gradient, batch.views, length)

            def again(weights: Tensor, unit: Tensor, length: Maybe, queue: Maybe) -> Tensor:
                return through_normalization(engine(batch._replace(views=unit, queue=queue), weights)[1], unit, length)

            value = self._value(losses, engine if in_tiles else batch)
            if self.reduction == "mean" and gradient is None:  # nobody wants one
                return value.mean()
            return attach(value, rows, again if gradient is None else gradient, batch.views, length, batch.queue)

    def pair_weights(
        self, z: Tensor, z_aug: Maybe = None, *more_views: Tensor, labels: Maybe = None, queue: Maybe = None
    ) -> PairWeights:
        """Return the α of this batch: what `forward` would hold fixed, complete with ``pos`` and ``value``.

        The arguments are those of `forward`.

        Returns: a row for each anchor, in the loss's order. Columns of ``neg`` are the rows of all views for "both" (or
            with labels), of the anchor's own view or the other views for "same" and "cross"; then the queue. An
            excluded one has weight 0. ``pos`` is ``[M]``, or with several positives ``[M, P]``, each times its share in
            the mean: without labels the other views, beginning with the next; with labels all rows of all views.
        """
        views: list[Any] = [z, z_aug, *more_views]
        check_batch(views, labels, queue, None if self.gather_distributed else self.negatives)
        with torch.no_grad(), without_autocast(z.device):
            strategy = plain(self.strategy)
            return all_weights(strategy, self._batch(strategy, views, labels, queue, whole=True)[2])

    @property
    def last_stats(self) -> dict[str, Tensor]:
        """Statistics of the latest batch; empty before the first."""
        if isinstance(self._latest, dict):
            return self._latest
        source, tau = self._latest
        options = {} if tau is None else {"tau": tau}
        strategy = plain(dataclasses.replace(self.strategy.strategy, **options) if options else self.strategy)
        stats: dict[str, Tensor] = statistics_of(strategy, source) if isinstance(source, Batch) else source.stats
        self._latest = stats = stats | options
        return stats

    def extra_repr(self) -> str:
        """Show every option but the process group."""
        shown = (x for x in OPTIONS[isinstance(self.strategy, nn.Module) :] if x != "process_group")
        return ", ".join(f"{x}={getattr(self, x)!r}" for x in shown)

    def __getstate__(self) -> dict[str, Any]:
        """Copies begin without the statistics of a batch, which a transform of torch.func may have left unreadable."""
        return super().__getstate__() | {"_latest": {}, "_alone": None}

    def _auto_group(self) -> Any:
        """Return the processes that "auto" gathers from, which the first batch decides."""
        self._alone = world_size(self.process_group) == 1 if self._alone is None else self._alone
        return ALONE if self._alone else self.process_group

    @property
    def _learns(self) -> bool:
        """Whether a temperature learns from the energy."""
        return isinstance(self.strategy, LearnableTemperature) and self.strategy.learnable and self.detach_alpha

    def _batch(
        self, strategy: Strategy, views: list[Tensor], labels: Any, queue: Any, graph: bool = False, whole: bool = False
    ) -> tuple[Tensor, Tensor | None, Batch, bool]:
        """Return the views with their graph, their lengths, what engines see, and if some rank wants a gradient."""
        dtype, n, first, length = views[0].dtype, views[0].shape[0], 0, None
        *views, last = promote(*views, *(views[:1] if queue is None else [queue.detach()]))
        rows, queue = torch.stack(views), None if queue is None else last
        labels, differentiable = None if labels is None else labels.long(), torch.is_grad_enabled()
        if self.gather_distributed:
            group = self._auto_group() if self.gather_distributed == "auto" else self.process_group
            in_ring = self.gather_distributed == "ring" and not whole
            in_backward = rows.requires_grad and (not in_ring or self.reduction == "none")
            differentiable = check_that_ranks_agree("z", rows, group, labels, queue, gradient=in_backward)
            check_batch(views, labels, queue, self.negatives, world_size(group))  # earlier, the others would wait
            if not in_ring and (self.negatives != "queue" or labels is not None):
                rows, first = gather(rows, group), rank(group) * n
                labels = None if labels is None else gather(labels.view(1, -1, 1), group).flatten()
        unit = rows if graph else rows.detach()
        if self.l2_normalize:
            unit, length = unit_and_length(unit, dtype)
            queue = None if queue is None else l2_normalize(queue)
        elif queue is not None:
            queue = queue.clone()  # the caller may overwrite it before the backward pass
        classes, asked = None, strategy.uses_positive and not strategy.separable
        if labels is not None and (asked or labels.device.type == "cpu"):  # on a GPU it is worth a host sync to few
            classes = ClassMembers.of(labels)
        anchor_views = len(views) if self.symmetric else 1
        return rows, length, Batch(unit, queue, labels, classes, first, n, anchor_views, self.negatives), differentiable

    def _two_pass(self, strategy: Strategy, batch: Batch) -> TwoPass:
        assert isinstance(strategy, Separable)  # as check_options has seen
        process_group = self.process_group if self.gather_distributed == "ring" else ALONE
        if self.block_size == "kernel":
            from alphacl_plugins.engines.triton_tiles import TritonTiles  # needs Triton

            return TwoPass(strategy, TritonTiles.of(strategy, batch), process_group)
        side = 512 if self.block_size == "auto" else int(self.block_size)  # type: ignore[arg-type]
        tiles = TorchTiles(strategy, batch.negatives, batch.labels is not None, side)
        return TwoPass(strategy, tiles, process_group)

    def _value(self, losses: Losses, source: Batch | TwoPass) -> Tensor:
        """Return the loss of each anchor, from which a temperature learns; remember what has the statistics."""
        learnable = isinstance(self.strategy, LearnableTemperature)
        self._latest = source, self.strategy.tau if learnable else None
        if isinstance(self.strategy, nn.Module) and not learnable:
            self._latest = self.last_stats  # at once, as the state of the strategy may change
        value = losses.minus_energy if losses.value is None else losses.value
        assert value is not None  # as engines form -E where there is no other value
        return self.strategy.learn_from(value, -losses.minus_energy) if self._learns else value


OPTIONS = tuple(name for name in inspect.signature(AlphaCLLoss).parameters if name != "options")  # the strategy first
reserve_options(*OPTIONS)
