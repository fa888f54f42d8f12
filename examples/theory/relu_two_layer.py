"""Section 5 of the paper, running: a two-layer ReLU network on orthogonal mixtures is not PCA.

    python examples/theory/relu_two_layer.py                   every claim below over 300 random problems, in minutes
    python examples/theory/relu_two_layer.py --problems 20     a try

Lemma 3 and Theorem 4 (the network's own gradient is the linear one with sticky weights), Theorem 5 (one hidden node
ends one-hot), Theorem 6 and Figure 3 (many hidden nodes: one mode, or rank above one), the linear network beside it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import experiment
from experiment import INK, command_line, progress, save, tidy

import torch
from torch import Tensor

from alphacl_plugins.plots.axes import COLOURS, new_figure
from flow import LAYER, Weights, ascend, gradient, rescale
from problems import Mixtures, random_mixtures
from relu_flow import STANDSTILL, Ended, arrive, energies, follow, relu_gradient, start_for, sticky_gradient

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES, SAMPLES, HIDDEN = 6, 24, 8
ZERO = 1e-6
"""Entries and singular values below this, relative to the largest, count as 0."""


@dataclass(frozen=True)
class Settings(experiment.Settings):
    """How many problems, and where the files go."""

    problems: int = 300
    """Random problems of Theorem 5 and of Theorem 6."""
    networks: int = 20
    """Networks of Theorem 4."""
    steps: int = 2000
    """Steps along which Theorem 4 is checked."""


def theorem_4(generator: torch.Generator, networks: int = 20, steps: int = 2000) -> dict[str, Any]:
    """Follow the network by autograd and the linear one with sticky weights, side by side, and compare every moment."""
    mixtures = random_mixtures(networks, MODES, SAMPLES, generator)
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
    stuck = (relu[-1][0] == 0)[start[0] > 0]
    return {
        "networks": networks,
        "steps": len(pairs) - 1,
        "lemma_3_formula_error": float((values / linear - 1).abs().max()),
        "lemma_3_clamping_error": float((by_sign - by_clamp).abs().max()),
        "largest_difference_along_the_way": max(
            float((a - b).abs().max()) for one, other in pairs for a, b in zip(one, other, strict=True)
        ),
        "share_of_weights_above_zero_that_stuck": float(stuck.double().mean()),
        "largest_difference_without_the_sticky_rule": max(
            float((a[0] - b[0]).abs().max()) for a, b in zip(relu, free, strict=False)
        ),
    }


def theorem_5(problems: int, generator: torch.Generator) -> dict[str, Any]:
    """One hidden node: count the runs whose w_1 ends at a coordinate vector e_m, where ``2E = [X_α]_mm``."""
    mixtures = random_mixtures(problems, MODES, SAMPLES, generator)
    ended = arrive(start_for(mixtures, 1, generator), mixtures)
    w1 = ended.weights[0][:, 0]
    one_hot = ((w1 > ZERO).sum(dim=1) == 1) & ((w1.amax(dim=1) - 1).abs() < ZERO)
    of_modes = mixtures.covariance.diagonal(dim1=1, dim2=2)
    eigenvectors = torch.linalg.eigh(mixtures.covariance).eigenvectors[:, :, -1].abs()
    low = ended.energy <= 0
    return {
        "runs": problems,
        "one_hot": int(one_hot.sum()),
        "largest_gradient_norm": float(ended.gradient_norm.max()),
        "at_the_best_mode": int((w1.argmax(dim=1) == of_modes.argmax(dim=1)).sum()),
        "at_each_mode": torch.bincount(w1.argmax(dim=1), minlength=MODES).tolist(),
        "leading_eigenvector_one_hot": int((eigenvectors.amax(dim=1) > 1 - ZERO).sum()),
        "energy_not_positive": int(low.sum()),
        "energy_not_positive_and_no_mode_has_more": int((low & (of_modes.amax(dim=1) <= 0)).sum()),
    }


def theorem_6(problems: int, generator: torch.Generator) -> dict[str, Any]:
    """Many hidden nodes: count the two branches, beside the linear network on the same data; weights for Figure 3."""
    mixtures = random_mixtures(problems, MODES, SAMPLES, generator)
    start = start_for(mixtures, HIDDEN, generator)
    ended = arrive(start, mixtures)
    unit = torch.linalg.eigvalsh(mixtures.covariance).abs().amax(dim=1)
    linear = [
        ascend([w[i] for w in start], mixtures.covariance[i] / unit[i])
        for i in progress(range(problems), "Theorem 6: the linear networks")
    ]
    linear_weights = [torch.stack(layer) for layer in zip(*(run.weights for run in linear), strict=True)]
    ranks, one_mode = rank(ended.weights), modes_in_use(ended.weights) == 1
    settled = ended.gradient_norm <= STANDSTILL
    counted = settled & (ended.energy > 0)
    many = counted & (ranks > 1)
    ratios = [float(e / (run.energy * u)) for e, run, u in zip(ended.energy, linear, unit, strict=True)]
    chosen = int((ranks * counted).argmax())
    return {
        "runs": problems,
        "energy_positive": int((ended.energy > 0).sum()),
        "stands_still": int(settled.sum()),
        "one_mode": int((counted & one_mode).sum()),
        "rank_above_one": int(many.sum()),
        "neither": int((counted & ~one_mode & (ranks == 1)).sum()),
        "no_mode_with_positive_energy": int((mixtures.covariance.diagonal(dim1=1, dim2=2).amax(dim=1) <= 0).sum()),
        "ranks": torch.bincount(ranks[counted], minlength=3).tolist(),
        "still_moving": [
            {"gradient_norm": float(ended.gradient_norm[i]), "rank": int(ranks[i]), "one_mode": bool(one_mode[i])}
            for i in (~settled).nonzero()[:, 0]
        ],
        "rank_above_one_after_a_perturbation": after_perturbation(ended, mixtures, many, generator),
        "relu_energy_over_linear": sum(ratios) / problems,
        "linear": {
            "rank_one": int((rank(linear_weights) == 1).sum()),
            "one_mode": int((modes_in_use(linear_weights) == 1).sum()),
            "largest_gradient_norm": max(run.gradient_norm for run in linear),
        },
        "figure_3": {
            network: [w[chosen].tolist() for w in weights]
            for network, weights in (("relu", ended.weights), ("linear", linear_weights))
        },
    }


def after_perturbation(ended: Ended, mixtures: Mixtures, which: Tensor, generator: torch.Generator) -> dict[str, int]:
    """Move the chosen ends by 1e-3, W_1's zeros included, and follow on: how many still have a rank above one?"""
    chosen = Mixtures(*(part[which] for part in mixtures))
    if not len(chosen.x):
        return {"runs": 0, "rank_above_one": 0, "same_energy": 0}
    w1, w2 = (w[which] for w in ended.weights)
    noise = [1e-3 * torch.randn(w.shape, generator=generator) / w[0].numel() ** 0.5 for w in (w1, w2)]
    again = arrive(rescale([w1 + noise[0].abs(), w2 + noise[1]], LAYER), chosen)
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


