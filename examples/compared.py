"""A host's own loss, the same loss from this package, and another strategy: trained alike, in one table."""

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import normalize

from provenance import environment, write_json

UNTRAINED, SAME = "untrained", "infonce"


@dataclass(frozen=True)
class Settings:
    """What the examples of hosts have in common."""

    strategy: str = "direct"
    """Pair weights to try beside infonce: any registered name with a temperature."""
    tau: float = 0.1
    """Temperature of the host's loss and of infonce, > 0."""
    strategy_tau: float = 0.5
    """Temperature of the strategy, > 0. The same τ is not equally sharp for two strategies."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 64
    """Samples in a batch."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    seeds: int = 3
    """How many repetitions; within a seed all losses start from the same weights and see the same batches."""
    output: Path | None = None
    """JSON file for the scores, the options, and where they come from; None: none is written."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected an int >= {least}, got {getattr(self, name)}")
        for name in ("tau", "strategy_tau", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {getattr(self, name)}")

    def tau_of(self, method: str) -> float:
        """Return the temperature of a loss."""
        return self.strategy_tau if method == self.strategy else self.tau


class Run(NamedTuple):
    """A model of one seed: scores on held-out data in %, and the loss of each step."""

    method: str
    seed: int
    scores: dict[str, float]
    losses: list[float]


Trained = Callable[[str, int], tuple[dict[str, float], list[float]]]


def compare(settings: Settings, host: str, train: Trained) -> list[Run]:
    """Train with each loss and print what came out; ``train(method, seed)`` returns scores and losses."""
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    methods = dict.fromkeys((UNTRAINED, host, SAME, settings.strategy))
    with threadpool_limits(1):  # networks this small gain nothing from more
        runs = [Run(method, seed, *train(method, seed)) for seed in range(settings.seeds) for method in methods]
    spread = f"mean ± standard error over {settings.seeds} seeds" if settings.seeds > 1 else "one seed"
    console.print(f"Held-out data, in %, {spread}:")
    console.print(table(runs))
    console.print(
        f"{SAME} is {host}: the losses of all steps differ by {largest_difference(runs, host, SAME):.1e} at most."
    )
    for column in runs[0].scores:
        console.print(within_a_seed(runs, column, settings.strategy, host))
    if settings.output is not None:
        write(settings.output, settings, runs)
    return runs


def write(file: Path, settings: Settings, runs: list[Run]) -> None:
    """Write the scores of each method, one for each seed, with the options, versions, processor and commit."""
    methods = dict.fromkeys(run.method for run in runs)
    scores = {
        method: {column: [run.scores[column] for run in runs if run.method == method] for column in runs[0].scores}
        for method in methods
    }
    options = {name: value for name, value in asdict(settings).items() if name != "output"}
    write_json(file, {"options": options, "environment": environment(), "scores": scores})


def table(runs: list[Run]) -> Table:
    """Return the table for the terminal: a row for each method."""
    result = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    result.add_column("loss")
    for column in runs[0].scores:
        result.add_column(column, justify="right", no_wrap=True)
    for method in dict.fromkeys(run.method for run in runs):
        scores = [list(run.scores.values()) for run in runs if run.method == method]
        result.add_row(method, *(cell(*column) for column in means_and_errors(scores)))
    return result


def means_and_errors(scores: list[list[float]]) -> list[tuple[float, float | None]]:
    """Return mean and standard error of each column over the seeds; a single seed has no standard error."""
    values, n = np.array(scores), len(scores)
    means = values.mean(axis=0).tolist()
    errors = (values.std(axis=0, ddof=1) / math.sqrt(n)).tolist() if n > 1 else [None] * len(means)
    return list(zip(means, errors, strict=True))


def largest_difference(runs: list[Run], a: str, b: str) -> float:
    """Return by how much the losses of a step differ at most."""
    first, second = (np.array([run.losses for run in runs if run.method == method]) for method in (a, b))
    return float(abs(first - second).max())


def within_a_seed(runs: list[Run], column: str, method: str, host: str) -> str:
    """Say how far a strategy is from the host's loss, seed by seed."""
    ours, theirs = (np.array([run.scores[column] for run in runs if run.method == name]) for name in (method, host))
    difference, n = ours - theirs, len(ours)
    error = f" ± {difference.std(ddof=1) / math.sqrt(n):.1f}" if n > 1 else ""
    ahead = int((difference > 0).sum())
    return (
        f"{column}: {method} - {host} = {difference.mean():+.1f}{error} points within a seed; ahead in {ahead} of {n}"
    )


def cell(mean: float | None, standard_error: float | None) -> str:
    """Return one number of a table."""
    return f"{mean:.1f}" if standard_error is None else f"{mean:.1f} ± {standard_error:.1f}"


def recall(queries: Tensor, targets: Tensor, k: int) -> float:
    """Return in how many % of the rows the target of that row is among the k most similar to the query, by cosine.

    Targets that are as similar as the partner go before it: encoders to which all samples look the same score 0.
    """
    similarity = normalize(queries, dim=1) @ normalize(targets, dim=1).T
    rank = (similarity >= similarity.diagonal()[:, None]).sum(dim=1)  # 1: nothing is as similar as the partner
    return 100 * (rank <= k).double().mean().item()
