"""Section 5 of the paper, running: a two-layer ReLU network on orthogonal mixtures is not PCA.

    python examples/theory/relu_two_layer.py                   every claim below over 300 random problems, in minutes
    python examples/theory/relu_two_layer.py --problems 20     a try

Lemma 3 and Theorem 4 (the network's own gradient is the linear one with sticky weights), Theorem 5 (one hidden node
ends one-hot), Theorem 6 and Figure 3 (many hidden nodes: one mode, or rank above one), the linear network beside it.
"""

from typing import Any, NamedTuple

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from experiment import COLOURS, Settings, save, tidy
from flow import LAYER, Weights, ascend, gradient, project, random_start, retract
from problems import Mixtures, random_mixtures

MODES, SAMPLES, HIDDEN, OUTPUTS = 6, 24, 8, 5
ZERO = 1e-6
"""Entries and singular values below this, relative to the largest, count as 0."""
STANDSTILL = 1e-9
"""A smaller projected gradient, relative to ||X_α||, is none."""


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

    A step has length ``arc``, or time ``step / ||X_α||`` where that is shorter, as in `flow.ascend`.
    """
    start, path = weights, []
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
        weights = retract([moved[0].clamp_min(0), moved[1]], start, LAYER)
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
    """Draw random weights, those of the first layer not negative."""
    widths = torch.tensor([[mixtures.x.shape[2], hidden, OUTPUTS]]).expand(len(mixtures.x), -1)
    first, second = random_start(widths, generator)
    used = (mixtures.x.sum(dim=1, keepdim=True) > 0).to(first)
    return [first.abs() * used / torch.linalg.vector_norm(first.abs() * used, dim=(1, 2), keepdim=True), second]


def theorem_4(generator: torch.Generator, n: int = 20, steps: int = 2000) -> dict[str, Any]:
    """Follow the network by autograd and the linear one with sticky weights, side by side, and compare every moment."""
    mixtures = random_mixtures(n, MODES, SAMPLES, generator)
    start = start_for(mixtures, HIDDEN, generator)
    values = energies(start, mixtures)
    linear = gradient(start, mixtures.covariance).energy
    signed = [start[0] * torch.sign(torch.randn(start[0].shape, generator=generator)), start[1]]
    clamped = [signed[0].clamp_min(0), signed[1]]
    by_sign, by_clamp = energies(signed, mixtures), energies(clamped, mixtures)
    relu, sticky, free = (
        follow(start, mixtures, slope, steps=steps, keep=1).path
        for slope in (relu_gradient, sticky_gradient, lambda w, m: gradient(w, m.covariance).direction)
    )
    pairs = list(zip(relu, sticky, strict=False))
    dead = (relu[-1][0] == 0).double().mean()
    return {
        "networks": n,
        "steps": len(pairs) - 1,
        "lemma_3_formula_error": float((values / linear - 1).abs().max()),
        "lemma_3_clamping_error": float((by_sign - by_clamp).abs().max()),
        "largest_difference_along_the_way": max(
            float((a - b).abs().max()) for one, other in pairs for a, b in zip(one, other, strict=True)
        ),
        "share_of_weights_that_stuck": float(dead),
        "largest_difference_without_the_sticky_rule": max(
            float((a[0] - b[0]).abs().max()) for a, b in zip(relu, free, strict=False)
        ),
    }


def theorem_5(problems: int, generator: torch.Generator) -> dict[str, Any]:
    """One hidden node: count the runs whose w_1 ends at a coordinate vector, and which one."""
    mixtures = random_mixtures(problems, MODES, SAMPLES, generator)
    ended = arrive(start_for(mixtures, 1, generator), mixtures)
    w1 = ended.weights[0][:, 0]
    one_hot = ((w1 > ZERO).sum(dim=1) == 1) & ((w1.amax(dim=1) - 1).abs() < ZERO)
    best = mixtures.covariance.diagonal(dim1=1, dim2=2).argmax(dim=1)
    eigenvectors = torch.linalg.eigh(mixtures.covariance).eigenvectors[:, :, -1].abs()
    return {
        "runs": problems,
        "one_hot": int(one_hot.sum()),
        "largest_gradient_norm": float(ended.gradient_norm.max()),
        "at_the_best_mode": int((w1.argmax(dim=1) == best).sum()),
        "at_each_mode": torch.bincount(w1.argmax(dim=1), minlength=MODES).tolist(),
        "leading_eigenvector_one_hot": int((eigenvectors.amax(dim=1) > 1 - ZERO).sum()),
        "energy_positive": int((ended.energy > 0).sum()),
    }


def theorem_6(problems: int, generator: torch.Generator) -> tuple[dict[str, Any], Figure]:
    """Many hidden nodes: count the two branches, beside the linear network on the same data; and draw Figure 3."""
    mixtures = random_mixtures(problems, MODES, SAMPLES, generator)
    start = start_for(mixtures, HIDDEN, generator)
    ended = arrive(start, mixtures)
    unit = torch.linalg.eigvalsh(mixtures.covariance).abs().amax(dim=1)[:, None, None]
    linear = ascend(start, mixtures.covariance / unit, steps=20_000)
    relu_rank, linear_rank = rank(ended.weights), rank(linear.weights)
    one_mode = modes_in_use(ended.weights) == 1
    settled = ended.gradient_norm <= STANDSTILL
    positive = ended.energy > 0
    counted = positive & settled
    many = counted & (relu_rank > 1)
    report = {
        "runs": problems,
        "energy_positive": int(positive.sum()),
        "stands_still": int(settled.sum()),
        "one_mode": int((counted & one_mode).sum()),
        "rank_above_one": int(many.sum()),
        "no_mode_with_positive_energy": int((mixtures.covariance.diagonal(dim1=1, dim2=2).amax(dim=1) <= 0).sum()),
        "neither": int((counted & ~one_mode & (relu_rank == 1)).sum()),
        "ranks": torch.bincount(relu_rank[counted]).tolist(),
        "still_moving": [
            {"gradient_norm": float(ended.gradient_norm[i]), "rank": int(relu_rank[i]), "one_mode": bool(one_mode[i])}
            for i in (~settled).nonzero()[:, 0]
        ],
        "rank_above_one_after_a_perturbation": after_perturbation(
            ended, mixtures, counted & (relu_rank > 1), generator
        ),
        "relu_energy_over_linear": float((ended.energy / (linear.energy * unit[:, 0, 0])).mean()),
        "linear": {
            "rank_one": int((linear_rank == 1).sum()),
            "one_mode": int((modes_in_use(linear.weights) == 1).sum()),
            "largest_gradient_norm": float(linear.gradient_norm.max()),
        },
    }
    chosen = int((relu_rank * counted).argmax())
    return report, figure_3([w[chosen] for w in ended.weights], [w[chosen] for w in linear.weights], report)


def after_perturbation(ended: Ended, mixtures: Mixtures, which: Tensor, generator: torch.Generator) -> dict[str, int]:
    """Move the chosen ends by 1e-3, W_1's zeros included, and follow on: how many still have a rank above one?"""
    chosen = Mixtures(*(part[which] for part in mixtures))
    if not len(chosen.x):
        return {"runs": 0, "rank_above_one": 0, "same_energy": 0}
    w1, w2 = (w[which] for w in ended.weights)
    noise = [1e-3 * torch.randn(w.shape, generator=generator) / w[0].numel() ** 0.5 for w in (w1, w2)]
    again = arrive(retract([w1 + noise[0].abs(), w2 + noise[1]], [w1, w2], LAYER), chosen)
    return {
        "runs": len(chosen.x),
        "rank_above_one": int((rank(again.weights) > 1).sum()),
        "same_energy": int(((again.energy / ended.energy[which] - 1).abs() < 1e-6).sum()),
    }


