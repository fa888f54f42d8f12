"""Rows against the baseline: differences within seeds, their mean, and Student's interval."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from scipy import stats

from paired.losses import BASELINE, Loss

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences in points; half the width of its 95 % interval, None for fewer than two seeds."""

    mean: float
    half: float | None
    wins: int
    n: int

    @property
    def text(self) -> str:
        """For a table.

        >>> Interval(1.25, 0.5, 3, 3).text
        '+1.25 ± 0.50'
        >>> Interval(-0.001, None, 0, 1).text
        '+0.00'
        """
        return f"{round(self.mean, 2) + 0.0:+.2f}" + ("" if self.half is None else f" ± {self.half:.2f}")


@dataclass(frozen=True)
class Judged:
    """The judged runs of one loss in one row, by seed."""

    kind: str
    row: str
    loss: Loss
    runs: dict[int, dict[str, Any]]

    @property
    def title(self) -> str:
        """Of the row."""
        return f"{self.row}, as in the paper" if self.kind == "paper" else self.row

    def average(self, name: str) -> float:
        """Return the mean of a number over the seeds."""
        return mean(run[name] if run[name] is not None else float("nan") for run in self.runs.values())


def judged_rows(contents: Iterable[dict[str, Any]]) -> list[Judged]:
    """Return the rows of the judged runs, the baseline first: tuned InfoNCE or, without it, InfoNCE as in the paper."""
    groups: dict[tuple[str, str, Loss], dict[int, dict[str, Any]]] = defaultdict(dict)
    for content in contents:
        loss = Loss(content["loss"]["strategy"], tuple(content["loss"]["options"].items()))
        groups[content["kind"], content["row"], loss][content["seed"]] = content
    rows = [Judged(kind, row, loss, dict(sorted(runs.items()))) for (kind, row, loss), runs in groups.items()]
    rows.sort(key=lambda row: (row.row != BASELINE, row.kind != "tuned", -len(row.runs)))
    return rows[:1] + sorted(rows[1:], key=lambda row: (row.kind != "tuned", row.row))


def compare(row: Judged, baseline: Judged, name: str) -> Interval | None:
    """Return the difference of a row to the baseline over the seeds that both have; None if they share none.

    Args:
        row, baseline: what to compare.
        name: of the number, "probe" or "knn".
    """
    seeds = sorted(row.runs.keys() & baseline.runs.keys())
    if not seeds:
        return None
    return interval([row.runs[seed][name] - baseline.runs[seed][name] for seed in seeds])


def interval(differences: list[float]) -> Interval:
    """Return mean, half width of Student's 95 % interval, and how many differences are above 0.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, half=2.4841377117503303, wins=3, n=3)
    """
    n = len(differences)
    half = None
    if n > 1:
        error = float(np.std(differences, ddof=1)) / n**0.5
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Interval(mean(differences), half, sum(difference > 0 for difference in differences), n)
