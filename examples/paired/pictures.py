"""The two pictures of a study: differences with intervals, and accuracy against effective negatives."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from paired.differences import Judged, compare
from paired.losses import BASELINE
from paired.records import Records
from paired.report import tuning_runs
from paired.run import has_diverged
from provenance import replace_file

DIFFERENCES, SHARPNESS = "differences.png", "sharpness.png"
ORANGE, BLUE = "#D55E00", "#0072B2"  # of Okabe and Ito
PANELS = 4
"""In a row of the second picture."""
BELOW = 1.0
"""Points below the baseline's worst value, at the lower edge of the second picture."""
JUDGES = ("probe", "knn"), ("linear probe", "kNN")
Line = list[tuple[float, float]]
"""Effective negatives and accuracy, in %."""


def draw(records: Records, rows: list[Judged]) -> list[Path]:
    """Draw what there is; return the files.

    Args:
        records: of the study; the pictures go into its folder.
        rows: the judged rows, the baseline first.
    """
    figures = {}
    paired = [row for row in rows[1:] if row.runs.keys() & rows[0].runs.keys()]
    if paired:
        figures[DIFFERENCES] = differences(rows[0], paired)
    if _lines(records):
        figures[SHARPNESS] = sharpness(records)
    for name, figure in figures.items():
        save(records.folder / name, figure)
    return [records.folder / name for name in figures]


def differences(baseline: Judged, others: list[Judged]) -> Figure:
    """Draw the mean difference of each row to the baseline, with its 95 % interval and every seed they share."""
    return compared(
        [(row.title, row, baseline) for row in others], f"difference to {baseline.title} within a seed, points"
    )


def compared(pairs: Sequence[tuple[str, Judged, Judged]], label: str) -> Figure:
    """Draw differences between two rows, a line for each pair of them: mean, 95 % interval, and every seed.

    Args:
        pairs: title, row, and what it is compared with; the two share a seed.
        label: of the differences.
    """
    figure = Figure(figsize=(11, 1.8 + 0.42 * len(pairs)), layout="constrained")
    for axes, name, title in zip(figure.subplots(1, 2, sharey=True), *JUDGES, strict=True):
        axes.axvline(0, color="0.6", linewidth=1)
        for place, (_, row, baseline) in enumerate(pairs):
            _difference(axes, place, row, baseline, name)
        axes.set(title=title, xlabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(range(len(pairs)), [title for title, _, _ in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    figure.suptitle("Test images: mean over seeds, 95 % interval; small points are seeds", fontsize=10)
    return figure


def _difference(axes: Axes, place: int, row: Judged, baseline: Judged, name: str) -> None:
    found = compare(row, baseline, name)
    if found is None:
        return
    seeds = sorted(row.runs.keys() & baseline.runs.keys())
    each = [row.runs[seed][name] - baseline.runs[seed][name] for seed in seeds]
    colour = ORANGE if row.kind == "tuned" else BLUE
    axes.scatter(each, [place + 0.18] * len(each), s=9, color=colour, alpha=0.5, linewidths=0)
    axes.errorbar(
        [found.mean], [place], xerr=None if found.half is None else [found.half], fmt="o", color=colour, capsize=3
    )


def sharpness(records: Records) -> Figure:
    """Draw the probe on held-out training images against the effective negatives at the end: a panel for each row.

    The baseline is black in every panel, the other rows are grey. What lies far below the baseline's worst value is
    drawn at the lower edge.
    """
    lines = _lines(records)
    baseline = lines.pop(BASELINE, [])
    names = list(lines) or [BASELINE]
    lowest = min(accuracy for _, accuracy in baseline or chain(*lines.values())) - BELOW
    columns = min(PANELS, len(names))
    height = -(-len(names) // columns)
    figure = Figure(figsize=(max(6.4, 0.8 + 3.1 * columns), 1.2 + 2.5 * height), layout="constrained")
    panels = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, name in zip_longest(panels, names):
        if name is None:
            axes.remove()
            continue
        for line in lines.values():
            _line(axes, line, lowest, color="0.85", linewidth=1)
        _line(axes, baseline, lowest, color="black", marker="o", markersize=4)
        _line(axes, lines.get(name, []), lowest, color=ORANGE, marker="s", markersize=5)
        axes.set_title(name, fontsize=10)
        axes.set(xscale="log")
        axes.set_ylim(bottom=lowest)
        axes.tick_params(labelbottom=True)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("effective negatives in the last epoch", fontsize=10)
    figure.supylabel("linear probe, %", fontsize=10)
    grey = ", grey: other rows" if len(lines) > 1 else ""
    below = "; points at the lower edge lie below it" if any(y < lowest for _, y in chain(*lines.values())) else ""
    figure.suptitle(f"Tuning, on held-out training images. Black: {BASELINE}{grey}{below}", fontsize=10)
    return figure


def _lines(records: Records) -> dict[str, Line]:
    """Return of each row effective negatives and probe of every loss that was tried, means over the seeds."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for content in tuning_runs(records):
        if content["effective_negatives"] and not has_diverged(content):
            found[content["row"]][str(content["loss"])].append(content)
    return {
        row: sorted(
            (mean(run["effective_negatives"] for run in runs), mean(run["probe"] for run in runs))
            for runs in losses.values()
        )
        for row, losses in found.items()
    }


def _line(axes: Axes, line: Line, lowest: float, **style: Any) -> None:
    if line:
        numbers, accuracies = zip(*line, strict=True)
        axes.plot(numbers, [max(accuracy, lowest) for accuracy in accuracies], clip_on=False, **style)


def save(path: Path, figure: Figure) -> None:
    """Write a picture as PNG, whole or not at all."""
    replace_file(path, lambda part: figure.savefig(part, format="png", dpi=150))
