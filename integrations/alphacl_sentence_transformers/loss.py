"""The ranking loss of sentence-transformers, with a strategy that says how much each document counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import batch_to_device, cos_sim, euclidean_sim, manhattan_sim, pairwise_cos_sim
from torch import Tensor

import alphacl_plugins
from alphacl_plugins import row_losses
from alphacl_plugins.agreement import check_that_ranks_agree
from alphacl_plugins.checks import check_choice, check_finite
from alphacl_plugins.distributed import ALONE, gather, rank, world_size
from alphacl_plugins.strategies import AnyStrategy, Calibrated, resolve_strategy
from alphacl_plugins.strategies.guarded import plain, plain_on
from alphacl_plugins.strategies.masked import learnable_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from alphacl_plugins.strategies import StrategyOptions

TO_DOC = "query_to_doc"
HARDNESS = (None, "in_batch_negatives", "hard_negatives", "all_negatives")


class Gathered(NamedTuple):
    """The embeddings of a batch, of all ranks if they are gathered."""

    queries: Tensor  # [N, D]
    documents: list[Tensor]  # [N, D] each: the positives, then hard negatives
    own: Tensor  # which samples are this rank's
    guide: Gathered | None = None  # what a guide has embedded


class AlphaCLRankingLoss(MultipleNegativesRankingLoss):  # type: ignore[misc]  # the host has no types
    """Pair-weighted ranking loss, in place of MultipleNegativesRankingLoss.

    ``AlphaCLRankingLoss(model, "infonce", tau=0.05)`` is ``MultipleNegativesRankingLoss(model, scale=20)``. D is
    ``1 - cos``, the distance for euclidean_sim and manhattan_sim, and minus the similarity for any other function, for
    strategies in which distances enter by differences. With cosines and query_to_doc alone (or query_to_doc and
    doc_to_query, per direction, without hard negatives) memory is linear in the batch.

    Args:
        model: a SentenceTransformer.
        strategy: a registered name, an import path, or a strategy object.
        similarity_fct: as in the host.
        gather_across_devices: as in the host.
        directions: as in the host.
        partition_mode: as in the host.
        hardness_mode: as in the host, for every strategy that can count.
        hardness_strength: as in the host: a document counts ``exp(strength cos)`` times.
        false_negatives: function of queries ``[m, D]`` and documents ``[K, D]``, without gradient, that returns which
            documents are not negatives of a query, a bool mask ``[m, K]``, in query_to_doc; the query's own positive
            stays what it is.
        guide: a SentenceTransformer that knows false negatives, as in GISTEmbedLoss: those that are closer (in cosine)
            than the positive in its eyes, by ``margin``, in every direction.
        margin_strategy: as in GISTEmbedLoss: "absolute", or "relative" to the positive's cosine.
        margin: as in GISTEmbedLoss.
        scale: "ntxent", the value as usual (1/τ), or "paper", τ times as large; strategies without τ have the latter
            alone. (The host's scale is our 1/τ: give ``tau``.)
        **options: of a strategy given by name.

    Raises:
        TypeError, ValueError: an option is not these, or options do not go together.

    Source:
        Tian (2022), arXiv:2201.12680, Definition 1.
    """

    def __init__(
        self,
        model: Any,
        strategy: str | AnyStrategy = "direct",
        *,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
        directions: Sequence[str] = (TO_DOC,),
        partition_mode: Literal["joint", "per_direction"] = "joint",
        hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"] | None = None,
        hardness_strength: float = 0.0,
        false_negatives: Callable[[Tensor, Tensor], Tensor] | None = None,
        guide: Any = None,
        margin_strategy: Literal["absolute", "relative"] = "absolute",
        margin: float = 0.0,
        scale: Literal["paper", "ntxent"] = "ntxent",
        **options: Unpack[StrategyOptions],
    ) -> None:
        check_choice("hardness_mode", hardness_mode, HARDNESS)
        check_choice("margin_strategy", margin_strategy, ("absolute", "relative"))
        check_finite("margin", margin)
        resolved = resolve_strategy(strategy, options)
        if isinstance(learnable_of(resolved), Calibrated):
            raise ValueError(
                "effective_share: expected None, as the model card names the scale from the start; give tau"
            )
        usual = plain(resolved).usual_scale
        super().__init__(
            model,
            scale=1.0 if scale == "paper" or usual is None else float(usual),  # what the host shows
            similarity_fct=similarity_fct,
            gather_across_devices=gather_across_devices,
            directions=tuple(directions),
            partition_mode=partition_mode,
            hardness_mode=hardness_mode,
            hardness_strength=hardness_strength,
        )
        self.false_negatives, self.guide = false_negatives, guide
        self.margin_strategy, self.margin = margin_strategy, margin
        self.criterion = alphacl_plugins.AlphaCLLoss(
            resolved,
            negatives="cross",
            symmetric="doc_to_query" in directions,
            gather_distributed="auto" if gather_across_devices else False,
            scale=scale,
        )
        rule: Any = plain(self.strategy)
        if rule.needs_distance and similarity_fct not in (cos_sim, euclidean_sim, manhattan_sim):
            raise ValueError(
                f"similarity_fct: expected cos_sim, euclidean_sim or manhattan_sim with {self.strategy!r}, which needs "
                f"distances, got {getattr(similarity_fct, '__name__', similarity_fct)}"
            )
        if hardness_mode is not None and hardness_strength > 0 and not rule.counts:
            raise ValueError(f"hardness_mode: expected None with {self.strategy!r}, which cannot count")

    @property
    def strategy(self) -> Any:
        """The strategy that weighs the documents."""
        return self.criterion.strategy

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Embed the texts of a batch, with the guide as well if there is one, and compute the loss."""
        self.own_parameters()
        if self.guide is None:
            return super().forward(sentence_features, labels)  # type: ignore[no-any-return]
        features = list(sentence_features)
        for_guide = [self._for_guide(column) for column in features]  # before the model writes into them
        gathered = self.gathered(embed_columns(self.model, features))
        with torch.no_grad():
            gathered = gathered._replace(guide=self.gathered(embed_columns(self.guide, for_guide)))
        return self.losses_of(gathered, gathered.own).mean()

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch: queries, their positives, and hard negatives, ``[N, D]`` each."""
        if self.guide is not None:
            raise ValueError("guide: expected None for embeddings alone, as a guide reads the texts, got one")
        if len(embeddings) < 2:
            raise ValueError(f"sentence_features: expected queries and documents, got {len(embeddings)} columns")
        if self.streams(embeddings):
            queries, positives, *hard = embeddings
            found: Tensor = self.criterion(queries, positives, extra_negatives=torch.cat(hard) if hard else None)
            return found
        gathered = self.gathered(embeddings)
        return self.losses_of(gathered, gathered.own).mean()

    def own_parameters(self) -> list[Tensor]:
        """Return what learns beside the model, as a learnable τ.

        Raises:
            ValueError: there are several processes: the trainer averages the gradients of the model alone.
        """
        own: list[Tensor] = [parameter for parameter in self.criterion.parameters() if parameter.requires_grad]
        if own and world_size(None) > 1:
            raise ValueError(
                "learnable_tau: expected False with several processes, as the trainer averages the gradients of the "
                "model alone, and each would have a temperature of its own"
            )
        return own

    def streams(self, embeddings: Sequence[Tensor]) -> bool:
        """Whether the loss of a batch needs no matrix of similarities; one pair by itself has no negatives."""
        n_columns, group = len(embeddings), None if self.gather_across_devices else ALONE
        if n_columns == 2 and len(embeddings[0]) == 1 and world_size(group) == 1:
            return False
        weighted = self.hardness_mode is not None and self.hardness_strength > 0
        plain_rows = self.similarity_fct is cos_sim and self.false_negatives is None and not weighted
        both = set(self.directions) == {TO_DOC, "doc_to_query"}
        symmetric = both and self.partition_mode == "per_direction" and n_columns == 2
        return plain_rows and (tuple(self.directions) == (TO_DOC,) or symmetric)

    def gathered(self, embeddings: Sequence[Tensor]) -> Gathered:
        """Gather the embeddings of all ranks, with their gradient, if that is asked for."""
        lengths = [len(column) for column in embeddings]
        if len(set(lengths)) > 1:
            raise ValueError(f"sentence_features: expected columns of one length, got {lengths}")
        stacked, group = torch.stack(list(embeddings)), None if self.gather_across_devices else ALONE
        check_that_ranks_agree("sentence_features", stacked, group, gradient=int(stacked.requires_grad))
        queries, *documents = gather(stacked, group)
        own = rank(group) * stacked.shape[1] + torch.arange(stacked.shape[1], device=stacked.device)
        return Gathered(queries, documents, own)

    def losses_of(self, gathered: Gathered, own: Tensor) -> Tensor:
        """Return the losses of some samples, from the similarities that the directions name."""
        queries, documents, *_ = gathered
        every, rows = torch.cat(documents), torch.arange(len(own), device=own.device)
        of_query = [own + len(queries) * k for k in range(len(documents))]  # columns of a query's documents
        q = queries[own]
        parts = self._parts(gathered, own, self.similarity_fct)
        own_query = [own] if self.partition_mode == "per_direction" else []  # else the positive is a negative, too
        excluded = {TO_DOC: [own], "query_to_query": [own], "doc_to_query": own_query, "doc_to_doc": of_query}
        counts = {name: torch.ones_like(distances) for name, distances in parts.items()}
        for name, count in counts.items():
            for columns in excluded[name]:
                count[rows, columns] = 0
        self._weigh(counts[TO_DOC], q, every, of_query, rows)
        if gathered.guide is not None:
            for name, distances in self._parts(gathered.guide, own, cos_sim).items():
                counts[name].masked_fill_(self._closer_than_positive(distances, gathered.guide, own), 0)
        d_pos, strategy = parts[TO_DOC][rows, own][:, None], self._in_batch(gathered)
        pairs = [(distances, counts[name]) for name, distances in parts.items()]
        if self.partition_mode == "joint":
            pairs = [(torch.cat([d for d, _ in pairs], dim=1), torch.cat([count for _, count in pairs], dim=1))]
        scale = self.criterion.scale
        found = [row_losses(strategy, d_pos, d, count=self._as_counted(count), scale=scale) for d, count in pairs]
        return torch.stack(found).mean(dim=0)

    def _parts(self, gathered: Gathered, own: Tensor, similarity: Any) -> dict[str, Tensor]:
        """Measure some samples against what the directions name, ``[m, K]`` each."""
        queries, documents, *_ = gathered
        every, q, positive = torch.cat(documents), queries[own], documents[0][own]
        parts = {TO_DOC: _distances(similarity, q, every)}
        if "query_to_query" in self.directions:
            parts["query_to_query"] = _distances(similarity, q, queries)
        for name, rows in (("doc_to_query", queries), ("doc_to_doc", every)):
            if name in self.directions:
                parts[name] = _distances(similarity, rows, positive).T
        return parts

    def _for_guide(self, features: dict[str, Any]) -> dict[str, Any]:
        """Return features of the same texts for the guide, whose words may be others."""
        words, for_guide = self.model.tokenizer, self.guide.tokenizer
        for name, tokenizer in (("model", words), ("guide", for_guide)):
            if not hasattr(tokenizer, "batch_decode"):
                raise ValueError(
                    f"guide: expected transformers' tokenizers, got {type(tokenizer).__name__} of the {name}"
                )
        if words.get_vocab() == for_guide.get_vocab() and self.guide.max_seq_length >= self.model.max_seq_length:
            return dict(features)
        if "input_ids" not in features:
            raise ValueError("guide: expected a model whose features have input_ids, to read the texts from")
        ids = features["input_ids"]
        if "cu_seq_lens_q" in features:  # texts one after another in one row
            ends = features["cu_seq_lens_q"].tolist()
            ids = [ids[0][start:end] for start, end in pairwise(ends)]
        texts = words.batch_decode(ids, skip_special_tokens=True)
        return batch_to_device(self.guide.preprocess(texts), self.guide.device)  # type: ignore[no-any-return]

    def _closer_than_positive(self, distances: Tensor, guide: Gathered, own: Tensor) -> Tensor:
        """Which pairs a guide takes for false negatives, ``[m, K]``, from its distances ``1 - cos``."""
        d_pos = 1 - pairwise_cos_sim(guide.queries[own], guide.documents[0][own])[:, None]
        slack = self.margin if self.margin_strategy == "absolute" else self.margin * (1 - d_pos).abs()
        closer: Tensor = distances < d_pos + slack
        return closer

    @torch.no_grad()
    def _weigh(self, count: Tensor, q: Tensor, every: Tensor, of_query: list[Tensor], rows: Tensor) -> None:
        """Take false negatives out of a count ``[m, K]`` of documents, and multiply it by the hardness."""
        if self.false_negatives is not None:
            mask = self.false_negatives(q.detach(), every.detach())
            if mask.shape != count.shape or mask.dtype != torch.bool:
                got = f"{tuple(mask.shape)} {mask.dtype}"
                raise ValueError(f"false_negatives: expected a bool mask {tuple(count.shape)}, got {got}")
            count.masked_fill_(mask, 0)
        if self.hardness_mode is None or self.hardness_strength == 0:
            return
        hard = torch.zeros_like(count, dtype=torch.bool)
        for columns in of_query:
            hard[rows, columns] = True
        if self.hardness_mode == "in_batch_negatives":
            hard = ~hard
        elif self.hardness_mode == "all_negatives":
            hard.fill_(True)
        count.mul_(torch.where(hard, (self.hardness_strength * self.similarity_fct(q, every)).exp(), 1.0))

    def _in_batch(self, gathered: Gathered) -> Any:
        """Return the strategy as it is for the positives of all samples."""
        if not plain(self.strategy).uses_batch:
            return self.strategy
        if getattr(learnable_of(self.strategy), "learnable", False):
            raise ValueError(f"strategy: expected one with a fixed τ for these options, got {self.strategy!r}")
        with torch.no_grad():
            positives = _distances(self.similarity_fct, gathered.queries, gathered.documents[0]).diagonal()
            return plain_on(self.strategy, positives)

    def _as_counted(self, count: Tensor) -> Tensor:
        return count if plain(self.strategy).counts else count > 0

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the host writes into the model card: its options, and the strategy with its own."""
        config = super().get_config_dict()
        if self.criterion.scale == "paper":
            config["scale"] = "paper"  # the host's number is that of its own softmax
        if self.false_negatives is not None:
            config["false_negatives"] = getattr(self.false_negatives, "__name__", repr(self.false_negatives))
        if self.guide is not None:
            config |= {"guide": self.guide, "margin_strategy": self.margin_strategy, "margin": self.margin}
        return {"strategy": repr(self.strategy), **config}


def _distances(similarity: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return ``1 - cos``, or minus any other similarity, ``[m, K]``."""
    return 1 - similarity(a, b) if similarity is cos_sim else -similarity(a, b)
