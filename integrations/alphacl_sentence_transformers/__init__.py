"""α-CL for sentence-transformers: the ranking losses with a strategy in place of the softmax."""

try:
    import sentence_transformers.base.losses.gradcache
    import sentence_transformers.sentence_transformer.losses  # noqa: F401
except ImportError as error:
    raise ImportError(
        "alphacl_sentence_transformers: expected sentence-transformers 6.2, the version that it was tried with; "
        'pip install "alphacl-plugins[sentence-transformers]"'
    ) from error

from alphacl_sentence_transformers.cached import CachedAlphaCLRankingLoss
from alphacl_sentence_transformers.loss import AlphaCLRankingLoss

__all__ = ["AlphaCLRankingLoss", "CachedAlphaCLRankingLoss"]
