"""α-CL for sentence-transformers: the ranking losses with a strategy in place of the softmax."""

import inspect

TRIED = "6.2"
"""The version of sentence-transformers that this adapter was tried with."""

try:
    import sentence_transformers.base.losses.gradcache  # noqa: F401
    from sentence_transformers.base.losses.merged_forward import embed_columns  # noqa: F401
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    lacking = {"scale", "directions", "partition_mode", "hardness_mode", "hardness_strength"} - set(
        inspect.signature(MultipleNegativesRankingLoss.__init__).parameters
    )
    if lacking:
        raise ImportError(f"MultipleNegativesRankingLoss has no option {', '.join(sorted(lacking))}")
except ImportError as error:
    raise ImportError(
        f"alphacl_sentence_transformers: expected sentence-transformers {TRIED}, the version that it was tried with; "
        f"pip install 'alphacl-plugins[sentence-transformers]' ({error})"
    ) from error

from alphacl_sentence_transformers.cached import CachedAlphaCLRankingLoss  # noqa: E402
from alphacl_sentence_transformers.loss import AlphaCLRankingLoss  # noqa: E402

__all__ = ["AlphaCLRankingLoss", "CachedAlphaCLRankingLoss"]
