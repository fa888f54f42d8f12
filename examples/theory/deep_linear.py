"""Section 4 of the paper, running: the max player of a deep linear network is PCA of the contrastive covariance.

    python examples/theory/deep_linear.py                   every claim below over 300 random problems, in minutes
    python examples/theory/deep_linear.py --problems 25     a try

Theorem 3 and Figure 2 (almost all local maxima are global and of rank one), its counterexample at depth 1, Corollary 3
(one norm for each filter), layer balance with and without normalisation, Lemma 2 (normalisation conserves norms).
"""

import math
from itertools import pairwise
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize, relu

import alphacl_plugins as acl
from experiment import COLOURS, Settings, save, tidy
from flow import (
    FILTER,
    LAYER,
    NONE,
    Ended,
    Weights,
    ascend,
    gradient,
    perturb,
    project,
    random_start,
    singular_values,
)
from problems import random_covariances

WIDTH = 8
DEPTHS = (2, 3, 4, 5, 6)
OBJECTIVE, RANK_ONE, STANDSTILL = 1e-6, 1e-4, 1e-7
"""(λ_max - 2E)/λ_max and σ₂/σ₁ below these count as reached; a smaller projected gradient is none."""


def relative_gap(covariance: Tensor, energy: Tensor) -> Tensor:
    """``(λ_max - 2E) / λ_max`` for each problem."""
    largest = torch.linalg.eigvalsh(covariance)[:, -1]
    gap: Tensor = (largest - 2 * energy) / largest
    return gap


def second_over_first(weights: Weights) -> Tensor:
    """σ₂/σ₁ of the layer that is furthest from rank one, for each problem."""
    values = singular_values(weights)
    ratio: Tensor = (values[..., 1] / values[..., 0]).amax(dim=1)
    return ratio


def arrive(weights: Weights, covariance: Tensor, normalization: str) -> Ended:
    """Follow the flow; problems that take long go on alone, without those that have arrived."""
    ended = ascend(weights, covariance, normalization, steps=2000)
    for _ in range(5):
        slow = (ended.gradient_norm > 1e-9).nonzero()[:, 0]
        if not len(slow):
            break
        further = ascend([w[slow] for w in ended.weights], covariance[slow], normalization, steps=8000)
        for whole, part in zip(ended.weights, further.weights, strict=True):
            whole[slow] = part
        ended.energy[slow], ended.gradient_norm[slow] = further.energy, further.gradient_norm
    return ended


def theorem_3(problems: int, normalization: str, generator: torch.Generator) -> dict[str, Any]:
    """From a random start on each problem to where the flow ends: is it the maximum, is every layer of rank one?"""
    per_depth = math.ceil(problems / len(DEPTHS))
    rows: list[dict[str, Any]] = []
    exceptions: list[dict[str, Any]] = []
    for depth in DEPTHS:
        covariance = random_covariances(per_depth, WIDTH, generator)
        widths = torch.randint(2, 11, (per_depth, depth + 1), generator=generator)
        widths[:, 0] = WIDTH
        ended = arrive(random_start(widths, generator, normalization), covariance, normalization)
        gap, ratio = relative_gap(covariance, ended.energy), second_over_first(ended.weights)
        good = (gap < OBJECTIVE) & (ratio < RANK_ONE)
        row = {
            "depth": depth,
            "problems": per_depth,
            "global_maximum": int((gap < OBJECTIVE).sum()),
            "rank_one": int((ratio < RANK_ONE).sum()),
            "both": int(good.sum()),
            "negative_eigenvalues": round(float((torch.linalg.eigvalsh(covariance) < 0).double().mean()), 3),
        }
        if normalization == FILTER:
            row["largest_error_of_v"] = filter_error(ended.weights[:-1], widths, good)
        rows.append(row)
        exceptions += [
            classify(ended, covariance, int(which), depth, normalization, generator) for which in (~good).nonzero()
        ]
    total = {key: sum(row[key] for row in rows) for key in ("problems", "global_maximum", "rank_one", "both")}
    return {"normalization": normalization, **total, "by_depth": rows, "exceptions": exceptions}


def filter_error(weights: Weights, widths: Tensor, good: Tensor) -> float:
    """Largest difference of ``|[v_l]_k|`` from ``1/√n_l``, v_l the left singular vector of W_l, l = 1 ... L - 1."""
    worst = 0.0
    for layer, w in enumerate(weights, start=1):
        v = torch.linalg.svd(w).U[:, :, 0].abs()
        inside = torch.arange(v.shape[1])[None, :] < widths[:, layer, None]
        error = (v - widths[:, layer, None].double().rsqrt()).abs() * inside
        worst = max(worst, float(error[good].max())) if good.any() else worst
    return worst


