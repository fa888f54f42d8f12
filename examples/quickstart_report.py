"""The quickstart's results: the table on the terminal, the verdict below it, and the JSON file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from paired.interval import Interval, interval
from provenance import environment, write_json
from quickstart_evaluation import FEW, Features, Scores

UNTRAINED = "untrained"
COLUMNS = {
    "probe_all": "probe, %\nall labels",
    "probe_few": f"probe, %\n{FEW}/class",
    "knn": "kNN, %\n",
    "alignment": "alignment\n(↓ closer)",
    "uniformity": "uniformity\n(↓ wider)",
    "effective_rank": "effective\nrank",
}
ACCURACIES = {"probe_all": "probe, all labels", "probe_few": f"probe, {FEW} per class", "knn": "kNN"}


@dataclass(frozen=True)
class Run:
    """One network of one seed, trained or not."""

    method: str
    seed: int
    initial_weights: str
    train_seconds: float
    scores: Scores
    curves: list[dict[str, float]]
    test_features: Features
    history: list[dict[str, float]] = field(default_factory=list)
    """Of the monitor: held-out images, every five epochs."""


def mean_and_error(runs: list[Run], method: str, column: str) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error, which is NaN for a single seed."""
    values = np.array([getattr(run.scores, column) for run in runs if run.method == method])
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


def methods_of(runs: list[Run]) -> list[str]:
    """Return the methods in the order in which they ran."""
    return list(dict.fromkeys(run.method for run in runs))


def print_table(console: Console, runs: list[Run]) -> None:
    """Print one row per method, then how α-CL compares with InfoNCE."""
    seeds = len({run.seed for run in runs})
    spread = f"mean ± standard error over n = {seeds} seeds" if seeds > 1 else "n = 1 seed, so no standard error"
    table = Table(title=f"Held-out images, {spread}", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("\nfeatures")
    for title in COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for method in methods_of(runs):
        table.add_row(method, *(_cell(runs, method, column) for column in COLUMNS))
    console.print()
    console.print(table)
    console.print()
    console.print(verdict(runs), highlight=False)


def _cell(runs: list[Run], method: str, column: str) -> str:
    mean, error = mean_and_error(runs, method, column)
    digits = 2 if column in ("alignment", "uniformity") else 1
    return f"{mean:.{digits}f}" if np.isnan(error) else f"{mean:.{digits}f} ± {error:.{digits}f}"


def differences(runs: list[Run]) -> dict[str, Interval]:
    """Return how far α-CL is above InfoNCE within a seed, by column: the mean over the seeds and its 95 % interval."""
    infonce, alpha_cl = ([run for run in runs if run.method == method] for method in methods_of(runs)[-2:])
    pairs = list(zip(alpha_cl, infonce, strict=True))
    return {
        column: interval([getattr(one.scores, column) - getattr(other.scores, column) for one, other in pairs])
        for column in ACCURACIES
    }


def verdict(runs: list[Run]) -> str:
    """Say in words how α-CL compares with InfoNCE."""
    found = differences(runs)
    parts = (f"{found[column].text} points ({name})" for column, name in ACCURACIES.items())
    known = [difference.half is not None and abs(difference.mean) > difference.half for difference in found.values()]
    infonce, alpha_cl = methods_of(runs)[-2:]
    intervals = "" if found["knn"].half is None else ", 95 % intervals"
    end = "" if any(known) else " No difference is shown."
    return f"{alpha_cl} against {infonce} from the same start{intervals}: {', '.join(parts)}.{end}"


def save_json(path: Path, runs: list[Run], *, settings: dict[str, Any], data: str, seconds: float) -> None:
    """Write every number, with what is needed to get it again."""
    report = {
        "settings": settings,
        "data": data,
        "seeds": sorted({run.seed for run in runs}),
        "summary": {method: _summary(runs, method) for method in methods_of(runs)},
        "differences": {column: asdict(difference) for column, difference in differences(runs).items()},
        "verdict": verdict(runs),
        "runs": [_run_as_json(run) for run in runs],
        "seconds": round(seconds, 1),
        "environment": environment(),
    }
    write_json(path, report)


def _summary(runs: list[Run], method: str) -> dict[str, dict[str, float | None]]:
    values = {column: mean_and_error(runs, method, column) for column in COLUMNS}
    return {
        column: {"mean": mean, "standard_error": None if np.isnan(error) else error}
        for column, (mean, error) in values.items()
    }


def _run_as_json(run: Run) -> dict[str, Any]:
    return {
        "method": run.method,
        "seed": run.seed,
        "initial_weights": run.initial_weights,
        "train_seconds": round(run.train_seconds, 2),
        "scores": asdict(run.scores),
        "curves": run.curves,
        "monitor": run.history,
    }
