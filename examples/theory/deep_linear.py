"""Section 4 of the paper, running: the max player of a deep linear network is PCA of the contrastive covariance.

    python examples/theory/deep_linear.py                             every claim below, in minutes
    python examples/theory/deep_linear.py --problems 25 --hard 10     a try

Theorem 3 and Figure 2 (almost all local maxima are global and of rank one), its counterexample at depth 1, Corollary 3
(one norm for each filter), layer balance with and without normalisation, Lemma 2 (normalisation conserves norms).
"""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import experiment
from experiment import command_line, progress, save, show, tidy

import torch
from torch import Tensor

from alphacl_plugins.plots.axes import COLOURS, new_figure
from conserved import balance, lemma_2
from flow import (
    FILTER,
    LAYER,
    Ended,
    Weights,
    ascend,
    feature_covariances,
    join,
    perturb,
    random_start,
    singular_values,
)
from problems import random_covariance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 8
DEPTHS = (2, 3, 4, 5, 6)
HARD = 0.1
"""The hard problems have a λ_max below this, where the largest eigenvalue in size is 1."""
OBJECTIVE, RANK_ONE, STANDSTILL = 1e-6, 1e-4, 1e-9
"""(λ_max - 2E)/λ_max and σ₂/σ₁ below these count as reached; a projected gradient below the third counts as 0."""


@dataclass(frozen=True)
class Settings(experiment.Settings):
    """How many problems, and where the files go."""

    problems: int = 300
    """Least number of random problems of Theorem 3 and of Corollary 3; a third as many at depth 1."""
    hard: int = 100
    """Least number of random problems with a small λ_max."""


def relative_gap(covariance: Tensor, energy: float) -> float:
    """``(λ_max - 2E) / λ_max``."""
    largest = float(torch.linalg.eigvalsh(covariance)[-1])
    return (largest - 2 * energy) / largest


def second_over_first(weights: Weights) -> float:
    """σ₂/σ₁ of the layer that is furthest from rank one."""
    return max(float(values[1] / values[0]) for values in singular_values(weights))


def theorem_3(problems: int, normalization: str, generator: torch.Generator, most: float = 1.0) -> dict[str, Any]:
    """From a random start on each problem to where the flow ends: is it the maximum, is every layer of rank one?

    Hidden and output widths are uniform in 2 to 10, depths 2 to 6 in equal shares, covariances `random_covariance`'s.
    """
    rows = [one_depth(d, math.ceil(problems / len(DEPTHS)), normalization, generator, most) for d in DEPTHS]
    exceptions = [exception for row in rows for exception in row.pop("exceptions")]
    total = {key: sum(row[key] for row in rows) for key in ("problems", "maximum", "rank_one", "both")}
    return {"normalization": normalization, "lambda_max_at_most": most, **total, "by_depth": rows} | {
        "local_maxima_at_zero": sum(exception["local_maximum_at_zero"] for exception in exceptions),
        "exceptions": exceptions,
    }


def one_depth(depth: int, problems: int, normalization: str, generator: torch.Generator, most: float) -> dict[str, Any]:
    """Theorem 3's counts at one depth."""
    maxima, ranks, exceptions, spectra, times, errors = [], [], [], [], [], []
    for _ in progress(range(problems), f"{normalization} norms, depth {depth}"):
        covariance = random_covariance(WIDTH, generator, most)
        widths = [WIDTH, *torch.randint(2, 11, (depth,), generator=generator).tolist()]
        ended = ascend(random_start(widths, generator, normalization), covariance, normalization)
        maxima.append(relative_gap(covariance, ended.energy) < OBJECTIVE)
        ranks.append(second_over_first(ended.weights) < RANK_ONE)
        spectra.append(torch.linalg.eigvalsh(covariance))
        times.append(float(ended.times[-1]))
        if not (maxima[-1] and ranks[-1]):
            exceptions.append(classify(ended, covariance, normalization, generator))
        elif normalization == FILTER:
            errors.append(filter_error(ended.weights[:-1]))
    spectrum = torch.stack(spectra)
    row: dict[str, Any] = {
        "depth": depth,
        "problems": problems,
        "maximum": sum(maxima),
        "rank_one": sum(ranks),
        "both": problems - len(exceptions),
        "negative_eigenvalues": float((spectrum < 0).double().mean()),
        "lambda_max_below_a_quarter": int((spectrum[:, -1] < 0.25).sum()),
        "least_lambda_max": float(spectrum[:, -1].min()),
        "longest_time": max(times),
    }
    return (
        row
        | ({"largest_error_of_v": max(errors, default=0.0)} if normalization == FILTER else {})
        | {"exceptions": exceptions}
    )


