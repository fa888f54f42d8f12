"""Gradient flow of a deep linear network on the energy, many problems at once, under the paper's normalisations.

``E = ½ tr(W X_α Wᵀ)``, ``W = W_L ... W_1``. A layer of a problem that is narrower than its neighbours in the batch is
padded with zeros, which the flow leaves zero.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LAYER, FILTER, NONE = "layer", "filter", "none"
"""``||W_l||_F = 1``; ``||w_lk|| = 1/√n_l`` for each row (filter); nothing."""

Weights = list[Tensor]  # W_1 ... W_L, each [B, n_l, n_(l-1)]


class Gradient(NamedTuple):
    """The flow's direction and where it stands."""

    direction: Weights
    energy: Tensor  # [B]


def gradient(weights: Weights, covariance: Tensor) -> Gradient:
    """Lemma 1: ``Ẇ_l = W_>lᵀ W_>l W_l C_α[f_(l-1)]``, ``C_α[f_l] = W_l C_α[f_(l-1)] W_lᵀ``, ``C_α[f_0] = X_α``."""
    features = [covariance]
    for w in weights:
        features.append(w @ features[-1] @ w.mT)
    energy = features[-1].diagonal(dim1=1, dim2=2).sum(dim=1) / 2
    direction: Weights = []
    gram = torch.eye(weights[-1].shape[1], dtype=covariance.dtype).expand(len(covariance), -1, -1)
    for w, below in zip(reversed(weights), reversed(features[:-1]), strict=True):
        direction.insert(0, gram @ w @ below)
        gram = w.mT @ gram @ w
    return Gradient(direction, energy)


def project(weights: Weights, direction: Weights, normalization: str) -> Weights:
    """Take out of a direction what would change the lengths that the normalisation holds."""
    if normalization == NONE:
        return direction
    dims = (1, 2) if normalization == LAYER else (2,)
    tangent = []
    for w, g in zip(weights, direction, strict=True):
        length2 = w.square().sum(dim=dims, keepdim=True)
        tangent.append(g - w * (w * g).sum(dim=dims, keepdim=True) / torch.where(length2 > 0, length2, 1.0))
    return tangent


def retract(weights: Weights, like: Weights, normalization: str) -> Weights:
    """Give weights the lengths of ``like``."""
    if normalization == NONE:
        return weights
    dims = (1, 2) if normalization == LAYER else (2,)
    lengths = [torch.linalg.vector_norm(w, dim=dims, keepdim=True) for w in weights]
    wanted = [torch.linalg.vector_norm(w, dim=dims, keepdim=True) for w in like]
    return [w * goal / torch.where(n > 0, n, 1.0) for w, n, goal in zip(weights, lengths, wanted, strict=True)]


def random_start(widths: Tensor, generator: torch.Generator, normalization: str = LAYER) -> Weights:
    """Draw Gaussian weights of the right lengths. Shape: widths ``[B, L + 1]`` -> W_l ``[B, max n_l, max n_(l-1)]``."""
    largest = widths.amax(dim=0).tolist()
    weights = []
    for layer in range(1, widths.shape[1]):
        w = torch.randn(len(widths), largest[layer], largest[layer - 1], generator=generator, dtype=torch.float64)
        rows = torch.arange(largest[layer])[None, :] < widths[:, layer, None]
        columns = torch.arange(largest[layer - 1])[None, :] < widths[:, layer - 1, None]
        w = w * rows[:, :, None] * columns[:, None, :]
        if normalization == FILTER:
            length = torch.linalg.vector_norm(w, dim=2, keepdim=True) * widths[:, layer].double().sqrt()[:, None, None]
            w = w / torch.where(length > 0, length, 1.0)
        else:
            w = w / torch.linalg.vector_norm(w, dim=(1, 2), keepdim=True)
        weights.append(w)
    return weights


class State(NamedTuple):
    """One moment of the flow."""

    length: Tensor  # of the path so far, [B]
    weights: Weights
    energy: Tensor  # [B]


class Ended(NamedTuple):
    """Where the flow has come to."""

    weights: Weights
    energy: Tensor  # [B]
    gradient_norm: Tensor  # [B], of the projected gradient
    steps: int
    path: list[State]


def ascend(
    weights: Weights,
    covariance: Tensor,
    normalization: str = LAYER,
    *,
    steps: int = 40_000,
    tolerance: float = 1e-9,
    arc: float = 0.05,
    step: float = 0.3,
    keep: int = 0,
) -> Ended:
    """Follow the normalised flow: Euler steps of length ``arc``, or of time ``step`` where that is shorter.

    Near E = 0 the gradient of a deep network is tiny, and a flow in time stands almost still; equal arcs run through
    the same curve and cross such a plateau in a few steps.

    Args:
        weights: the start.
        covariance: X_α, ``[B, D, D]``, largest eigenvalue in size 1.
        normalization: what is held.
        steps: at most so many.
        tolerance: largest gradient norm at which all of the batch has arrived.
        arc: length of a step, all layers together.
        step: its longest time.
        keep: moments to return, evenly spaced among the first ``steps``; 0: none.
    """
    path: list[State] = []
    length = torch.zeros(len(covariance), dtype=covariance.dtype)
    every = max(steps // keep, 1) if keep else 0
    start = weights
    for done in range(steps + 1):
        direction, energy = gradient(weights, covariance)
        tangent = project(weights, direction, normalization)
        norm = torch.stack([g.square().sum(dim=(1, 2)) for g in tangent]).sum(dim=0).sqrt()
        if every and done % every == 0:
            path.append(State(length, weights, energy))
        if done == steps or bool((norm <= tolerance).all()):
            break
        pace = (arc / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(step)
        moved = [w + pace[:, None, None] * g for w, g in zip(weights, tangent, strict=True)]
        weights = retract(moved, start, normalization)
        length = length + pace * norm
    return Ended(weights, energy, norm, done, path)


def perturb(weights: Weights, size: float, generator: torch.Generator, normalization: str) -> Weights:
    """Move weights by Gaussian noise of this relative size, zeros of the padding excepted."""
    moved = []
    for w in weights:
        noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        inside = (w != 0).any(dim=2, keepdim=True) & (w != 0).any(dim=1, keepdim=True)
        scale = torch.linalg.vector_norm(w, dim=(1, 2), keepdim=True) / noise[0].numel() ** 0.5
        moved.append(w + size * scale * noise * inside)
    return retract(moved, weights, normalization)


def singular_values(weights: Weights) -> Tensor:
    """Largest and second largest singular value of each layer, ``[B, L, 2]``; the second of a vector is 0."""
    pairs = []
    for w in weights:
        values = torch.linalg.svdvals(w)
        second = values[:, 1] if values.shape[1] > 1 else torch.zeros_like(values[:, 0])
        pairs.append(torch.stack([values[:, 0], second], dim=1))
    return torch.stack(pairs, dim=1)