def classify(
    ended: Ended, covariance: Tensor, which: int, depth: int, normalization: str, generator: torch.Generator
) -> dict[str, Any]:
    """Say of a run that did not arrive: does it stand still, and do perturbations of 1e-3 and 1e-1 escape?"""
    weights, matrix = [w[which : which + 1] for w in ended.weights], covariance[which : which + 1]
    escapes = {}
    for size in (1e-3, 1e-1):
        again = arrive(perturb(weights, size, generator, normalization), matrix, normalization)
        arrived = relative_gap(matrix, again.energy) < OBJECTIVE
        escapes[str(size)] = bool(arrived & (second_over_first(again.weights) < RANK_ONE))
    norm = float(ended.gradient_norm[which])
    return {
        "depth": depth,
        "gap": float(relative_gap(matrix, ended.energy[which : which + 1])),
        "second_over_first": float(second_over_first(weights)),
        "gradient_norm": norm,
        "stands_still": norm < STANDSTILL,
        "escapes_after_perturbation": escapes,
    }


def depth_one(problems: int, generator: torch.Generator) -> dict[str, Any]:
    """One layer: with a simple λ_max rank one, with a double one the paper's counterexample."""
    simple = random_covariances(problems, WIDTH, generator)
    values, vectors = torch.linalg.eigh(simple)
    values[:, -2] = values[:, -1]
    double = vectors @ torch.diag_embed(values) @ vectors.mT
    result = {}
    for name, covariance in (("simple", simple), ("double", double)):
        widths = torch.tensor([[WIDTH, 5]]).expand(problems, -1)
        ended = arrive(random_start(widths, generator), covariance, LAYER)
        reached = relative_gap(covariance, ended.energy) < OBJECTIVE
        result[name] = {
            "problems": problems,
            "global_maximum": int(reached.sum()),
            "rank_one": int((second_over_first(ended.weights) < RANK_ONE).sum()),
        }
    return result


def imbalance(weights: Weights) -> list[Tensor]:
    """``Δ_l = W_l W_lᵀ - W_(l+1)ᵀ W_(l+1)`` for l = 1 ... L - 1."""
    return [low @ low.mT - high.mT @ high for low, high in pairwise(weights)]


def balance(generator: torch.Generator, steps: int = 1000, arc: float = 5e-3) -> dict[str, float]:
    """Layer balance along the flow, by Runge-Kutta steps: constant without, shrinking with normalisation.

    ``d/dt Δ = 0`` on the raw flow; ``d/dt Δ = -4 E Δ``, so ``Δ(t) = Δ(0) exp(-4 ∫ E dt)``, with one norm per layer.
    """
    covariance = random_covariances(10, WIDTH, generator)
    start = random_start(torch.tensor([[WIDTH, 6, 7, 5]]).expand(10, -1), generator)
    result = {}
    for name, normalization in (("raw", NONE), ("normalised", LAYER)):
        weights, integral = start, torch.zeros(10)
        worst = 0.0
        for _ in range(steps):
            weights, integral = runge_kutta(weights, integral, covariance, normalization, arc)
            for before, now in zip(imbalance(start), imbalance(weights), strict=True):
                shrunk = before if normalization == NONE else before * torch.exp(-4 * integral)[:, None, None]
                worst = max(worst, float((now - shrunk).abs().max()))
        result[f"{name}_error"] = worst
        pairs = list(zip(imbalance(start), imbalance(weights), strict=True))
        result[f"{name}_largest_imbalance_at_the_start"] = max(float(before.abs().max()) for before, _ in pairs)
        result[f"{name}_change_of_imbalance"] = max(float((now - before).abs().max()) for before, now in pairs)
        result[f"{name}_change_of_weights"] = max(
            float((w - s).abs().max()) for w, s in zip(weights, start, strict=True)
        )
    return result


def runge_kutta(
    weights: Weights, integral: Tensor, covariance: Tensor, normalization: str, arc: float
) -> tuple[Weights, Tensor]:
    """One classical step of about this length along the flow, and of ``∫ E dt`` beside it."""
    slopes, energies, dt = [], [], torch.zeros_like(integral)
    point = weights
    for share in (0.5, 0.5, 1.0, 0.0):
        direction, energy = gradient(point, covariance)
        slopes.append(project(point, direction, normalization))
        energies.append(energy)
        if len(slopes) == 1:
            length = torch.stack([g.square().sum(dim=(1, 2)) for g in slopes[0]]).sum(dim=0).sqrt()
            dt = (arc / length).clamp_max(0.1)
        point = [w + share * dt[:, None, None] * g for w, g in zip(weights, slopes[-1], strict=True)]
    mean: Weights = []
    for w, a, b, c, d in zip(weights, *slopes, strict=True):
        mean.append(w + dt[:, None, None] * (a + 2 * b + 2 * c + d) / 6)
    return mean, integral + dt * (energies[0] + 2 * energies[1] + 2 * energies[2] + energies[3]) / 6


