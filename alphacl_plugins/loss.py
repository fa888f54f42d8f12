"""AlphaCLLoss: the one loss module, whatever the strategy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from alphacl_plugins._checks import check_bool, check_choice
from alphacl_plugins._options import (
    as_strategy,
    check_batch,
    check_block_size,
    check_for_ring,
    declared,
    explain_unexpected,
)
from alphacl_plugins.functional import l2_normalize, promote, without_autocast
from alphacl_plugins.metrics import alpha_entropy
from alphacl_plugins.pairs import NEGATIVES, Batch, PairDistances, assemble, candidate_views, pair_distances
from alphacl_plugins.positives import weigh
from alphacl_plugins.ranks import world_size
from alphacl_plugins.ring import ring_loss
from alphacl_plugins.strategies import PairWeights, Strategy, Tempered
from alphacl_plugins.strategies.factored import Factored
from alphacl_plugins.streaming import Stream, automatic_block
from alphacl_plugins.streaming.fused import check_strategy


class AlphaCLLoss(nn.Module):
    """Pair-weighted contrastive loss: gradient ascent on the energy E_α, with α chosen by a strategy.

    The gradient is that of ``-E / M`` over the M anchors, ``E = Σ_i (Σ_j α_ij D_ij - α_i+ D_i+)``, with α held fixed.
    The value is the strategy's own loss where it has one (InfoNCE: τ times NT-Xent), else ``-E / M``, which is a
    direction rather than a curve that must fall.

    Args:
        strategy: a registered name (its default options), an import path, or a strategy object such as
            ``InfoNCE(tau=0.1)``.
        negatives: candidates of an anchor are the other samples in all views ("both"), in its own view ("same"), in
            the other views ("cross"), or the queue alone ("queue"). None: what the strategy declares, else "both".
        symmetric: True: every view gives anchors, M = 2N for two; False: the first alone, M = N. None: what the
            strategy declares, else True.
        l2_normalize: scale embeddings to length 1 first, so that D is 1 - cos; zero rows stay zero, without gradient.
            False: squared lengths, times what the strategy makes of them (D / τ), must fit the dtype (float32 at
            least); distances beyond it make the loss inf or NaN, never a wrong finite number.
        detach_alpha: hold α fixed. False lets the gradient through α (the paper's ablation), whose value is
            ``-E / M``.
        reduction: "mean" over the anchors, or "none".
        block_size: how many anchors are compared at once, >= 1. The gradient is then formed block by block beside the
            loss, in memory of the size of the embeddings; "auto" chooses (with reduction "none" and few anchors it is
            None). None: by autograd from the N x N
            distances, which second derivatives (with α held fixed) need, and with reduction "none" a strategy that
            draws random numbers, as α is else formed once more in the backward pass. "kernel", on request only: by
            Triton on a GPU, which writes no distance to memory, for α_j = c · exp(-D_j^p / τ) (InfoNCE, Entropy,
            Direct, DHEL, ...) without labels.
        gather_distributed: take candidates from all ranks, exactly: after DDP has averaged, parameter gradients equal
            those of one process with the whole batch. True gathers the embeddings of all ranks on each; "ring" passes
            them round instead, for the same gradient in O(N / ranks) memory, for strategies whose weights factor: the
            softmax types and the kernels. With one process True changes nothing; "ring" still saves the N x N matrix.

    Attributes:
        last_stats: of the latest batch, detached scalars: ``d2_pos`` and ``d2_neg`` (means), ``alpha_entropy`` (mean
            over anchors, nats), ``effective_negatives`` (its exponential), and ``tau`` of a `Tempered` strategy.
            Within torch.func's transforms they can be read inside the transform only.

    Raises: ValueError, TypeError for an option outside the above.
    Source: Tian (2022), arXiv:2201.12680, Definition 1.

    >>> import torch
    >>> z = torch.eye(4)
    >>> AlphaCLLoss("direct")(z, z)  # positives at D = 0, all candidates at D = 1
    tensor(-1.)
    """

    last_stats: dict[str, Tensor]

    def __init__(
        self,
        strategy: str | Strategy = "direct",
        *,
        negatives: str | None = None,
        symmetric: bool | None = None,
        l2_normalize: bool = True,
        detach_alpha: bool = True,
        reduction: str = "mean",
        block_size: int | str | None = "auto",
        gather_distributed: bool | str = False,
        **unexpected: Any,
    ) -> None:
        super().__init__()
        if unexpected:
            raise TypeError(explain_unexpected(AlphaCLLoss, strategy, unexpected))
        self.strategy = as_strategy(strategy)
        negatives = declared(negatives, self.strategy, "negatives", "both")
        symmetric = declared(symmetric, self.strategy, "symmetric", True)
        check_choice("negatives", negatives, NEGATIVES)
        check_choice("reduction", reduction, ("mean", "none"))
        flags = {
            "symmetric": symmetric,
            "l2_normalize": l2_normalize,
            "detach_alpha": detach_alpha,
        }
        for name, flag in flags.items():
            check_bool(name, flag)
        check_choice("gather_distributed", gather_distributed, (True, False, "ring"))
        if gather_distributed and not dist.is_available():
            raise ValueError("gather_distributed: expected a torch build with torch.distributed, got one without")
        check_block_size(block_size, detach_alpha, gather_distributed)
        if gather_distributed == "ring":
            check_for_ring(self.strategy, detach_alpha)
        if block_size == "kernel":
            check_strategy(self.strategy)
        self.negatives = negatives
        self.symmetric = symmetric
        self.l2_normalize = l2_normalize
        self.detach_alpha = detach_alpha
        self.reduction = reduction
        self.block_size = block_size
        self.gather_distributed = gather_distributed
        self.last_stats = {}

    def forward(
        self, z: Tensor, z_aug: Tensor, *more_views: Tensor, labels: Tensor | None = None, queue: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: embeddings of one view, any floating-point dtype; computed in float32 at least.
            z_aug: embeddings of another view.
            *more_views: of further views. Every other view of an anchor's sample is a positive.
            labels: classes, integers. Every other row of the anchor's class, in any view, is a positive and never a
                candidate. An anchor with several positives has the mean of the losses with one; an anchor without
                candidates contributes 0.
            queue: further candidates, without gradient, beside those of ``negatives``.

        Shape: ``[N, D]`` each, labels ``[N]``, queue ``[Q, D]`` -> scalar, or with reduction "none" ``[views * N]``
            (``[N]`` if not symmetric), the anchors of ``z`` first.
        Raises: TypeError, ValueError if shapes or dtypes are not these, or no anchor can have a candidate.
        """
        views = [z, z_aug, *more_views]
        check_batch(views, labels, queue)
        block = self._block(views, labels, queue)
        if block is not None:
            with without_autocast(z.device):
                return self._streamed(views, labels, queue, block)
        views, labels, queue = self._prepare(views, labels, queue)
        if self.gather_distributed == "ring":
            per_anchor = self._in_ring(views, labels, queue)
        else:
            distances = self._distances(views, labels, queue)
            weights = self._weigh(distances)
            self._keep_stats(distances, weights)
            per_anchor = _per_anchor(distances, weights)
        return per_anchor.mean() if self.reduction == "mean" else per_anchor

    def pair_weights(
        self, z: Tensor, z_aug: Tensor, *more_views: Tensor, labels: Tensor | None = None, queue: Tensor | None = None
    ) -> PairWeights:
        """Return the α of this batch: what `forward` would hold fixed, complete with ``pos`` and ``value``.

        Shape: rows are the M anchors in the loss's order. Columns of ``neg`` are the candidates: for "both" all views,
            for "same" and "cross" the anchor's own or the other views, in order; then the queue. An excluded one has
            weight 0. ``pos`` is ``[M]``, or with several positives ``[M, P]``, each times its share in the mean:
            without labels the other views, beginning with the next; with labels all rows of all views.
        """
        views = [z, z_aug, *more_views]
        check_batch(views, labels, queue)
        distances = self._distances(*self._prepare(views, labels, queue))
        weights = self._weigh(distances)
        pos = weights.pos[:, 0] if weights.pos.shape[1] == 1 else weights.pos
        return PairWeights(weights.neg.detach(), pos.detach(), _per_anchor(distances, weights).detach())

    def extra_repr(self) -> str:
        """Show every option."""
        names = (
            "negatives",
            "symmetric",
            "l2_normalize",
            "detach_alpha",
            "reduction",
            "block_size",
            "gather_distributed",
        )
        shown = {} if isinstance(self.strategy, nn.Module) else {"strategy": self.strategy}
        shown.update({name: getattr(self, name) for name in names})
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def __getstate__(self) -> dict[str, Any]:
        """Copies begin without the statistics of a batch, which a transform of torch.func may have left unreadable."""
        return self.__dict__ | {"last_stats": {}}

    def _prepare(
        self, views: list[Tensor], labels: Tensor | None, queue: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Normalise the batch and bring it to one dtype, labels to int64."""
        rows = views if queue is None else [*views, queue.detach()]
        rows = promote(*[l2_normalize(row) for row in rows] if self.l2_normalize else rows)
        labels = None if labels is None else labels.long()
        return rows[: len(views)], labels, None if queue is None else rows[-1]

    def _assemble(self, views: list[Tensor], labels: Tensor | None, queue: Tensor | None) -> Batch:
        gather = bool(self.gather_distributed)
        return assemble(views, negatives=self.negatives, labels=labels, queue=queue, gather_distributed=gather)

    def _distances(self, views: list[Tensor], labels: Tensor | None, queue: Tensor | None) -> PairDistances:
        batch = self._assemble(views, labels, queue)
        return pair_distances(batch, negatives=self.negatives, symmetric=self.symmetric)

    def _block(self, views: list[Tensor], labels: Tensor | None, queue: Tensor | None) -> int | str | None:
        """How many anchors are compared at once; None: all, by autograd from the matrix of distances; "kernel"."""
        if self.block_size is None or not self.detach_alpha or self.gather_distributed == "ring":
            return None
        if self.block_size != "auto":
            return self.block_size if isinstance(self.block_size, str) else int(self.block_size)
        n_views = len(views)
        n_anchors = len(views[0]) * (n_views if self.symmetric else 1)
        ranks = world_size() if self.gather_distributed else 1
        compared = len(candidate_views(self.negatives, 0, n_views)) if labels is None else n_views
        n_candidates = compared * len(views[0]) * ranks
        block = automatic_block(self.strategy, n_anchors, n_candidates + (0 if queue is None else len(queue)))
        return None if self.reduction == "none" and block >= n_anchors else block

    def _streamed(self, views: list[Tensor], labels: Tensor | None, queue: Tensor | None, block: int | str) -> Tensor:
        """The loss with a gradient that is formed beside it, not by autograd from the matrix of distances."""
        normalize = self.l2_normalize and not self.gather_distributed and _alike(views, queue)
        if normalize:  # as part of the stream: fewer operations
            queue = None if queue is None else l2_normalize(queue.detach()).to(promote(views[0])[0].dtype)
            labels = None if labels is None else labels.long()
        else:
            views, labels, queue = self._prepare(views, labels, queue)
        batch = self._assemble(views, labels, queue)
        first, samples = batch.first, len(batch.views[0])
        stream = Stream(
            strategy=self.strategy,
            negatives=self.negatives,
            symmetric=self.symmetric,
            normalize=normalize,
            labels=batch.classes if batch.labelled else None,
            queue=batch.queue,
            own=range(first, first + samples),
            block=block,
        )
        loss, self.last_stats = stream.loss(torch.stack(batch.everyone), self.reduction)
        self._keep_tau()
        return loss

    def _in_ring(self, views: list[Tensor], labels: Tensor | None, queue: Tensor | None) -> Tensor:
        strategy: Factored = self.strategy.factored  # type: ignore[attr-defined]  # __init__ has seen to it
        minus_energy, value, self.last_stats = ring_loss(
            strategy, views, negatives=self.negatives, symmetric=self.symmetric, labels=labels, queue=queue
        )
        self._keep_tau()
        if isinstance(self.strategy, Tempered) and self.strategy.learnable and value is not None:
            value = self.strategy.learn_from(value, -minus_energy)
        return _with_gradient(value, minus_energy)

    def _weigh(self, distances: PairDistances) -> _Weights:
        d2_pos, d2_neg = distances.pos, distances.for_strategy()
        if self.detach_alpha:
            d2_pos, d2_neg = d2_pos.detach(), d2_neg.detach()
        neg, pos, value = weigh(
            self.strategy, d2_pos, distances.share, d2_neg, lambda neg: neg.masked_fill(distances.excluded, 0.0)
        )
        assert pos is not None  # completed by weigh
        lonely = distances.without_candidates()
        pos = pos.masked_fill(lonely, 0.0)
        if not self.detach_alpha:
            return _Weights(neg, pos, None)
        return _Weights(neg.detach(), pos.detach(), None if value is None else value.masked_fill(lonely[:, 0], 0.0))

    def _keep_stats(self, distances: PairDistances, weights: _Weights) -> None:
        compared = (~distances.excluded).sum()
        entropy = alpha_entropy(weights.neg)
        self.last_stats = {
            "d2_pos": (distances.share * distances.pos.detach()).sum(dim=1).mean(),
            "d2_neg": distances.neg.detach().masked_fill(distances.excluded, 0.0).sum() / compared.clamp_min(1),
            "alpha_entropy": entropy,
            "effective_negatives": entropy.exp(),
        }
        self._keep_tau()

    def _keep_tau(self) -> None:
        if isinstance(self.strategy, Tempered):
            self.last_stats["tau"] = self.strategy.tau


class _Weights(NamedTuple):
    """Complete pair weights; the value is None where it is ``-E``, as it is whenever the gradient goes through α."""

    neg: Tensor  # [M, K]
    pos: Tensor  # [M, P]
    value: Tensor | None  # [M]


def _per_anchor(distances: PairDistances, weights: _Weights) -> Tensor:
    """The loss of each anchor."""
    minus_energy = (weights.pos * distances.pos).sum(dim=1) - (weights.neg * distances.neg).sum(dim=1)
    return _with_gradient(weights.value, minus_energy)


def _with_gradient(value: Tensor | None, minus_energy: Tensor) -> Tensor:
    """The strategy's own value, if it has one, with the gradient of ``-E``."""
    return minus_energy if value is None else value + (minus_energy - minus_energy.detach())


def _alike(views: list[Tensor], queue: Tensor | None) -> bool:
    """Whether the views are of one dtype and the queue of no higher one."""
    dtype = promote(views[0])[0].dtype
    higher = queue is not None and torch.promote_types(dtype, queue.dtype) != dtype
    return not higher and all(view.dtype == views[0].dtype for view in views)
