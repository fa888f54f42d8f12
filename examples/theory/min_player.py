"""Theorem 2 and Corollary 1, running: InfoNCE trained as two players who take turns, and the same trajectory.

    python examples/theory/min_player.py

One network three times from one start: by gradient descent on the InfoNCE loss itself (Eq. 2); by turns, in which α
solves ``min E_α - R(α)`` on its feasible set by a generic numerical minimiser that knows no formula for α (Eq. 8a) and
the network takes one step up E_α (Eq. 8b); and by turns with the closed form. A fourth, with another α, shows what a
difference would look like.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import experiment
from experiment import command_line, progress, save, tidy

import torch
from torch import Tensor
from torch.nn.functional import normalize

import alphacl_plugins as acl
from alphacl_plugins import strategies
from alphacl_plugins.plots.axes import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAU, EPS, RATE = 0.3, 1.0, 0.05
PLAYERS = ("infonce", "numerical", "closed", "direct")

Weights = list[Tensor]


@dataclass(frozen=True)
class Settings(experiment.Settings):
    """How large, how long, and where to."""

    steps: int = 150
    """Steps of each training."""
    rivals: int = 300
    """Random α that are compared with the minimiser."""
    samples: int = 24
    """Samples in the batch, >= 2."""
    inputs: int = 6
    """Width of a sample."""
    hidden: int = 16
    """Hidden nodes of the network."""
    outputs: int = 4
    """Width of an embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2:  # one has no negatives
            raise ValueError(f"samples: expected an int >= 2, got {self.samples}")


def embed(weights: Weights, x: Tensor) -> Tensor:
    """A two-layer ReLU network with outputs of length 1."""
    return normalize(torch.relu(x @ weights[0].T) @ weights[1].T, dim=1)


def infonce(z: Tensor, z_aug: Tensor) -> Tensor:
    """Eq. 2, from its definition."""
    loss: Tensor = TAU * torch.log(EPS + xi(z, z_aug)).sum()
    return loss


def distances(z: Tensor, z_aug: Tensor) -> tuple[Tensor, Tensor]:
    """``D_i = ||z_i - z'_i||²/2`` and ``D_ij = ||z_i - z_j||²/2``."""
    return (z - z_aug).square().sum(dim=1) / 2, (z[:, None] - z[None]).square().sum(dim=2) / 2


def xi(z: Tensor, z_aug: Tensor) -> Tensor:
    """``ξ_i = Σ_j exp((D_i - D_ij)/τ)`` over the negatives."""
    d2_pos, d2_neg = distances(z, z_aug)
    terms = torch.exp((d2_pos[:, None] - d2_neg) / TAU).masked_fill(torch.eye(len(z), dtype=torch.bool), 0)
    return terms.sum(dim=1)


def mass(z: Tensor, z_aug: Tensor) -> Tensor:
    """The feasible set's row sums, ``ξ_i / (ξ_i + ε)``."""
    sums = xi(z, z_aug)
    return sums / (sums + EPS)


def players_objective(alpha: Tensor, z: Tensor, z_aug: Tensor) -> Tensor:
    """``E_α - R(α)`` with the entropy as R: what the min player minimises."""
    d2_pos, d2_neg = distances(z, z_aug)
    entropies = torch.special.entr(alpha.masked_fill(torch.eye(len(z), dtype=torch.bool), 1.0))
    objective: Tensor = (alpha * (d2_neg - d2_pos[:, None])).sum() - TAU * entropies.sum()
    return objective


