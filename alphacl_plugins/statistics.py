"""What a loss shows of a batch as ``last_stats``: mean distances, and how many negatives α attends to."""

import torch
from torch import Tensor

from alphacl_plugins.engines.blocks import automatic_block
from alphacl_plugins.engines.two_pass import TwoPass
from alphacl_plugins.engines.weights import sum_negatives, weigh
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


def statistics_of(strategy: Strategy, source: Batch | TwoPass) -> dict[str, Tensor]:
    """Return what a loss shows of a batch under the α of a strategy, or of the batch that an engine has seen."""
    if isinstance(source, TwoPass):
        return means_over_anchors(*source.of_anchors)
    batch = source
    parts, block, (_, d2_of_views) = [], automatic_block(strategy, batch), batch.other_views()
    with torch.no_grad(), without_autocast(batch.rows.device):
        for group in batch.groups(centre_of(batch.rows)):
            for start, stop in group.blocks(block):
                found = weigh(strategy, batch, group, d2_of_views, start, stop)
                share, neg, excluded = found.share, found.weights.neg, found.excluded
                one, left = torch.ones_like(neg[:, :1]), excluded.left
                d2_pos, entropy = (share * found.d2_pos).sum(dim=1), entropy_of_rows(neg, excluded.times)
                positive = (share > 0).any(dim=1, keepdim=True) * one if isinstance(share, Tensor) else one
                parts.append(
                    (d2_pos, sum_negatives(found.d2, excluded), entropy, left * one, positive, neg.amax(dim=1) > 0)
                )
        return means_over_anchors(
            batch.weights, *(torch.cat([x.flatten() for x in column]) for column in zip(*parts, strict=True))
        )


def means_over_anchors(
    weights: Tensor | None,
    d2_pos: Tensor,
    d2_neg: Tensor,
    entropy: Tensor,
    number: Tensor,
    positive: Tensor,
    some: Tensor,
) -> dict[str, Tensor]:
    """Return what a loss shows as ``last_stats``, by name, from what is known of each of the M anchors.

    Args:
        weights: of the anchors; None for 1.
        d2_pos, d2_neg: mean distance of the positives, sum of the distances of the negatives.
        entropy: of α, in nats; exp of its mean is the number of effective negatives, 0 unless ``some`` has weight.
        number: of negatives.
        positive: 1 for an anchor with a positive, else 0.
        some: whether some negative has weight.
    """
    weights = torch.ones_like(entropy) if weights is None else weights.view_as(entropy)
    sums = [(weights * x).sum() for x in (d2_pos, d2_neg, entropy, number, positive)]
    n_negatives, n_anchors = (x.masked_fill(x == 0, 1) for x in sums[3:])
    stats = {"d2_pos": sums[0] / n_anchors, "d2_neg": sums[1] / n_negatives, "alpha_entropy": sums[2] / n_anchors}
    effective = stats["alpha_entropy"].exp() * some.any()
    return stats | {"effective_negatives": effective, "negatives": sums[3] / n_anchors}