def figure_3(report: dict[str, Any]) -> "Figure":
    """Figure 3: W_1 and W_2ᵀ W_2 of one run, ReLU and linear, each pair in one scale; and the ranks of all runs."""
    figure = new_figure(8.6, 5.2)
    panels = figure.subplot_mosaic([["relu 0", "linear 0", "ranks"], ["relu 1", "linear 1", "ranks"]])
    pairs = (("$W_1$", "mode m", "weight"), ("$W_2^T W_2$", "hidden node", "product of columns"))
    matrices = {name: _shown(weights) for name, weights in report["figure_3"].items()}
    for which, (name, columns, unit) in enumerate(pairs):
        limit = max(float(pair[which].abs().max()) for pair in matrices.values())
        axes = [panels[f"{network} {which}"] for network in matrices]
        for axis, (network, pair) in zip(axes, matrices.items(), strict=True):
            matrix = pair[which].numpy()
            image = axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            axis.set_xticks(range(matrix.shape[1]))
            axis.set_yticks(range(matrix.shape[0]))
            tidy(axis, f"{'ReLU' if network == 'relu' else network}: {name}", columns, "hidden node")
        bar = figure.colorbar(image, ax=axes, aspect=15)
        bar.set_label(unit, fontsize=9, color=INK)
        bar.ax.tick_params(labelsize=8, colors=INK)
    draw_ranks(panels["ranks"], report)
    return figure


