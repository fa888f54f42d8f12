"""AlphaCLLoss: the one loss module, whatever the strategy and the engine."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from alphacl_plugins.arguments import Call, share_of
from alphacl_plugins.distributed import Maybe
from alphacl_plugins.engines.attach import attach
from alphacl_plugins.engines.autograd import all_weights, through_autograd
from alphacl_plugins.engines.blocks import in_blocks
from alphacl_plugins.engines.two_pass import TwoPass
from alphacl_plugins.engines.weights import Losses
from alphacl_plugins.functional import through_normalization, without_autocast
from alphacl_plugins.in_batch import in_batch
from alphacl_plugins.options import BlockSize, Negatives, check_options
from alphacl_plugins.pairs import assemble
from alphacl_plugins.process_groups import InGroup, group_of
from alphacl_plugins.statistics import statistics_of
from alphacl_plugins.strategies import AnyStrategy, Calibrated, PairWeights, resolve_strategy
from alphacl_plugins.strategies.guarded import plain
from alphacl_plugins.strategies.masked import learnable_of, unmasked
from alphacl_plugins.strategies.registry import reserve_options

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Unpack

    from alphacl_plugins.arguments import PairArguments
    from alphacl_plugins.strategies.options import StrategyOptions


class AlphaCLLoss(InGroup):
    """Pair-weighted contrastive loss: gradient ascent on the energy E_α, with α chosen by a strategy.

    The gradient is that of ``-E / M`` over the M anchors, ``E = Σ_i (Σ_j α_ij D_ij - α_i+ D_i+)``, with α held fixed.
    The value is the strategy's own loss if it has one (InfoNCE: τ times NT-Xent), else ``-E / M``, which need not fall.

    Args:
        strategy: a registered name, an import path, or a strategy object such as ``InfoNCE(tau=0.1)``.
        negatives: the other samples in all views ("both"), in the anchor's own view ("same"), in the other views
            ("cross"), or the queue alone ("queue"). None: what the strategy declares, else "both".
        symmetric: True: anchors of every view; False: of the first. None: what the strategy declares, else True.
        l2_normalize: scale embeddings to length 1 first, so that D is 1 - cos; zero rows stay zero, without gradient.
            False: where D / τ leaves the dtype (float32 at least) the loss is inf or NaN.
        detach_alpha: hold α fixed. False: the gradient goes through α (the paper's ablation), and the value is -E / M.
        reduction: "mean" over the anchors, or "none".
        block_size: how the loss is computed. Value and gradient are the same.

            - "auto": the gradient is formed beside the loss in O(N) memory, some anchors at a time.
            - an int >= 1: this many anchors at a time; in a ring, tiles of this many anchors and negatives.
            - "autograd" (or None): from the N x N distances. Second derivatives need it, and with reduction "none" a
              strategy that draws random numbers: the other engines ask for α again in the backward pass.
            - "kernel": by Triton on a GPU, for α_j = c · exp(-D_j^p / τ) (InfoNCE, Direct, ...) without labels.
        gather_distributed: take negatives from all ranks: after DDP has averaged, parameter gradients equal those of
            one process with the whole batch. True gathers all embeddings on each rank; "ring" passes them round in
            O(N / ranks) memory, for strategies whose weights factor (InfoNCE, Direct, KCL, ...). "auto" is True
            if there are several processes at the first batch, else False.
        process_group: the processes that gather, as a ProcessGroup of torch.distributed or a 1-D DeviceMesh; None: the
            default group. A pickle leaves it out: set ``process_group`` before the next batch.
        positives: with labels, rows of the anchor's class in all views ("all") or in the others ("other_views"); those
            of its own view are then neither positives nor negatives.
        positives_as_negatives: the anchor's other positives stand among the negatives too (SupCon's form).
        ignore_label: of samples that are a class of their own each.
        scale: "paper", or "ntxent": value and gradient of the embeddings times the strategy's ``usual_scale``, 1/τ.
        **options: of a strategy by name: ``tau``, ...; ``learnable_tau``, ``effective_share``, ... of `build_strategy`.

    Attributes:
        last_stats: of the latest batch, detached scalars, computed when they are read (until then the loss keeps the
            batch): ``d2_pos`` and ``d2_neg`` (means), ``alpha_entropy`` (mean over anchors, nats),
            ``effective_negatives`` (its exponential) of ``negatives`` (mean number), and options that learn (``tau``).

    Raises:
        TypeError, ValueError: an option is unknown or outside the above, or options do not go together.

    Source:
        Tian (2022), arXiv:2201.12680, Definition 1.

    Examples:
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
        positives: Literal["all", "other_views"] = "all",
        positives_as_negatives: bool = False,
        ignore_label: int | None = None,
        scale: Literal["paper", "ntxent"] = "paper",
        **options: Unpack[StrategyOptions],
    ) -> None:
        super().__init__()
        try:
            self.strategy: Any = resolve_strategy(strategy, options)
        except TypeError as error:
            raise TypeError(f"{error}; the loss's own options are {', '.join(OPTIONS)}" if options else error) from None
        declared = plain(self.strategy)
        self.negatives = (declared.negatives or "both") if negatives is None else negatives
        self.symmetric = next(flag for flag in (symmetric, declared.symmetric, True) if flag is not None)
        self.l2_normalize, self.detach_alpha, self.reduction = l2_normalize, detach_alpha, reduction
        self.block_size, self.gather_distributed = block_size, gather_distributed
        self.positives, self.positives_as_negatives = positives, positives_as_negatives
        self.ignore_label, self.scale = ignore_label, scale
        self.process_group = group_of(process_group)
        check_options(self)
        self._latest: Any = {}  # statistics, or what they are of: the batch, the strategy, its learnt options

    def forward(
        self,
        z: Tensor,
        z_aug: Maybe = None,
        *more_views: Tensor,
        labels: Maybe = None,
        queue: Maybe = None,
        **pairs: Unpack[PairArguments],
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: embeddings of one view, ``[N, D]``, any floating-point dtype; computed in float32 at least.
            z_aug: embeddings of another view, ``[N, D]``. None: there is one view, which needs labels.
            *more_views: of further views. Every other view of an anchor's sample is a positive.
            labels: classes ``[N]``. Every other row of the anchor's class, in any view, is a positive. An anchor with
                several positives has the mean of the losses with one; an anchor without negatives counts 0, and one
                without positives (with one view) is left out of the mean.
            queue: further negatives ``[Q, D]``, without gradient, beside the others.
            **pairs: ``queue_labels``, ``extra_negatives``, ``exclude``, ``count``, ``sample_weight``, as
                `alphacl_plugins.arguments.PairArguments` says.

        Returns:
            a scalar, or with reduction "none" the losses of the M anchors, view by view.

        Raises:
            TypeError, ValueError: dtypes or shapes are not these, or no anchor can have a negative.
        """
        views: list[Any] = [z] if z_aug is None and labels is not None and not more_views else [z, z_aug, *more_views]
        call = Call.of(labels, queue, pairs) if pairs else Call(labels, queue)
        mean, gathers = self.reduction == "mean", self.gather_distributed
        with without_autocast(z.device if isinstance(z, Tensor) else None):
            strategy = plain(self.strategy, detach=self.detach_alpha)
            kept = learnable_of(self.strategy) if isinstance(self.strategy, nn.Module) else None
            by_autograd = self.block_size in ("autograd", None) or not self.detach_alpha
            in_tiles = gathers == "ring" or self.block_size == "kernel"
            rows, length, batch, differentiable = assemble(self, strategy, views, call, graph=by_autograd)
            if strategy.uses_batch or isinstance(kept, Calibrated):
                strategy = in_batch(self, batch, in_tiles=in_tiles, detach=self.detach_alpha)
            scale = 1.0 if self.scale == "paper" else strategy.usual_scale
            if by_autograd:
                losses, energy = through_autograd(strategy, batch, detach_alpha=self.detach_alpha)
                value = self._value(losses, batch.moved(batch.rows.detach()), strategy, kept, scale)
                value = value + scale * (energy - energy.detach())
                value = value if batch.weights is None else value * batch.weights
                share = share_of(losses.found, batch.weights, self.gathering_group()) if mean else 1.0
                return value.mean() * share if mean else value
            learns = kept is not None and kept.learnable
            engine: Any = functools.partial(in_blocks, strategy, block=self.block_size, with_energy=learns)
            engine = TwoPass.of(self, strategy, batch) if in_tiles else engine
            losses, gradient = engine(batch, batch.weights, with_gradient=differentiable and mean)
            value = self._value(losses, engine if in_tiles else batch, strategy, kept, scale)
            if gradient is not None:
                gradient = gradient if self.scale == "paper" else gradient * scale
                gradient = through_normalization(gradient, batch.rows, length)

            def again(upstream: Tensor, unit: Tensor, length: Maybe, queue: Maybe) -> Tensor:
                gradient = engine(batch.moved(unit)._replace(queue=queue), upstream * scale)[1]
                return through_normalization(gradient, unit, length)

            if mean:
                value = value if batch.weights is None else value * batch.weights
                value = value.mean() if gradient is None else attach(value, rows, gradient)  # nobody wants one, or all
                even = batch.weights is None and losses.found is None
                return value if even else value * share_of(losses.found, batch.weights, self.gathering_group())
            value = attach(value, rows, again, batch.rows, length, batch.queue)
            return value if batch.weights is None else value * batch.weights

    def pair_weights(
        self,
        z: Tensor,
        z_aug: Maybe = None,
        *more_views: Tensor,
        labels: Maybe = None,
        queue: Maybe = None,
        **pairs: Unpack[PairArguments],
    ) -> PairWeights:
        """Return the α of this batch: what `forward` would hold fixed, complete with ``pos`` and ``value``.

        The arguments are those of `forward`.

        Returns:
            a row for each anchor, in the loss's order. Columns of ``neg`` are the rows of all views for "both" (or with
            labels), of the anchor's own view or the other views for "same" and "cross"; then extra negatives (the C, or
            the anchor's own H); then the queue. An excluded one has weight 0. ``pos`` is ``[M]``, or with several
            positives ``[M, P]``, each times its share in the mean: without labels the other views, beginning with the
            next; with labels all columns.
        """
        views: list[Any] = [z] if z_aug is None and labels is not None and not more_views else [z, z_aug, *more_views]
        call = Call.of(labels, queue, pairs)
        with torch.no_grad(), without_autocast(z.device if isinstance(z, Tensor) else None):
            batch = assemble(self, plain(self.strategy), views, call, whole=True).batch
            return all_weights(in_batch(self, batch), batch)

    @property
    def last_stats(self) -> dict[str, Tensor]:
        """Statistics of the latest batch; empty before the first."""
        if not isinstance(self._latest, dict):
            source, strategy, options = self._latest
            self._latest = statistics_of(strategy, source) | options
        return self._latest

    def extra_repr(self) -> str:
        """Show every option but the process group."""
        shown = (x for x in OPTIONS[isinstance(self.strategy, nn.Module) :] if x != "process_group")
        return ", ".join(f"{x}={getattr(self, x)!r}" for x in shown)

    def __getstate__(self) -> dict[str, Any]:
        """Copies begin without the statistics of a batch, which a transform of torch.func may have left unreadable."""
        return super().__getstate__() | {"_latest": {}}

    def _value(self, losses: Losses, source: Any, strategy: Any, kept: Any, scale: float | Tensor) -> Tensor:
        """Return the loss of each anchor, from which kept options learn; remember what has the statistics."""
        self._latest = source, strategy, {} if kept is None else kept.in_force
        if kept is None and isinstance(self.strategy, nn.Module) and isinstance(unmasked(self.strategy), nn.Module):
            self._latest = self.last_stats  # at once, as the state of the strategy may change
        value = losses.minus_energy if losses.value is None else losses.value
        value = value if self.scale == "paper" else value * scale
        learns = kept is not None and kept.learnable and self.detach_alpha
        return kept.learn_from(value, -losses.minus_energy, losses.excess) if learns else value


OPTIONS = tuple(name for name in inspect.signature(AlphaCLLoss).parameters if name != "options")  # the strategy first
reserve_options(*OPTIONS)
