"""Rows against the baseline: differences within seeds."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from paired.interval import Interval, interval
from paired.losses import BASELINE, Loss


@dataclass(frozen=True)
class Judged:
    """The judged runs of one loss in one row, by seed."""

    kind: str
    row: str
    loss: Loss
    runs: dict[int, dict[str, Any]]

    @property
    def title(self) -> str:
        """The name of the row."""
        return f"{self.row}, as in the paper" if self.kind == "paper" else self.row

    def average(self, name: str) -> float:
        """Return the mean of a number over the seeds."""
        return mean(run[name] if run[name] is not None else float("nan") for run in self.runs.values())


def judged_rows(contents: Iterable[dict[str, Any]]) -> list[Judged]:
    """Return the rows of the judged runs, the baseline first: tuned InfoNCE or, without it, InfoNCE as in the paper."""
    groups: dict[tuple[str, str, Loss], dict[int, dict[str, Any]]] = defaultdict(dict)
    for content in contents:
        groups[content["kind"], content["row"], Loss.of(content)][content["seed"]] = content
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