def filter_error(weights: Weights) -> float:
    """Largest difference of ``|[v_l]_k|`` from ``1/√n_l``, v_l the left singular vector of W_l, l = 1 ... L - 1."""
    return max(float((torch.linalg.svd(w).U[:, 0].abs() - w.shape[0] ** -0.5).abs().max()) for w in weights)


def classify(ended: Ended, covariance: Tensor, normalization: str, generator: torch.Generator) -> dict[str, Any]:
    """Say of a run that did not arrive: does it stand still, do perturbations escape, is it a local maximum at E = 0?

    It is one where some hidden layer's ``C_α[f_k]`` has negative eigenvalues alone: for all weights nearby
    ``2E = tr(W_>k C_α[f_k] W_>kᵀ) <= 0``. There W_>k = 0, so ``W_>1ᵀ W_>1 = 0`` has no distinct maximal eigenvalue, as
    Theorem 3 asks for.
    """
    escapes = {}
    for size in (1e-3, 1e-1):
        again = ascend(perturb(ended.weights, size, generator, normalization), covariance, normalization)
        gap = relative_gap(covariance, again.energy)
        escapes[str(size)] = gap < OBJECTIVE and second_over_first(again.weights) < RANK_ONE
    hidden = feature_covariances(ended.weights, covariance)[1:-1]
    highest = min((float(torch.linalg.eigvalsh(c)[-1]) for c in hidden), default=math.inf)
    above_first = functools.reduce(torch.matmul, reversed(ended.weights[1:]))
    return {
        "widths": [covariance.shape[0], *(w.shape[0] for w in ended.weights)],
        "lambda_max": float(torch.linalg.eigvalsh(covariance)[-1]),
        "energy": ended.energy,
        "gap": relative_gap(covariance, ended.energy),
        "second_over_first": second_over_first(ended.weights),
        "gradient_norm": ended.gradient_norm,
        "stands_still": ended.gradient_norm < STANDSTILL,
        "escapes_after_perturbation": escapes,
        "least_largest_eigenvalue_of_hidden_features": highest,
        "norm_of_the_layers_above_the_first": float(above_first.norm()),
        "local_maximum_at_zero": highest < -STANDSTILL and abs(ended.energy) < STANDSTILL,
    }


def sentence(exception: dict[str, Any]) -> str:
    """Say what `classify` found."""
    widths = "-".join(map(str, exception["widths"]))
    escapes = [size for size, escaped in exception["escapes_after_perturbation"].items() if escaped]
    return (
        f"  {widths}: 2E/λ_max = {1 - exception['gap']:.2g}, gradient {exception['gradient_norm']:.1e}, "
        f"a perturbation escapes {'from size ' + escapes[0] if escapes else 'neither at 0.001 nor at 0.1'}"
        f"{'; a local maximum at E = 0, outside the theorem' if exception['local_maximum_at_zero'] else ''}"
    )