def rank(weights: Weights) -> Tensor:
    """Numerical rank of W_1, for each network."""
    values = torch.linalg.svdvals(weights[0])
    count: Tensor = (values > ZERO * values[:, :1]).sum(dim=1)
    return count


def modes_in_use(weights: Weights) -> Tensor:
    """How many columns of W_1 are not 0, for each network: 1 is ``W_1 = v e_mᵀ``."""
    largest = weights[0].abs().amax(dim=1)
    count: Tensor = (largest > ZERO * largest.amax(dim=1, keepdim=True)).sum(dim=1)
    return count


def figure_3(relu: Weights, linear: Weights, report: dict[str, Any]) -> Figure:
    """Figure 3: W_1 and W_2ᵀ W_2 of one run, ReLU and linear; and the ranks of all runs."""
    figure = Figure(figsize=(12.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 1.1])
    pictures = [("ReLU", relu), ("linear", linear)]
    for column, (name, (w1, w2)) in enumerate(pictures):
        for which, (title, matrix) in enumerate(((f"{name}: $W_1$", w1), (f"{name}: $W_2^T W_2$", w2.T @ w2))):
            axis = axes[2 * column + which]
            limit = float(matrix.abs().max())
            image = axis.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            figure.colorbar(image, ax=axis, shrink=0.7).ax.tick_params(labelsize=7)
            axis.set_xticks(range(0, matrix.shape[1], 2))
            tidy(axis, title, "mode m" if which == 0 else "hidden node", "hidden node")
    counts = report["ranks"]
    axes[4].bar(range(1, len(counts)), counts[1:], color=COLOURS[0], label="ReLU")
    axes[4].bar([1], [report["linear"]["rank_one"]], color="none", edgecolor=COLOURS[1], linewidth=1.5, label="linear")
    axes[4].legend(fontsize=8, frameon=False)
    axes[4].set_xticks(range(1, len(counts)))
    tidy(axes[4], f"Rank of $W_1$ in {report['runs']} runs", "rank", "runs")
    return figure


def main(settings: Settings) -> dict[str, Any]:
    """Run every experiment, print its counts, save numbers and picture; returns the numbers."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(settings.seed)
    report: dict[str, Any] = {"theorem_4": theorem_4(generator)}
    print("theorem 4:", report["theorem_4"])
    report["theorem_5"] = theorem_5(settings.problems, generator)
    print("theorem 5:", report["theorem_5"])
    report["theorem_6"], figure = theorem_6(settings.problems, generator)
    print("theorem 6:", report["theorem_6"])
    save(settings, "relu_two_layer", report, figure)
    return report


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