def numerical_min_player(z: Tensor, z_aug: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise over the feasible set by L-BFGS on logits, from those given; returns α and its logits."""
    z, z_aug = z.detach(), z_aug.detach()
    itself, total = torch.eye(len(z), dtype=torch.bool), mass(z, z_aug)[:, None]
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=100, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def alpha() -> Tensor:
        return total * torch.softmax(logits.masked_fill(itself, -torch.inf), dim=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = players_objective(alpha(), z, z_aug)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return alpha().detach(), logits.detach()


def closed_min_player(z: Tensor, z_aug: Tensor) -> Tensor:
    """Theorem 2: the α of Eq. 4."""
    d2_pos, d2_neg = distances(z.detach(), z_aug.detach())
    d2_neg = d2_neg.masked_fill(torch.eye(len(z), dtype=torch.bool), torch.inf)
    return strategies.InfoNCE(TAU, EPS)(d2_pos, d2_neg).neg


def train(player: str, start: Weights, x: Tensor, x_aug: Tensor, steps: int) -> tuple[list[Weights], list[float]]:
    """Take steps with a player's gradient; returns the weights at the start and after each, and InfoNCE's value."""
    weights, path, losses = start, [], []
    logits = torch.zeros(len(x), len(x))
    for _ in progress(range(steps + 1), f"training: {player}"):
        leaves = [w.clone().requires_grad_() for w in weights]
        z, z_aug = embed(leaves, x), embed(leaves, x_aug)
        loss = infonce(z, z_aug)
        path.append(weights)
        losses.append(float(loss.detach()) / len(x))
        if player == "infonce":
            objective = -loss
        elif player == "numerical":
            alpha, logits = numerical_min_player(z, z_aug, logits)
            objective = acl.energy(z, z_aug, alpha)
        elif player == "closed":
            objective = acl.energy(z, z_aug, closed_min_player(z, z_aug))
        else:
            objective = acl.energy(z, z_aug, strategies.Direct(TAU))
        slopes = torch.autograd.grad(objective, leaves)
        weights = [w + RATE / len(x) * g for w, g in zip(weights, slopes, strict=True)]
    return path, losses


def largest_difference(one: list[Weights], other: list[Weights]) -> list[float]:
    """Return the largest difference of two paths over all weights, at each step."""
    return [max(float((a - b).abs().max()) for a, b in zip(w, v, strict=True)) for w, v in zip(one, other, strict=True)]


def theorem_2(z: Tensor, z_aug: Tensor, generator: torch.Generator, rivals: int) -> dict[str, float]:
    """The closed α against the numerical one, and against random feasible α: none may have a smaller objective."""
    closed = closed_min_player(z, z_aug)
    numerical, _ = numerical_min_player(z, z_aug, torch.zeros(len(z), len(z)))
    best = players_objective(closed, z, z_aug)
    total, itself = mass(z, z_aug)[:, None], torch.eye(len(z), dtype=torch.bool)
    least = torch.inf
    for rival in range(rivals):
        noise = 10 ** (-rival % 7 - 3.0) * torch.randn(closed.shape, generator=generator)
        other = total * torch.softmax((closed.log() + noise).masked_fill(itself, -torch.inf), dim=1)
        least = min(least, float(players_objective(other, z, z_aug) - best))
    return {
        "row_sum_error": float((closed.sum(dim=1) - total[:, 0]).abs().max()),
        "largest_difference_to_the_numerical_minimiser": float((closed - numerical).abs().max()),
        "largest_weight": float(closed.max()),
        "rivals": rivals,
        "least_excess_of_a_rival": least,
    }


def figure(losses: dict[str, list[float]], differences: dict[str, list[float]]) -> "Figure":
    """Two panels: the curves lie on each other; how far the weights are apart."""
    result = new_figure(10.5, 3.6)
    left, right = result.subplots(1, 2)
    styles = {
        "infonce": ("gradient descent on InfoNCE", COLOURS[0], "-", 6.0),
        "numerical": ("turns, α by a numerical minimiser", COLOURS[1], "-", 2.5),
        "closed": ("turns, α by Theorem 2", COLOURS[2], "--", 1.8),
        "direct": ("another α (direct)", COLOURS[3], "-", 1.2),
    }
    for name, values in losses.items():
        label, colour, line, width = styles[name]
        left.plot(values, label=label, color=colour, linestyle=line, linewidth=width)
    left.legend(fontsize=8, frameon=False)
    tidy(left, "InfoNCE along four trainings", "step", "loss per anchor")
    for name, values in differences.items():
        label, colour, line, width = styles[name]
        seen = [value if value > 0 else float("nan") for value in values]
        right.semilogy(seen, label=label, color=colour, linestyle=line, linewidth=width)
    right.legend(fontsize=8, frameon=False)
    tidy(right, "Weights: distance to the gradient descent", "step", "largest difference of any weight")
    return result


def main(settings: Settings) -> dict[str, Any]:
    """Run every training, print the differences, save numbers and picture; returns the numbers."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(settings.seed)
    x = torch.randn(settings.samples, settings.inputs, generator=generator)
    x_aug = x + 0.3 * torch.randn(x.shape, generator=generator)
    start = [
        torch.randn(settings.hidden, settings.inputs, generator=generator) / settings.inputs**0.5,
        torch.randn(settings.outputs, settings.hidden, generator=generator) / settings.hidden**0.5,
    ]
    found = theorem_2(embed(start, x), embed(start, x_aug), generator, settings.rivals)
    print(
        f"Theorem 2: the closed α is within {found['largest_difference_to_the_numerical_minimiser']:.1e} of the "
        f"numerical minimiser; the best of {found['rivals']} other α is worse by "
        f"{found['least_excess_of_a_rival']:.1e}."
    )
    trainings = {player: train(player, start, x, x_aug, settings.steps) for player in PLAYERS}
    losses = {player: values for player, (_, values) in trainings.items()}
    reference = trainings["infonce"][0]
    differences = {player: largest_difference(trainings[player][0], reference) for player in PLAYERS[1:]}
    moves = {
        "steps": settings.steps,
        "weights_moved": largest_difference(reference[-1:], reference[:1])[0],
        "loss": [losses["infonce"][0], losses["infonce"][-1]],
        **{f"largest_difference_{player}": max(values) for player, values in differences.items()},
    }
    print(
        f"Corollary 1: in {settings.steps} steps of gradient descent on InfoNCE the weights move by "
        f"{moves['weights_moved']:.2g}; turns with the closed α stay within {moves['largest_difference_closed']:.1e}, "
        f"with the numerical one {moves['largest_difference_numerical']:.1e}, with another α "
        f"{moves['largest_difference_direct']:.2g}."
    )
    report = {"theorem_2": found, "corollary_1": moves}
    save(settings, "min_player", report, figure(losses, differences))
    return report


if __name__ == "__main__":
    command_line(Settings, main, __doc__)
