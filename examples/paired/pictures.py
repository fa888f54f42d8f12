"""The two pictures of a study: differences with intervals, and accuracy against effective negatives."""

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from paired.differences import Judged, compare
from paired.records import Records
from paired.report import tuning_runs
from paired.run import has_diverged
from provenance import replace_file

DIFFERENCES, SHARPNESS = "differences.png", "sharpness.png"
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")  # Okabe and Ito
MARKERS = "osv^DPXd"
JUDGES = ("probe", "knn"), ("linear probe", "kNN")


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
    if records.of("tuning"):
        figures[SHARPNESS] = sharpness(records)
    for name, figure in figures.items():
        _save(records.folder / name, figure)
    return [records.folder / name for name in figures]


def differences(baseline: Judged, others: list[Judged]) -> Figure:
    """Draw the mean difference of each row to the baseline, with its 95 % interval and every seed they share."""
    figure = Figure(figsize=(11, 1.8 + 0.42 * len(others)), layout="constrained")
    for axes, name, title in zip(figure.subplots(1, 2, sharey=True), *JUDGES, strict=True):
        axes.axvline(0, color="0.6", linewidth=1)
        for place, row in enumerate(others):
            _difference(axes, place, row, baseline, name)
        axes.set(title=title, xlabel=f"difference to {baseline.title} within a seed, points")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(range(len(others)), [row.title for row in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    figure.suptitle("Test images: mean over seeds, 95 % interval; small points are seeds", fontsize=10)
    return figure


def _difference(axes: Axes, place: int, row: Judged, baseline: Judged, name: str) -> None:
    found = compare(row, baseline, name)
    if found is None:
        return
    seeds = sorted(row.runs.keys() & baseline.runs.keys())
    each = [row.runs[seed][name] - baseline.runs[seed][name] for seed in seeds]
    colour = COLOURS[1] if row.kind == "tuned" else COLOURS[2]
    axes.scatter(each, [place + 0.18] * len(each), s=9, color=colour, alpha=0.5, linewidths=0)
    axes.errorbar(
        [found.mean], [place], xerr=None if found.half is None else [found.half], fmt="o", color=colour, capsize=3
    )


def sharpness(records: Records) -> Figure:
    """Draw accuracy on held-out training images against the effective negatives at the end, a line for each row."""
    lines: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for content in tuning_runs(records):
        if content["effective_negatives"] and not has_diverged(content):
            lines[content["row"]][str(content["loss"])].append(content)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, name, title in zip(figure.subplots(1, 2), *JUDGES, strict=True):
        for number, (row, losses) in enumerate(lines.items()):
            points = sorted(
                (mean(run["effective_negatives"] for run in runs), mean(run[name] for run in runs))
                for runs in losses.values()
            )
            colour = COLOURS[number] if number < len(COLOURS) else colormaps["turbo"](number / len(lines))
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=row)
        axes.set(xscale="log", xlabel="effective negatives in the last epoch", ylabel="accuracy, %", title=title)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle("Tuning runs, held-out training images: accuracy against sharpness", fontsize=10)
    return figure


def _save(path: Path, figure: Figure) -> None:
    replace_file(path, lambda part: figure.savefig(part, format="png", dpi=150))
