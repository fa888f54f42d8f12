"""The results that are kept, sorted into cells of the paper's tables and tries."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tables.cells import TRIES, Content, differences, read, row_of
from tables.paper import Accuracy

Measure = Literal["probe_best", "probe_last", "knn"]


class Run(NamedTuple):
    """One result, and its file, as seen from the folder of results."""

    path: Path
    content: Content

    @property
    def differences(self) -> list[str]:
        """How the run differs from a cell of the paper's tables; empty if it is one."""
        return differences(self.content)


@dataclass(frozen=True)
class Repetitions:
    """The runs of one cell by one host on the same images: they differ in their seed, and have one mean."""

    dataset: str
    backbone: str
    row: str
    host: str
    sha256: str
    """Of the images."""
    runs: tuple[Run, ...]

    def after(self, epochs: int) -> list[Run]:
        """Return the runs that were evaluated after this many epochs, by seed."""
        return [run for run in self.runs if str(epochs) in run.content["evaluations"]]

    def accuracy(self, epochs: int, measure: Measure = "probe_best") -> Accuracy | None:
        """Return mean and sample standard deviation in % over the seeds; None without a run."""
        return mean_and_std(run.content["evaluations"][str(epochs)][measure] for run in self.after(epochs))


def mean_and_std(values: Iterable[float]) -> Accuracy | None:
    """Return mean and sample standard deviation.

    >>> mean_and_std([1.0, 3.0])
    Accuracy(mean=2.0, std=1.4142135623730951)
    >>> mean_and_std([1.0])
    Accuracy(mean=1.0, std=None)
    """
    values = list(values)
    if not values:
        return None
    return Accuracy(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def load(results: Path) -> list[Run]:
    """Return all results in a folder, in the order of their paths.

    Raises: ValueError for a JSON file that is no result.
    """
    places = [results / place for place in ("lightly", "solo-learn", TRIES)]
    paths = sorted(path for place in places for path in place.rglob("*.json") if not path.name.startswith("."))
    return [Run(path.relative_to(results), read(path)) for path in paths]


def repetitions(runs: Iterable[Run]) -> list[Repetitions]:
    """Return the cells of the paper's tables among the runs; tries are left out.

    Raises: ValueError if two files are of one cell, host, data and seed.
    """
    cells: dict[tuple[str, str, str, str, str], dict[int, Run]] = {}
    for run in runs:
        if run.differences:
            continue
        content = run.content
        key = (
            content["dataset"],
            content["backbone"],
            str(row_of(content)),
            content["host"],
            content["data"]["sha256"],
        )
        seeds = cells.setdefault(key, {})
        if content["seed"] in seeds:
            raise ValueError(
                f"results: expected one file for each cell, host, data and seed, got {seeds[content['seed']].path} and "
                f"{run.path}"
            )
        seeds[content["seed"]] = run
    return [Repetitions(*key, tuple(seeds[seed] for seed in sorted(seeds))) for key, seeds in sorted(cells.items())]
