"""The reference: losses by autograd from all distances. For second derivatives, and for a gradient through α."""

from __future__ import annotations

import torch
from torch import Tensor

from alphacl_plugins.engines.weights import Losses, weigh
from alphacl_plugins.functional import centre_of
from alphacl_plugins.pairs import Batch
from alphacl_plugins.strategies import PairWeights, Strategy


def through_autograd(strategy: Strategy, batch: Batch, *, detach_alpha: bool) -> tuple[Losses, Tensor]:
    """Return the losses of the anchors, and -E with the graph that leads to the embeddings.

    With ``detach_alpha`` α is held fixed; else the gradient goes through it, and the losses are -E.
    """
    energies, values, excess, found_positive = [], [], [], []
    _, d2_of_views = batch.other_views()
    for group in batch.groups(centre_of(batch.rows)):
        found = weigh(strategy, batch, group, d2_of_views, 0, len(group.a), detach_alpha)
        neg, pos, value, _ = found.weights
        if batch.views.shape[0] == 1 and found.positives is not None:
            found_positive.append(found.positives.found())
        if detach_alpha:
            neg, pos = neg.detach(), pos.detach()
        energies.append((pos * found.d2_pos).sum(dim=1) - (neg * found.d2).sum(dim=1))
        excess.append((neg.sum(dim=1) - pos.sum(dim=1)).detach())
        if detach_alpha and value is not None:
            values.append(value)
    energy, *others = (torch.cat(part) if part else None for part in (energies, values, excess, found_positive))
    assert energy is not None
    return Losses(energy.detach(), *others), energy


def all_weights(strategy: Strategy, batch: Batch) -> PairWeights:
    """Return the weights of all pairs and the losses, as `alphacl_plugins.AlphaCLLoss.pair_weights` describes them."""
    parts, (_, d2_of_views) = [], batch.other_views()
    for group in batch.groups(centre_of(batch.rows)):
        found = weigh(strategy, batch, group, d2_of_views, 0, len(group.a))
        neg, pos, value, _ = found.weights
        value = (pos * found.d2_pos).sum(dim=1) - (neg * found.d2).sum(dim=1) if value is None else value
        if found.positives is not None:
            pos = found.positives.add_to(torch.zeros_like(neg), pos)[:, : group.moving]
        parts.append((neg, pos, value))
    neg, pos, value = (torch.cat(part) for part in zip(*parts, strict=True))
    return PairWeights(neg, pos[:, 0] if pos.shape[1] == 1 else pos, value)
