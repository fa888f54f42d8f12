"""What a loss shows of a batch as ``last_stats``: mean distances, and how many negatives α attends to."""

import torch
from torch import Tensor

from alphacl_plugins.engines.blocks import automatic_block
from alphacl_plugins.engines.weights import weigh
from alphacl_plugins.functional import centre_of, without_autocast
from alphacl_plugins.pairs import Batch
from alphacl_plugins.strategies import Strategy


def entropy_of_rows(alpha: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the entropy of each row's positive part, divided by its sum, ``[M, K] -> [M]``.

    With ``count`` a weight is that of ``count_j`` copies together: ``-Σ_j q_j log(q_j / count_j)``.
    """
    weights = alpha.clamp_min(0.0)
    largest = weights.amax(dim=1, keepdim=True)
    weights = weights / largest.masked_fill(largest == 0, 1.0)  # the sum of large weights would overflow
    p = weights / weights.sum(dim=1, keepdim=True).masked_fill(largest == 0, 1.0)
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log_()  # a few times faster than torch.special.entr
    log_p = log_p if count is None else log_p - count.masked_fill(count == 0, 1.0).log()
    return -log_p.mul_(p).sum(dim=1)


def batch_statistics(
    d2_pos: Tensor, d2_neg: Tensor, entropy: Tensor, n_negatives: Tensor, n_anchors: Tensor, some: Tensor
) -> dict[str, Tensor]:
    """Return what a loss shows as ``last_stats``, by name; unless ``some`` negative has weight, 0 are effective."""
    stats = {"d2_pos": d2_pos, "d2_neg": d2_neg, "alpha_entropy": entropy}
    effective = entropy.exp() * some
    return stats | {"effective_negatives": effective, "negatives": n_negatives / n_anchors}


def statistics_of(strategy: Strategy, batch: Batch) -> dict[str, Tensor]:
    """Return the means that a loss shows: distances, and the entropy of the α of an anchor, in nats."""
    with torch.no_grad(), without_autocast(batch.rows.device):
        d2_pos, d2_neg, number, entropy, n, largest = (batch.rows.new_zeros(()) for _ in range(6))
        block, (_, d2_of_views) = automatic_block(strategy, batch), batch.other_views()
        for group in batch.groups(centre_of(batch.rows)):
            for start, stop in group.blocks(block):
                found = weigh(strategy, batch, group, d2_of_views, start, stop)
                left, share, neg = found.excluded.left, found.share, found.weights.neg
                anchors = slice(group.first + start, group.first + stop)
                weights = torch.ones_like(neg[:, 0]) if batch.weights is None else batch.weights[anchors]
                d2_pos += weights @ (share * found.d2_pos).sum(dim=1)
                d2_neg += weights @ found.excluded.total(found.d2)[:, 0]
                number += weights @ left[:, 0].to(neg.dtype) if isinstance(left, Tensor) else left * weights.sum()
                entropy += weights @ entropy_of_rows(neg, found.excluded.times)
                n += weights @ (share > 0).any(dim=1).to(neg.dtype) if isinstance(share, Tensor) else weights.sum()
                largest = torch.maximum(largest, neg.amax())
        n = n.masked_fill(n == 0, 1)
        return batch_statistics(
            d2_pos / n, d2_neg / number.masked_fill(number == 0, 1), entropy / n, number, n, largest > 0
        )
