"""The loss and its gradient block by block, without the N x N matrix.

With α held fixed the gradient of ``-E = Σ_i (Σ_p α_ip D_ip - Σ_j α_ij D_ij)`` is linear in α (Theorem 1), so it can be
formed while the distances of a block of anchors are at hand, for every strategy, since strategies are row-wise. What
remains in memory has the size of the embeddings.

`stream` has the steps. `groups` and `positives`: who is compared with whom; `rows`: α; `weighted_distances`: the
gradient; `known_gradient`: how autograd gets it; `passed` and `by_anchor`: what is kept; `fused` and
`softmax_kernel`: the same by kernels in Triton.
"""

from alphacl_plugins.streaming.stream import Stream, automatic_block

__all__ = ["Stream", "automatic_block"]
