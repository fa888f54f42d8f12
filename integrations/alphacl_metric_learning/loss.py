"""`AlphaCLLoss` as a pair loss of pytorch-metric-learning: miners say which pairs there are, α what they weigh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from alphacl_plugins import row_losses
from alphacl_plugins.options import check_scale
from alphacl_plugins.strategies import AnyStrategy, Calibrated, resolve_strategy
from alphacl_plugins.strategies.guarded import plain
from alphacl_plugins.strategies.masked import learnable_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from alphacl_plugins.strategies import StrategyOptions


class AlphaCLLoss(losses.GenericPairLoss):  # type: ignore[misc]  # the host has no types
    """Pair-weighted contrastive loss on the pairs that labels, or a miner, name.

    ``AlphaCLLoss("infonce", tau=0.07)`` is ``NTXentLoss(temperature=0.07)``, without its matrix of positive pairs times
    negative pairs. Each positive pair has a loss, in which it is compared with the anchor's negatives; a reducer sees
    these, as NTXentLoss's: a mean over anchors is the host's ``PerAnchorReducer``. A pair that a miner names several
    times, as triplet miners do, counts as often.

    Args:
        strategy: a registered name, an import path, or a strategy object.
        scale: "ntxent", or "paper", τ times as large; strategies without τ have the latter alone.
        distance: of the host; the default is CosineSimilarity, with D = 1 - cos. D is what another distance says, or
            minus a similarity, as in NTXentLoss; for dot products a strategy in which distances enter by differences.
        reducer: the host's.
        embedding_regularizer: the host's.
        embedding_reg_weight: the host's.
        collect_stats: the host's.
        **options: of a strategy given by name, but for ``effective_share``, which needs a whole batch.

    Raises:
        TypeError, ValueError: an option is not these, or the strategy needs distances and gets similarities.

    Source:
        Tian (2022), arXiv:2201.12680, Definition 1.

    Examples:
        >>> from pytorch_metric_learning.miners import MultiSimilarityMiner
        >>> loss, miner = AlphaCLLoss("direct", tau=0.5), MultiSimilarityMiner()
        >>> embeddings, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> loss(embeddings, labels, miner(embeddings, labels))  # all pairs at D = 1
        tensor(0.)
    """

    def __init__(
        self,
        strategy: str | AnyStrategy = "direct",
        *,
        scale: Literal["paper", "ntxent"] = "ntxent",
        distance: Any = None,
        reducer: Any = None,
        embedding_regularizer: Any = None,
        embedding_reg_weight: float = 1,
        collect_stats: bool | None = None,
        **options: Unpack[StrategyOptions],
    ) -> None:
        super().__init__(
            mat_based_loss=True,
            distance=distance,
            reducer=reducer,
            embedding_regularizer=embedding_regularizer,
            embedding_reg_weight=embedding_reg_weight,
            collect_stats=collect_stats,
        )
        self.strategy: Any = resolve_strategy(strategy, options)
        check_scale(scale, self.strategy)
        self.scale = scale
        kept = learnable_of(self.strategy)
        if isinstance(kept, Calibrated):  # pairs of a miner are no batch on which it could find its τ
            kept.check_found()
        similar = self.distance.is_inverted and not isinstance(self.distance, CosineSimilarity)
        if similar and plain(self.strategy).needs_distance:
            raise ValueError(
                f"distance: expected a distance or CosineSimilarity with {self.strategy!r}, which needs distances, got "
                f"{type(self.distance).__name__}"
            )

    def extra_repr(self) -> str:
        """Show the strategy, beside the host's own modules."""
        return f"strategy={self.strategy!r}, scale={self.scale!r}"

    def mat_based_loss(self, mat: Tensor, indices_tuple: Any) -> Any:
        """Compute the losses of the positive pairs from the host's matrix ``[Q, K]`` and the pairs' indices."""
        a1, p, a2, n = indices_tuple
        if len(a1) == 0 or len(a2) == 0:
            return self.zero_losses()
        d, one = self._distances(mat), mat.new_ones(())
        pos, neg = (torch.zeros_like(mat).index_put_(at, one, accumulate=True) for at in ((a1, p), (a2, n)))
        neg = self._counts(neg)
        if type(self.reducer) is MeanReducer and not plain(self.strategy).uses_batch:  # a row for each anchor is enough
            anchors = pos.any(dim=1).nonzero()[:, 0]
            d, number = d[anchors], pos[anchors].sum(dim=1, keepdim=True)
            share = pos[anchors] / number
            found = row_losses(self.strategy, d, d, share=share, count=neg[anchors], scale=self.scale)
            indices: Any = anchors
            found, kind = found * (number / number.mean())[:, 0], "element"
        else:
            found = row_losses(self.strategy, d[a1, p][:, None], d[a1], count=neg[a1], scale=self.scale)
            indices, kind = (a1, p), "pos_pair"
        return {"loss": {"losses": found, "indices": indices, "reduction_type": kind}}

    def _distances(self, mat: Tensor) -> Tensor:
        if not self.distance.is_inverted:
            return mat
        return 1 - mat if isinstance(self.distance, CosineSimilarity) else -mat

    def _counts(self, neg: Tensor) -> Tensor:
        """Return how often each negative counts, as a mask for a strategy that cannot count."""
        if plain(self.strategy).counts:
            return neg
        if bool((neg > 1).any()):
            raise ValueError(
                f"indices_tuple: expected each negative pair once with {self.strategy!r}, which cannot count, got some "
                "several times, as from a miner of triplets"
            )
        return neg > 0

    def get_default_distance(self) -> Any:
        """Return the cosine, as NTXentLoss does."""
        return CosineSimilarity()
