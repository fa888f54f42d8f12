"""Gradient flow of a deep linear network on the energy, in time, under the paper's normalisations.

``E = ½ tr(W X_α Wᵀ)``, ``W = W_L ... W_1``. Near E = 0 a deep network hardly moves, and X_α's negative eigenvalues make
its flow stiff: SciPy's LSODA turns to an implicit method there and lets its steps grow, so a plateau costs few of them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

LAYER, FILTER, NONE = "layer", "filter", "none"
"""``||W_l||_F = 1``; ``||w_lk|| = 1/√n_l`` for each row (filter); nothing."""

Weights = list[Tensor]  # W_1 ... W_L, each [..., n_l, n_(l-1)]


class Gradient(NamedTuple):
    """The flow's direction and where it stands."""

    direction: Weights
    energy: Tensor  # [...]


def feature_covariances(weights: Weights, covariance: Tensor) -> list[Tensor]:
    """``C_α[f_l] = W_l C_α[f_(l-1)] W_lᵀ`` for l = 0 ... L, where ``C_α[f_0] = X_α``."""
    features = [covariance]
    for w in weights:
        features.append(w @ features[-1] @ w.mT)
    return features


def gradient(weights: Weights, covariance: Tensor) -> Gradient:
    """Lemma 1: ``Ẇ_l = W_>lᵀ W_>l W_l C_α[f_(l-1)]``."""
    features = feature_covariances(weights, covariance)
    direction: Weights = []
    gram = torch.eye(weights[-1].shape[-2], dtype=covariance.dtype)  # W_>lᵀ W_>l
    for w, below in zip(reversed(weights), reversed(features[:-1]), strict=True):
        direction.insert(0, gram @ w @ below)
        gram = w.mT @ gram @ w
    return Gradient(direction, features[-1].diagonal(dim1=-2, dim2=-1).sum(dim=-1) / 2)


def project(weights: Weights, direction: Weights, normalization: str) -> Weights:
    """Take out of a direction what would change the lengths that the normalisation holds."""
    if normalization == NONE:
        return direction
    dims = (-2, -1) if normalization == LAYER else (-1,)
    tangent = []
    for w, g in zip(weights, direction, strict=True):
        length2 = w.square().sum(dim=dims, keepdim=True)
        tangent.append(g - w * (w * g).sum(dim=dims, keepdim=True) / length2)
    return tangent


def rescale(weights: Weights, normalization: str) -> Weights:
    """Give weights the lengths that the normalisation holds."""
    if normalization == LAYER:
        return [w / torch.linalg.vector_norm(w, dim=(-2, -1), keepdim=True) for w in weights]
    if normalization == FILTER:
        return [w / (torch.linalg.vector_norm(w, dim=-1, keepdim=True) * w.shape[-2] ** 0.5) for w in weights]
    return weights


def random_start(widths: Sequence[int], generator: torch.Generator, normalization: str = LAYER) -> Weights:
    """Draw Gaussian weights of the right lengths, for widths n_0 ... n_L."""
    shapes = zip(widths[1:], widths[:-1], strict=True)
    return rescale([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes], normalization)


def perturb(weights: Weights, size: float, generator: torch.Generator, normalization: str) -> Weights:
    """Move weights by Gaussian noise of this relative size."""
    noise = random_start([weights[0].shape[-1], *(w.shape[-2] for w in weights)], generator)
    return rescale([w + size * w.norm() * e for w, e in zip(weights, noise, strict=True)], normalization)


class Ended(NamedTuple):
    """Where the flow has come to, and how."""

    weights: Weights
    energy: float
    gradient_norm: float  # of the projected gradient
    times: Tensor  # [T], of the integrator's steps
    path: Weights  # each [T, n_l, n_(l-1)]


def ascend(
    weights: Weights,
    covariance: Tensor,
    normalization: str = LAYER,
    *,
    end: float = 1e8,
    tolerance: float = 1e-6,
) -> Ended:
    """Follow the normalised flow until the projected gradient is below ``tolerance`` times E, which must be > 0.

    A plateau near E = 0 has a tiny gradient too, but not beside its energy, so the flow does not end there.

    Args:
        weights: the start.
        covariance: X_α, ``[D, D]``; with a largest eigenvalue in size of 1, so is the unit of time.
        normalization: ``LAYER`` or ``FILTER``.
        end: the latest time.
        tolerance: of the gradient, relative to E.
    """
    from scipy.integrate import solve_ivp  # here, after the options: --help is quick

    def point(flat: Any) -> Weights:
        return rescale(split(torch.from_numpy(flat), weights), normalization)

    def slope(_time: float, flat: Any) -> Any:
        here = point(flat)
        return join(project(here, gradient(here, covariance).direction, normalization)).numpy()

    def unsettled(time: float, flat: Any) -> float:
        energy = float(gradient(point(flat), covariance).energy)
        return float(np.linalg.norm(slope(time, flat))) - tolerance * energy

    unsettled.terminal, unsettled.direction = True, -1  # type: ignore[attr-defined]
    found = solve_ivp(slope, (0, end), join(weights).numpy(), "LSODA", rtol=1e-6, atol=1e-8, events=unsettled)
    path = point(np.ascontiguousarray(found.y.T))
    last = [w[-1] for w in path]
    norm = float(np.linalg.norm(slope(0, found.y[:, -1])))
    return Ended(last, float(gradient(last, covariance).energy), norm, torch.from_numpy(found.t), path)


def join(weights: Weights) -> Tensor:
    """Write all weights as one vector, ``[..., n]``."""
    return torch.cat([w.flatten(-2) for w in weights], dim=-1)


def split(flat: Tensor, like: Weights) -> Weights:
    """Undo `join`: ``[..., n]`` -> matrices of the shapes of ``like``."""
    parts = torch.split(flat, [w.numel() for w in like], dim=-1)
    return [part.reshape(*flat.shape[:-1], *w.shape) for part, w in zip(parts, like, strict=True)]


def singular_values(weights: Weights) -> Tensor:
    """Largest and second largest singular value of each layer, ``[..., L, 2]``; the second of a vector is 0."""
    values = [torch.nn.functional.pad(torch.linalg.svdvals(w), (0, 1))[..., :2] for w in weights]
    return torch.stack(values, dim=-2)
