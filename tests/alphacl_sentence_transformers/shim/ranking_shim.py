"""A pytest plugin that runs sentence-transformers' own tests of its ranking losses on ours, with a model made here."""

import tempfile
from pathlib import Path

import sentence_transformers
import sentence_transformers.sentence_transformer.losses as hosts
from tiny_hosts import sentence_model

import alphacl_sentence_transformers as ours


class MultipleNegativesRankingLoss(ours.AlphaCLRankingLoss):
    """The host's name and signature."""

    def __init__(self, model, scale=20.0, **options):
        if scale <= 0:
            raise ValueError("Scale must be a positive value.")
        super().__init__(model, "infonce", tau=1 / scale, **options)


class CachedMultipleNegativesRankingLoss(ours.CachedAlphaCLRankingLoss):
    """The host's name and signature."""

    def __init__(self, model, scale=20.0, **options):
        if scale <= 0:
            raise ValueError("Scale must be a positive value.")
        super().__init__(model, "infonce", tau=1 / scale, **options)


hosts.MultipleNegativesRankingLoss = MultipleNegativesRankingLoss
hosts.CachedMultipleNegativesRankingLoss = CachedMultipleNegativesRankingLoss
download = sentence_transformers.SentenceTransformer


def without_download(name=None, **options):
    """Make the tiny model of the host's tests here, with dropout, as it has it."""
    if name != "sentence-transformers-testing/stsb-bert-tiny-safetensors":
        return download(name, **options)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return sentence_model(Path(tempfile.mkdtemp()), [*letters, *(f"##{x}" for x in letters)], width=128, dropout=0.1)


sentence_transformers.SentenceTransformer = without_download
