"""The loss and its gradient block by block, without the N x N matrix.

With α held fixed the gradient of ``-E = Σ_i (Σ_p α_ip D_ip - Σ_j α_ij D_ij)`` is linear in α (Theorem 1), so it can be
formed while the distances of a block of anchors are at hand, for every strategy, since strategies are row-wise. What
remains in memory has the size of the embeddings.

`stream` has the steps, `groups` who is compared with whom, `rows` α, `weighted_distances` the gradient.
"""

from alphacl_plugins.streaming.stream import Stream, automatic_block

__all__ = ["Stream", "automatic_block"]
