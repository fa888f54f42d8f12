"""The ranking loss with cached gradients (GradCache): batches of any size in the memory of a mini-batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from torch import Tensor

from alphacl_sentence_transformers.loss import AlphaCLRankingLoss

if TYPE_CHECKING:
    from alphacl_plugins.strategies import AnyStrategy


class CachedAlphaCLRankingLoss(CachedMultipleNegativesRankingLoss):  # type: ignore[misc]  # the host has no types
    """`AlphaCLRankingLoss` in place of CachedMultipleNegativesRankingLoss: the same loss, embedded in mini-batches.

    Args:
        model: a SentenceTransformer.
        strategy: a registered name, an import path, or a strategy object.
        mini_batch_size: texts that are embedded at once and, where the loss needs similarities, compared at once.
        mini_batch_num_tokens: of the host: texts are packed by their tokens.
        show_progress_bar: of the host.
        **options: of `AlphaCLRankingLoss`.

    Raises:
        TypeError, ValueError: as `AlphaCLRankingLoss`.

    Source:
        Gao et al. (2021), arXiv:2101.06983.
    """

    def __init__(
        self,
        model: Any,
        strategy: str | AnyStrategy = "direct",
        *,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            mini_batch_size=mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            show_progress_bar=show_progress_bar,
        )
        if options.get("guide") is not None:
            raise ValueError("guide: expected None in the cached form, which embeds with one model, got one")
        self.loss: Any = AlphaCLRankingLoss(model, strategy, **options)
        self._slopes: list[Tensor] = []  # of the loss's own parameters, in the batch at hand

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Embed and compare a batch; the gradients wait in the embeddings, and of a learnable τ here, for backward."""
        own, self._slopes = self.loss.own_parameters(), []
        loss: Tensor = super().forward(sentence_features, labels)
        for parameter, slope in zip(own, self._slopes, strict=False):  # none without gradient
            loss = loss + (parameter - parameter.detach()) * slope
        return loss

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Compute the loss of a batch from the embeddings of its mini-batches; backward to them, if asked."""
        embeddings = [torch.cat(column) for column in reps]
        if self.loss.streams(embeddings):
            loss: Tensor = self.loss.compute_loss_from_embeddings(embeddings)
            if with_backward:
                self._backward(loss, reps)
            return loss.detach() if with_backward else loss
        gathered, total = self.loss.gathered(embeddings), embeddings[0].new_zeros(())
        for own in gathered.own.split(self.mini_batch_size):
            part = self.loss.losses_of(gathered, own).sum() / len(gathered.own)
            if with_backward:
                self._backward(part, reps)
                part = part.detach()
            total = total + part
        return total

    def _backward(self, loss: Tensor, reps: list[list[Tensor]]) -> None:
        """Add to the gradients of the embeddings, and to the slopes: backward of the loss is still to come."""
        leaves, own = [leaf for column in reps for leaf in column], self.loss.own_parameters()
        found = torch.autograd.grad(loss, [*leaves, *own], retain_graph=True, materialize_grads=True, allow_unused=True)
        for leaf, gradient in zip(leaves, found, strict=False):
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        slopes = found[len(leaves) :]
        self._slopes = [a + b for a, b in zip(self._slopes, slopes, strict=True)] if self._slopes else list(slopes)

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the host writes into the model card."""
        mini_batches = {name: getattr(self, name) for name in ("mini_batch_size", "mini_batch_num_tokens")}
        return {**self.loss.get_config_dict(), **mini_batches}