def _shown(weights: list[list[list[float]]]) -> tuple[Tensor, Tensor]:
    """``W_1`` and ``W_2ᵀ W_2``."""
    w1, w2 = map(torch.tensor, weights)
    return w1, w2.T @ w2


def draw_ranks(axis: "Axes", report: dict[str, Any]) -> None:
    """Bars of the ranks of W_1: every run of the ReLU network is in one of them, the linear network beside them."""
    moving = [run["rank"] for run in report["still_moving"]]
    highest = max(len(report["ranks"]) - 1, *moving, 1)
    counts = {
        "ReLU, at rest": [*report["ranks"][1:], *[0] * (highest + 1 - len(report["ranks"]))],
        "ReLU, still moving": [moving.count(rank) for rank in range(1, highest + 1)],
        "linear": [report["linear"]["rank_one"], *[0] * (highest - 1)],
    }
    for i, (label, heights) in enumerate(counts.items()):
        places = [rank + 0.27 * (i - 1) for rank in range(1, highest + 1)]
        bars = axis.bar(places, heights, width=0.27, color=COLOURS[(0, 4, 1)[i]], label=label)
        axis.bar_label(bars, labels=[str(n) if n else "" for n in heights], fontsize=8, color=INK)
    axis.set_ylim(0, 1.3 * report["runs"])
    axis.legend(fontsize=8, frameon=False, loc="upper right")
    axis.set_xticks(range(1, highest + 1))
    tidy(axis, f"Rank of $W_1$ in {report['runs']} runs", "rank", "runs")


def main(settings: Settings) -> dict[str, Any]:
    """Run every experiment, print its counts, save numbers and picture; returns the numbers."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(settings.seed)
    four = theorem_4(generator, settings.networks, settings.steps)
    print(
        f"Theorem 4: autograd and sticky weights differ by {four['largest_difference_along_the_way']:.1e} along "
        f"{four['steps']} steps of {four['networks']} networks, without the sticky rule by "
        f"{four['largest_difference_without_the_sticky_rule']:.2g}; of the weights above 0, "
        f"{four['share_of_weights_above_zero_that_stuck']:.0%} end at 0."
    )
    five = theorem_5(settings.problems, generator)
    print(
        f"Theorem 5, one hidden node: {five['one_hot']} of {five['runs']} one-hot, {five['at_the_best_mode']} at the "
        f"best mode; E <= 0 in {five['energy_not_positive']}, of which "
        f"{five['energy_not_positive_and_no_mode_has_more']} have no better mode."
    )
    six = theorem_6(settings.problems, generator)
    print(
        f"Theorem 6, {HIDDEN} hidden nodes: {six['stands_still']} of {six['runs']} stand still; of those with E > 0, "
        f"{six['one_mode']} at one mode, {six['rank_above_one']} with a rank above one, {six['neither']} neither.\n"
        f"The linear network: {six['linear']['rank_one']} of rank one, {six['linear']['one_mode']} at one mode."
    )
    for run in six["still_moving"]:
        print(f"  still moving: rank {run['rank']}, gradient {run['gradient_norm']:.1e}")
    report = {"theorem_4": four, "theorem_5": five, "theorem_6": six}
    save(settings, "relu_two_layer", report, figure_3(six))
    return report


if __name__ == "__main__":
    command_line(Settings, main, __doc__)