def depth_one(problems: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """One layer: with a simple λ_max rank one, with a double one the paper's counterexample."""
    simple = [random_covariance(WIDTH, generator) for _ in range(problems)]
    result = []
    for name, covariances in (("simple", simple), ("double", [doubled(matrix) for matrix in simple])):
        ends = [ascend(random_start([WIDTH, 5], generator), c) for c in progress(covariances, f"{name} λ_max")]
        reached = [relative_gap(c, ended.energy) < OBJECTIVE for c, ended in zip(covariances, ends, strict=True)]
        rank_one = [second_over_first(ended.weights) < RANK_ONE for ended in ends]
        result.append({"λ_max": name, "problems": problems, "maximum": sum(reached), "rank_one": sum(rank_one)})
    return result


def doubled(covariance: Tensor) -> Tensor:
    """Raise the second eigenvalue to the largest."""
    values, vectors = torch.linalg.eigh(covariance)
    values[-2] = values[-1]
    raised: Tensor = vectors @ torch.diag(values) @ vectors.mT
    return raised


def path_lengths(run: Ended) -> Tensor:
    """Return the length of the weights' path up to each step: an axis on which a plateau takes little room."""
    lengths: Tensor = torch.linalg.vector_norm(join(run.path).diff(dim=0), dim=1).cumsum(dim=0)
    return torch.cat([torch.zeros(1), lengths])


def figure_2(generator: torch.Generator, depth: int = 5, starts: int = 6) -> "Figure":
    """Figure 2: one problem, several starts; the objective, and the two largest singular values of each layer."""
    covariance = random_covariance(WIDTH, generator)
    runs = [ascend(random_start([WIDTH, *[7] * depth], generator), covariance) for _ in range(starts)]
    largest = float(torch.linalg.eigvalsh(covariance)[-1])
    figure = new_figure(11, 3.6)
    left, right = figure.subplots(1, 2)
    for start, run in reversed(list(enumerate(runs))):
        energies = feature_covariances(run.path, covariance)[-1].diagonal(dim1=-2, dim2=-1).sum(dim=-1) / largest
        colour, label = (COLOURS[0], "the start on the right") if start == 0 else ("#aaaaaa", "other starts")
        left.plot(path_lengths(run), energies, color=colour, linewidth=1.4, label=label if start < 2 else None)
    left.axhline(1, color="#333333", linewidth=0.8, linestyle=":")
    left.legend(fontsize=8, frameon=False)
    x, y = "length of the path", r"$2\,\mathcal{E}\,/\,\lambda_{\max}(X_\alpha)$"
    tidy(left, f"Objective from {starts} starts, depth {depth}", x, y)
    values, lengths = singular_values(runs[0].path), path_lengths(runs[0])  # [T, L, 2], [T]
    for layer in range(depth):
        style = {"color": COLOURS[layer % len(COLOURS)], "linewidth": 1.4}
        right.plot(lengths, values[:, layer, 0], label=f"$W_{layer + 1}$", **style)
        right.plot(lengths, values[:, layer, 1], linestyle="--", **style)
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    tidy(right, "Largest (solid) and second (dashed) singular value", x, "singular value")
    return figure


def main(settings: Settings) -> dict[str, Any]:
    """Run every experiment, print its counts, save numbers and picture; returns the numbers."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(settings.seed)
    report: dict[str, Any] = {}
    for title, name, problems, normalization, most in (
        ("Theorem 3", "theorem_3", settings.problems, LAYER, 1.0),
        (f"Theorem 3, λ_max < {HARD}", "theorem_3_hard", settings.hard, LAYER, HARD),
        ("Corollary 3", "corollary_3", settings.problems, FILTER, 1.0),
    ):
        found = report[name] = theorem_3(problems, normalization, generator, most)
        headings = {"depth": "depth", "problems": "problems", "both": "both", "longest_time": "longest time"}
        rows = [{heading: row[key] for key, heading in headings.items()} for row in found["by_depth"]]
        show(f"{title}: {found['both']} of {found['problems']} at the maximum and of rank one in every layer", rows)
        for exception in found["exceptions"]:
            print(sentence(exception))
    report["depth_1"] = depth_one(math.ceil(settings.problems / 3), generator)
    show("Depth 1, a simple and a double λ_max", report["depth_1"])
    report["balance"] = balance(generator)
    show("Layer balance", [{"flow": name, **row} for name, row in report["balance"].items()])
    report["lemma_2"] = lemma_2(generator)
    show("Lemma 2, cosine of weights and gradient below a normalisation", report["lemma_2"])
    save(settings, "deep_linear", report, figure_2(generator))
    return report


if __name__ == "__main__":
    command_line(Settings, main, __doc__)