def lemma_2(generator: torch.Generator) -> dict[str, float]:
    """``⟨W_l, ∂L/∂W_l⟩ / (||W_l|| ||∂L/∂W_l||)`` by autograd, the largest over layers, losses and 20 networks each."""
    normalizations = {
        "l2": lambda z: normalize(z, dim=1, eps=0),
        "LayerNorm": lambda z: layer_norm(z, z.shape[1:], eps=0),
        "none": lambda z: z,
    }
    result = {}
    for norm_name, norm in normalizations.items():
        for act_name, act in (("linear", nn.Identity()), ("ReLU", relu)):
            worst = 0.0
            for _ in range(20):
                sizes = [(9, 7), (7, 9), (6, 7)]
                weights = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes]
                readout = torch.randn(4, 6, generator=generator, dtype=torch.float64)
                x, x_aug = torch.randn(2, 16, 7, generator=generator, dtype=torch.float64)

                def network(inputs: Tensor, weights: Weights = weights, norm: Any = norm, act: Any = act) -> Tensor:
                    for w in weights[:-1]:
                        inputs = act(inputs @ w.T)
                    return norm(inputs @ weights[-1].T)  # type: ignore[no-any-return]

                contrastive = acl.AlphaCLLoss("direct", l2_normalize=False)(network(x), network(x_aug))
                classes = torch.arange(16) % 4
                above = nn.functional.cross_entropy(relu(network(x)) @ readout.T, classes)
                for loss in (contrastive, above):
                    for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                        worst = max(worst, float((w * g).sum().detach().abs() / (w.detach().norm() * g.norm())))
            result[f"{act_name}, {norm_name}"] = worst
    return result


def figure_2(generator: torch.Generator, depth: int = 5, starts: int = 6) -> Figure:
    """Figure 2: one problem, several starts; the objective, and the two largest singular values of each layer."""
    covariance = random_covariances(1, WIDTH, generator).expand(starts, -1, -1)
    widths = torch.tensor([[WIDTH, *[7] * depth]]).expand(starts, -1)
    path = ascend(random_start(widths, generator), covariance, arc=0.02, steps=3000, keep=1000).path
    lengths = torch.stack([state.length for state in path])
    largest = float(torch.linalg.eigvalsh(covariance[0])[-1])
    energies = torch.stack([2 * state.energy for state in path]) / largest
    values = torch.stack([singular_values(state.weights) for state in path])  # [T, starts, L, 2]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(1, color="#999999", linewidth=0.8, linestyle=":")
    for start in range(starts):
        left.plot(lengths[:, start], energies[:, start], color=COLOURS[start % len(COLOURS)], linewidth=1.3)
    x, y = "length of the path", r"$2\,\mathcal{E}\,/\,\lambda_{\max}(X_\alpha)$"
    tidy(left, f"Objective from {starts} starts, depth {depth}", x, y)
    for layer in range(depth):
        colour = COLOURS[layer]
        right.plot(lengths[:, 0], values[:, 0, layer, 0], color=colour, linewidth=1.4, label=f"$W_{layer + 1}$")
        right.plot(lengths[:, 0], values[:, 0, layer, 1], color=colour, linewidth=1.4, linestyle="--")
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    tidy(right, "First start: largest (solid) and second (dashed) singular value", x, "singular value")
    return figure


def main(settings: Settings) -> dict[str, Any]:
    """Run every experiment, print its counts, save numbers and picture; returns the numbers."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(settings.seed)
    report: dict[str, Any] = {}
    for name, normalization in (("theorem_3", LAYER), ("corollary_3", FILTER)):
        found = report[name] = theorem_3(settings.problems, normalization, generator)
        print(
            f"{name}, depths 2-6: {found['both']} of {found['problems']} at the maximum and of rank one in each layer"
        )
        for row in found["by_depth"]:
            print("   ", ", ".join(f"{key} {value}" for key, value in row.items()))
        for exception in found["exceptions"]:
            print("    exception:", exception)
    report["depth_1"] = depth_one(max(settings.problems // 3, 1), generator)
    print("depth 1:", report["depth_1"])
    report["balance"] = balance(generator)
    print("balance:", {key: f"{value:.1e}" for key, value in report["balance"].items()})
    report["lemma_2"] = lemma_2(generator)
    print("lemma 2:", {key: f"{value:.1e}" for key, value in report["lemma_2"].items()})
    save(settings, "deep_linear", report, figure_2(generator))
    return report


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
