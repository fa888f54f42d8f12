"""What the flow of the weights conserves: the balance of neighbouring layers, and the norms below a normalisation."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize, relu

import alphacl_plugins as acl
from flow import LAYER, NONE, Weights, gradient, join, project, random_start, split
from problems import random_covariance

WIDTHS = (8, 6, 7, 5)


def balance(generator: torch.Generator, problems: int = 10) -> dict[str, Any]:
    """Layer balance along the flow: constant without normalisation, shrinking with one norm per layer.

    ``Δ_l = W_l W_lᵀ - W_(l+1)ᵀ W_(l+1)``. ``d/dt Δ = 0`` on the raw flow, which is followed until ``Σ ||W_l||²`` has
    doubled; ``d/dt Δ = -4 E Δ``, so ``Δ(t) = Δ(0) exp(-4 ∫ E dt)``, on the normalised one, followed for a time of 200.
    """
    draws = [(random_covariance(WIDTHS[0], generator), random_start(WIDTHS, generator)) for _ in range(problems)]
    result = {}
    for name, normalization in (("raw", NONE), ("normalised", LAYER)):
        found = [imbalance_along(start, covariance, normalization) for covariance, start in draws]
        result[name] = {key: max(each[key] for each in found) for key in found[0]}
    return result


def imbalance_along(start: Weights, covariance: Tensor, normalization: str) -> dict[str, float]:
    """Follow one problem with ``∫ E dt`` beside the weights; compare Δ with its law at every step."""
    from scipy.integrate import solve_ivp

    def slope(_time: float, state: Any) -> Any:
        weights = split(torch.from_numpy(state[:-1]), start)
        direction, energy = gradient(weights, covariance)
        return np.append(join(project(weights, direction, normalization)).numpy(), float(energy))

    def doubled(_time: float, state: Any) -> float:
        return float(np.square(state[:-1]).sum() - 2 * len(start))

    doubled.terminal = True  # type: ignore[attr-defined]
    begin = np.append(join(start).numpy(), 0.0)
    found = solve_ivp(slope, (0, 1e5 if normalization == NONE else 200), begin, rtol=1e-9, atol=1e-11, events=doubled)
    states = torch.from_numpy(np.ascontiguousarray(found.y.T))
    path, integral = split(states[:, :-1], start), states[:, -1]
    shrunk = torch.exp(-4 * integral)[:, None, None] if normalization == LAYER else 1.0
    before, now = imbalance(start), imbalance(path)
    return {
        "error": max(float((n - b * shrunk).abs().max()) for b, n in zip(before, now, strict=True)),
        "imbalance_at_the_start": max(float(b.abs().max()) for b in before),
        "imbalance_at_the_end": max(float(n[-1].abs().max()) for n in now),
        "change_of_weights": max(float((w[-1] - s).abs().max()) for w, s in zip(path, start, strict=True)),
    }


def imbalance(weights: Weights) -> list[Tensor]:
    """``Δ_l = W_l W_lᵀ - W_(l+1)ᵀ W_(l+1)`` for l = 1 ... L - 1."""
    return [low @ low.mT - high.mT @ high for low, high in pairwise(weights)]


def lemma_2(generator: torch.Generator, networks: int = 20) -> list[dict[str, Any]]:
    """``⟨W_l, ∂L/∂W_l⟩ / (||W_l|| ||∂L/∂W_l||)`` by autograd, the largest over layers, two losses and the networks."""
    normalizations = {
        "l2": lambda z: normalize(z, dim=1, eps=0),
        "LayerNorm": lambda z: layer_norm(z, z.shape[1:], eps=0),
        "none": lambda z: z,
    }
    return [
        {"activation": activation}
        | {
            normalization: max(radial_share(generator, act, norm) for _ in range(networks))
            for normalization, norm in normalizations.items()
        }
        for activation, act in (("linear", nn.Identity()), ("ReLU", relu))
    ]


def radial_share(generator: torch.Generator, activation: Any, normalization: Any) -> float:
    """Largest cosine of a layer's weights and their gradient, in one random network under two losses."""
    shapes = [(32, 7), (32, 32), (6, 32)]  # so wide that ReLU turns no sample off, which LayerNorm would divide by 0
    weights = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    readout = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    x, x_aug = torch.randn(2, 16, 7, generator=generator, dtype=torch.float64)

    def network(inputs: Tensor) -> Tensor:
        for w in weights[:-1]:
            inputs = activation(inputs @ w.T)
        outputs: Tensor = normalization(inputs @ weights[-1].T)
        return outputs

    contrastive = acl.AlphaCLLoss("direct", l2_normalize=False)(network(x), network(x_aug))
    supervised = nn.functional.cross_entropy(relu(network(x)) @ readout.T, torch.arange(16) % 4)
    return max(
        float((w * g).sum().detach().abs() / (w.detach().norm() * g.norm()))
        for loss in (contrastive, supervised)
        for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)
    )
