"""AlphaCLLoss: the one loss module, whatever the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch import distributed as dist

from alphacl_plugins._checks import check_bool, check_choice, check_same_shape, check_width
from alphacl_plugins.functional import l2_normalize, promote
from alphacl_plugins.metrics import alpha_entropy
from alphacl_plugins.pairs import NEGATIVES, PairDistances, group_pairs, pair_distances
from alphacl_plugins.strategies import PairWeights, Strategy, build_strategy


class AlphaCLLoss(nn.Module):
    """Pair-weighted contrastive loss: gradient ascent on the energy E_α, with α chosen by a strategy.

    The gradient is that of ``-E / M`` over the M anchors, ``E = Σ_i (Σ_j α_ij D_ij - α_i+ D_i+)``, with α held fixed.
    The value is the strategy's own loss where it has one (InfoNCE: τ times NT-Xent), else ``-E / M``, which is a
    direction rather than a curve that must fall.

    Args:
        strategy: a registered name (its default options), an import path, or a strategy object such as
            ``InfoNCE(tau=0.1)``.
        negatives: candidates of an anchor are the other samples in all views ("both"), in its own view ("same"), in
            the other view ("cross"), or the queue alone ("queue"). None: what the strategy declares, else "both".
        symmetric: True: both views give anchors, M = 2N; False: the first alone, M = N. None: what the strategy
            declares, else True.
        l2_normalize: scale embeddings to length 1 first, so that D is 1 - cos; zero rows stay zero, without gradient.
        detach_alpha: hold α fixed. False lets the gradient through α (the paper's ablation), whose value is
            ``-E / M``.
        reduction: "mean" over the anchors, or "none".
        gather_distributed: take candidates from all ranks, exactly: after DDP has averaged, parameter gradients equal
            those of one process with the whole batch. Without several processes it changes nothing.

    Attributes:
        last_stats: of the latest batch, detached scalars: ``d2_pos`` and ``d2_neg`` (means), ``alpha_entropy`` (mean
            over anchors, nats), ``effective_negatives`` (its exponential).

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
        gather_distributed: bool = False,
        **unexpected: Any,
    ) -> None:
        super().__init__()
        if unexpected:
            raise TypeError(_explain_unexpected(unexpected))
        self.strategy = _as_strategy(strategy)
        negatives = _declared(negatives, self.strategy, "negatives", "both")
        symmetric = _declared(symmetric, self.strategy, "symmetric", True)
        check_choice("negatives", negatives, NEGATIVES)
        check_choice("reduction", reduction, ("mean", "none"))
        flags = {
            "symmetric": symmetric,
            "l2_normalize": l2_normalize,
            "detach_alpha": detach_alpha,
            "gather_distributed": gather_distributed,
        }
        for name, flag in flags.items():
            check_bool(name, flag)
        if gather_distributed and not dist.is_available():
            raise ValueError("gather_distributed: expected a torch build with torch.distributed, got one without")
        self.negatives = negatives
        self.symmetric = symmetric
        self.l2_normalize = l2_normalize
        self.detach_alpha = detach_alpha
        self.reduction = reduction
        self.gather_distributed = gather_distributed
        self.last_stats = {}

    def forward(self, z: Tensor, z_aug: Tensor, *, queue: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: embeddings of one view, any floating-point dtype; computed in float32 at least.
            z_aug: embeddings of the other view.
            queue: further candidates, without gradient, beside those of ``negatives``.

        Shape: ``[N, D]``, ``[N, D]``, ``[Q, D]`` -> scalar, or with reduction "none" ``[2N]`` (``[N]`` if not
            symmetric), the anchors of ``z`` first.
        Raises: TypeError, ValueError if shapes or dtypes are not these, or an anchor has no candidate.
        """
        distances = self._distances(z, z_aug, queue)
        weights = self._weigh(distances)
        self._keep_stats(distances, weights)
        per_anchor = self._per_anchor(distances, weights)
        return per_anchor.mean() if self.reduction == "mean" else per_anchor

    def pair_weights(self, z: Tensor, z_aug: Tensor, *, queue: Tensor | None = None) -> PairWeights:
        """Return the α of this batch: what `forward` would hold fixed, complete with ``pos`` and ``value``.

        Shape: rows are the M anchors in the loss's order. Columns are the candidates: for "both" ``z`` then ``z_aug``;
            for "same" and "cross" the anchor's own or other view; then the queue. An excluded candidate has weight 0.
        """
        distances = self._distances(z, z_aug, queue)
        weights = self._weigh(distances)
        return PairWeights(weights.neg, weights.pos, self._per_anchor(distances, weights).detach())

    def extra_repr(self) -> str:
        """Show every option."""
        names = ("negatives", "symmetric", "l2_normalize", "detach_alpha", "reduction", "gather_distributed")
        shown = {} if isinstance(self.strategy, nn.Module) else {"strategy": self.strategy}
        shown.update({name: getattr(self, name) for name in names})
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def _distances(self, z: Tensor, z_aug: Tensor, queue: Tensor | None) -> PairDistances:
        check_same_shape("z_aug", z_aug, "z", z)
        views: Sequence[Tensor] = [z, z_aug]
        if queue is not None:
            check_width("queue", queue, "z", z)
            views = [z, z_aug, queue.detach()]
        views = [l2_normalize(view) for view in views] if self.l2_normalize else views
        z, z_aug, *rest = promote(*views)
        groups = group_pairs(
            [z, z_aug],
            negatives=self.negatives,
            symmetric=self.symmetric,
            queue=rest[0] if rest else None,
            gather_distributed=self.gather_distributed,
        )
        return pair_distances(groups)

    def _weigh(self, distances: PairDistances) -> PairWeights:
        d2_pos, d2_neg = distances.for_strategy()
        if not self.detach_alpha:
            neg, pos, _ = self.strategy(d2_pos, d2_neg)
            return PairWeights(neg, neg.sum(dim=1) if pos is None else pos)
        neg, pos, value = self.strategy(d2_pos.detach(), d2_neg.detach())
        neg = neg.detach()
        return PairWeights(neg, neg.sum(dim=1) if pos is None else pos.detach(), value)

    def _per_anchor(self, distances: PairDistances, weights: PairWeights) -> Tensor:
        """``-E`` of each anchor; with α held fixed, the strategy's own value carries that gradient."""
        assert weights.pos is not None  # completed by _weigh
        minus_energy = weights.pos * distances.pos - (weights.neg * distances.neg).sum(dim=1)
        if weights.value is None:
            return minus_energy
        return weights.value + (minus_energy - minus_energy.detach())

    def _keep_stats(self, distances: PairDistances, weights: PairWeights) -> None:
        compared = (~distances.excluded).sum()
        entropy = alpha_entropy(weights.neg)
        self.last_stats = {
            "d2_pos": distances.pos.detach().mean(),
            "d2_neg": distances.neg.detach().masked_fill(distances.excluded, 0.0).sum() / compared,
            "alpha_entropy": entropy,
            "effective_negatives": entropy.exp(),
        }


def _as_strategy(strategy: object) -> Strategy:
    if isinstance(strategy, str):
        return build_strategy(strategy)
    if isinstance(strategy, type) or not callable(strategy):
        hint = "; a temperature goes into the strategy: InfoNCE(tau=0.5)" if isinstance(strategy, (int, float)) else ""
        raise TypeError(f"strategy: expected a name or a strategy object, got {strategy!r}{hint}")
    return cast(Strategy, strategy)


def _declared(option: Any, strategy: Strategy, name: str, default: object) -> Any:
    """Return the option if given, else what the strategy declares, else the default."""
    if option is not None:
        return option
    declared = getattr(strategy, name, None)
    return default if declared is None else declared


def _explain_unexpected(options: dict[str, Any]) -> str:
    names = ", ".join(options)
    hint = "the temperature is called tau and " if "temperature" in options else ""
    return f"AlphaCLLoss: got unexpected {names}; {hint}options of a strategy go into it: InfoNCE(tau=0.5)"
