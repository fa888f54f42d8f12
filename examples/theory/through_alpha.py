"""Why a gradient through α keeps the embeddings together: it holds the spread of the distances at the size of τ.

    python examples/theory/through_alpha.py

With α fixed, InfoNCE pushes negative j away with weight ``α_j``. With the gradient through α (``detach_alpha=False``)
the weight becomes ``α_j (1 - (D_j - Σ_k q_k D_k)/τ)``, q the row of α over its sum, up to what the row sum adds: a
negative that lies τ further away than the weighted mean is pulled nearer. So distances cannot spread by much more than
τ, and the share of negatives that count is the same whatever τ is. A small network on clustered points shows it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import experiment
from experiment import command_line, progress, save, show, tidy

import torch
from torch import nn
from torch.nn.functional import normalize

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.plots.axes import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAUS = (0.05, 0.1, 0.2, 0.4)
BATCH, CLUSTERS, INPUTS = 128, 20, 32


@dataclass(frozen=True)
class Settings(experiment.Settings):
    """How long, how often, and where to."""

    steps: int = 300
    """Steps of each training."""
    seeds: int = 3
    """Trainings for each τ."""


def train(tau: float, detach_alpha: bool, steps: int, seed: int) -> dict[str, float]:
    """Train on two noisy views of clustered points; return what the last batch looks like."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(INPUTS, 128), nn.ReLU(), nn.Linear(128, 64))
    centres = torch.randn(CLUSTERS, INPUTS, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    criterion = AlphaCLLoss("infonce", tau=tau, detach_alpha=detach_alpha)
    for _ in range(steps):
        x = centres[torch.randint(CLUSTERS, (BATCH,), generator=generator)]
        x = x + torch.randn(x.shape, generator=generator)
        z, z_aug = (network(x + 0.5 * torch.randn(x.shape, generator=generator)) for _ in range(2))
        optimizer.zero_grad()
        criterion(z, z_aug).backward()
        optimizer.step()
    with torch.no_grad():
        q = normalize(criterion.pair_weights(z, z_aug).neg, p=1, dim=1)
        rows = normalize(torch.cat([z, z_aug]), dim=1)
        d2, negative = 1 - rows @ rows.T, q > 0
        beyond = d2 > (q * d2).sum(dim=1, keepdim=True) + tau
    return {
        "effective_negatives": float(criterion.last_stats["effective_negatives"]),
        "spread": float(d2[negative].std()),
        "pulled": float(beyond[negative].float().mean()),
    }


def figure(rows: list[dict[str, Any]]) -> "Figure":
    """Spread of the distances, and effective negatives, against τ."""
    result = new_figure(9, 3.4)
    for axes, key, title in zip(
        result.subplots(1, 2),
        ("spread", "effective_negatives"),
        ("Spread of the distances to negatives", "Effective negatives, of 254"),
        strict=True,
    ):
        for colour, alpha in zip(COLOURS, ("fixed", "with its gradient"), strict=False):
            points = [row for row in rows if row["alpha"] == alpha]
            axes.plot(
                [row["tau"] for row in points], [row[key] for row in points], "o-", color=colour, label=f"α {alpha}"
            )
        tidy(axes, title, "τ")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
    return result


def main(settings: Settings) -> dict[str, Any]:
    """Train with each τ, α fixed and not; print the table, save numbers and picture; returns the numbers."""
    rows: list[dict[str, Any]] = []
    for alpha in ("fixed", "with its gradient"):
        for tau in progress(TAUS, f"α {alpha}"):
            seeds = range(settings.seed, settings.seed + settings.seeds)
            found = [train(tau, alpha == "fixed", settings.steps, seed) for seed in seeds]
            means = {key: sum(run[key] for run in found) / len(found) for key in found[0]}
            rows.append({"alpha": alpha, "tau": tau, **means, "spread_over_tau": means["spread"] / tau})
    show("InfoNCE on clustered points (means over seeds; pulled: share of negatives beyond τ):", rows)
    report = {"trainings": rows}
    save(settings, "through_alpha", report, figure(rows))
    return report


if __name__ == "__main__":
    command_line(Settings, main, __doc__)
