"""The ranking loss with cached gradients (GradCache): batches of any size in the memory of a mini-batch."""

from __future__ import annotations

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

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Compute the loss of a batch from the embeddings of its mini-batches; backward to them, if asked."""
        embeddings = [torch.cat(column) for column in reps]
        if self.loss.streams(len(embeddings)):
            loss: Tensor = self.loss.compute_loss_from_embeddings(embeddings)
            if with_backward:
                loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach() if with_backward else loss
        gathered, total = self.loss.gathered(embeddings), embeddings[0].new_zeros(())
        for own in gathered.own.split(self.mini_batch_size):
            part = self.loss.losses_of(gathered, own).sum() / len(gathered.own)
            if with_backward:
                part.backward(retain_graph=True)
                part = part.detach()
            total = total + part
        return total

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the host writes into the model card."""
        mini_batches = {name: getattr(self, name) for name in ("mini_batch_size", "mini_batch_num_tokens")}
        return {**self.loss.get_config_dict(), **mini_batches}
