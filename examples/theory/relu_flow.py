"""Gradient flow of two-layer ReLU networks on orthogonal mixtures, many problems at once, in Euler steps.

Steps rather than the integrator of `flow`: a weight that reaches 0 stays there, so the flow has corners.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flow import LAYER, Weights, gradient, project, rescale
from problems import Mixtures

OUTPUTS = 5
STANDSTILL = 1e-9
"""A projected gradient below this, relative to ||X_α||, counts as 0."""


def energies(weights: Weights, mixtures: Mixtures) -> Tensor:
    """E_α of each network ``W_2 relu(W_1 x)``, from its outputs alone, ``[B]``."""
    w1, w2 = weights
    z, z_aug = (torch.relu(inputs @ w1.mT) @ w2.mT for inputs in (mixtures.x, mixtures.x_aug))
    row_sums, column_sums = mixtures.alpha.sum(dim=2), mixtures.alpha.sum(dim=1)
    between = ((row_sums + column_sums) * z.square().sum(dim=2)).sum(dim=1) / 2 - (z * (mixtures.alpha @ z)).sum((1, 2))
    return between - (row_sums * (z - z_aug).square().sum(dim=2)).sum(dim=1) / 2


def relu_gradient(weights: Weights, mixtures: Mixtures) -> Weights:
    """The gradient of E for each network, by autograd through the ReLU."""
    leaves = [w.detach().requires_grad_() for w in weights]
    return list(torch.autograd.grad(energies(leaves, mixtures).sum(), leaves))


def sticky_gradient(weights: Weights, mixtures: Mixtures) -> Weights:
    """The linear network's gradient (Lemma 1), with that of every component of W_1 that is 0 removed."""
    first, second = gradient(weights, mixtures.covariance).direction
    return [first * (weights[0] > 0), second]


class Ended(NamedTuple):
    """Where the flow has come to."""

    weights: Weights
    energy: Tensor  # [B]
    gradient_norm: Tensor  # [B]
    path: list[Weights]


def follow(
    weights: Weights, mixtures: Mixtures, slope: Any, *, steps: int, arc: float = 0.02, step: float = 0.3, keep: int = 0
) -> Ended:
    """Euler steps on the sphere ``||W_l||_F = 1``; a component of W_1 below 0 becomes 0, as Lemma 3 allows.

    A step has length ``arc``, or time ``step / ||X_α||`` where that is shorter. ``keep``: steps between two that are
    returned.
    """
    path = []
    unit = torch.linalg.eigvalsh(mixtures.covariance).abs().amax(dim=1)
    for done in range(steps + 1):
        if keep and done % keep == 0:
            path.append(weights)
        tangent = project(weights, slope(weights, mixtures), LAYER)
        norm = torch.stack([g.square().sum(dim=(1, 2)) for g in tangent]).sum(dim=0).sqrt() / unit
        if done == steps or bool((norm < STANDSTILL).all()):
            break
        pace = (arc / norm.clamp_min(1e-300)).clamp_max(step) / unit
        moved = [w + pace[:, None, None] * g for w, g in zip(weights, tangent, strict=True)]
        weights = rescale([moved[0].clamp_min(0), moved[1]], LAYER)
    return Ended(weights, gradient(weights, mixtures.covariance).energy, norm, path)


def arrive(weights: Weights, mixtures: Mixtures) -> Ended:
    """Follow the network's own gradient; problems that take long go on alone, without those that have arrived."""
    ended = follow(weights, mixtures, relu_gradient, steps=2000)
    for _ in range(4):
        slow = (ended.gradient_norm > STANDSTILL).nonzero()[:, 0]
        if not len(slow):
            break
        rest = Mixtures(*(part[slow] for part in mixtures))
        further = follow([w[slow] for w in ended.weights], rest, relu_gradient, steps=8000)
        for whole, part in zip(ended.weights, further.weights, strict=True):
            whole[slow] = part
        ended.energy[slow], ended.gradient_norm[slow] = further.energy, further.gradient_norm
    return ended


def start_for(mixtures: Mixtures, hidden: int, generator: torch.Generator) -> Weights:
    """Draw Gaussian weights, those of the first layer in size, and 0 for the modes that a problem does not use."""
    n, _, modes = mixtures.x.shape
    used = (mixtures.x.sum(dim=1, keepdim=True) > 0).double()
    first = torch.randn(n, hidden, modes, generator=generator, dtype=torch.float64).abs() * used
    return rescale([first, torch.randn(n, OUTPUTS, hidden, generator=generator, dtype=torch.float64)], LAYER)
