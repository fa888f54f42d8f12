"""Pictures of the results: accuracy by epoch for each loss, and ours against the paper's."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from provenance import replace_file
from tables.kept import Repetitions, Run, repetitions
from tables.paper import ROWS, Accuracy, reported
from tables.report import NAMES

FOLDER = "plots"
COLOURS = dict(
    zip(ROWS, ("#999999", "#000000", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00"), strict=True)
)  # Okabe and Ito (2008): told apart by colour-blind readers too
MARKERS = dict(zip(ROWS, "sovD^Pp", strict=True))


def draw(runs: Sequence[Run], results: Path) -> list[Path]:
    """Draw the results that exist, and remove pictures of results that are gone.

    Args:
        runs: what is kept.
        results: the pictures go to its folder ``plots``.

    Returns: the pictures, relative to the folder of results.
    """
    matplotlib.use("Agg")
    figures: dict[str, Figure] = {}
    cells = repetitions(runs)
    parts: dict[tuple[str, str, str, str], list[Repetitions]] = defaultdict(list)
    for cell in cells:
        parts[cell.dataset, cell.backbone, cell.host, cell.sha256].append(cell)
    compared = [cell for cell in cells if _milestones(cell)]
    if compared:
        figures["ours-against-paper"] = against_paper(compared)
    for (dataset, backbone, host, sha256), part in parts.items():
        figures[f"accuracy-{dataset}-{backbone}-{host}-{sha256[:8]}"] = by_epoch(part)
    folder = results / FOLDER
    for old in folder.glob("*.png"):
        if old.stem not in figures:
            old.unlink()
    for name, figure in figures.items():
        replace_file(folder / f"{name}.png", partial(figure.savefig, format="png", dpi=150))
    return [Path(FOLDER, f"{name}.png") for name in figures]


def _milestones(cell: Repetitions) -> list[int]:
    """The epochs that the paper reports and that there are runs of."""
    return [epochs for epochs in reported(cell.dataset, cell.backbone, cell.row) if cell.after(epochs)]


def by_epoch(cells: Sequence[Repetitions]) -> Figure:
    """Draw one data set, backbone and host: kNN while training, and the probe beside the paper's."""
    cells = sorted(cells, key=lambda cell: list(ROWS).index(cell.row))
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for cell in cells:
        _draw_knn(left, cell)
    _draw_probe(right, cells)
    first = cells[0]
    figure.suptitle(f"{NAMES[first.dataset]}, {NAMES[first.backbone]}, {first.host}")
    left.set(xlabel="epoch", ylabel="kNN accuracy in %", title="kNN, mean over seeds")
    right.set(xlabel="epochs of pretraining", ylabel="probe accuracy in %", title="linear probe, mean ± std over seeds")
    if not left.lines:
        left.text(0.5, 0.5, "no kNN while training", ha="center", va="center", transform=left.transAxes)
    handles = [_handle(cell.row, f"{ROWS[cell.row].title} (n = {len(cell.runs)})") for cell in cells]
    handles.append(Line2D([], [], color="0.3", marker="o", mfc="white", ls="none", label="paper (n = 5)"))
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    _tidy(left, right)
    return figure


def _draw_knn(axes: Axes, cell: Repetitions) -> None:
    values: dict[int, list[float]] = defaultdict(list)
    for run in cell.runs:
        for epoch in run.content["curve"]:
            if "knn" in epoch:
                values[epoch["epoch"]].append(epoch["knn"])
    if values:
        epochs = sorted(values)
        means = [sum(values[epoch]) / len(values[epoch]) for epoch in epochs]
        marker = MARKERS[cell.row] if len(epochs) < 15 else None
        axes.plot(epochs, means, color=COLOURS[cell.row], marker=marker, ms=4)


def _draw_probe(axes: Axes, cells: Sequence[Repetitions]) -> None:
    """Ours, filled, beside the paper's, white; for each number of epochs, in the order of the rows."""
    milestones = sorted({int(epochs) for cell in cells for run in cell.runs for epochs in run.content["evaluations"]})
    step = 0.8 / (2 * len(cells))
    for number, cell in enumerate(cells):
        paper = reported(cell.dataset, cell.backbone, cell.row)
        for place, epochs in enumerate(milestones):
            x = place - 0.4 + (2 * number + 0.5) * step
            _dot(axes, x, cell.accuracy(epochs), cell.row, white=False)
            _dot(axes, x + step, paper.get(epochs), cell.row, white=True)
    axes.set_xticks(range(len(milestones)), list(map(str, milestones)))


def _dot(axes: Axes, x: float, accuracy: Accuracy | None, row: str, *, white: bool) -> None:
    if accuracy is not None:
        colour = COLOURS[row]
        axes.errorbar(
            x, accuracy.mean, accuracy.std,
            color=colour, marker=MARKERS[row], ms=6, mfc="white" if white else colour, elinewidth=1,
        )  # fmt: skip


def against_paper(cells: Sequence[Repetitions]) -> Figure:
    """Draw ours - paper, a line for each cell, with our standard deviation; a bar is the paper's."""
    order = list(ROWS)
    points = sorted(
        ((cell, epochs) for cell in cells for epochs in _milestones(cell)),
        key=lambda point: (point[0].dataset, point[0].backbone, point[1], order.index(point[0].row), point[0].host),
    )
    figure = Figure(figsize=(8, 1.4 + 0.26 * len(points)), layout="constrained")
    axes = figure.subplots()
    for y, (cell, epochs) in enumerate(points):
        paper, ours = reported(cell.dataset, cell.backbone, cell.row)[epochs], cell.accuracy(epochs)
        if ours is not None and paper.std is not None:
            colour = COLOURS[cell.row]
            axes.barh(y, 2 * paper.std, left=-paper.std, height=0.7, color="0.88")
            axes.errorbar(
                ours.mean - paper.mean, y, xerr=ours.std,
                color=colour, marker=MARKERS[cell.row], ms=6, capsize=2,
                mfc=colour if cell.host == "lightly" else "white",
            )  # fmt: skip
    axes.set_yticks(range(len(points)), [_cell_name(*point) for point in points], fontsize="small")
    axes.axvline(0, color="0.5", lw=1, zorder=0)
    axes.invert_yaxis()
    axes.use_sticky_edges = False
    axes.set(xlabel="ours - paper, in points", title="Linear probe, ours against the paper (n = 5)")
    handles = [Line2D([], [], color="0.88", lw=8, label="paper, ± std"), _host_handle("lightly", "0.3")]
    if {cell.host for cell in cells} != {"lightly"}:
        handles.append(_host_handle("solo-learn", "white"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    _tidy(axes)
    return figure


def _cell_name(cell: Repetitions, epochs: int) -> str:
    where = f"{NAMES[cell.dataset]}, {NAMES[cell.backbone]}, {epochs} epochs"
    return f"{where}, {ROWS[cell.row].title} (n = {len(cell.after(epochs))})"


def _host_handle(host: str, fill: str) -> Line2D:
    return Line2D([], [], color="0.3", marker="o", mfc=fill, label=f"{host}, mean ± std")


def _handle(row: str, label: str) -> Line2D:
    return Line2D([], [], color=COLOURS[row], marker=MARKERS[row], ls="none", label=label)


def _tidy(*all_axes: Axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
