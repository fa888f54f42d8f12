"""The quickstart's pictures: training curves and accuracies; held-out features in two dimensions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from provenance import replace_file
from quickstart_data import Images
from quickstart_evaluation import FEW, Features, Scores
from quickstart_report import Run, mean_and_error, methods_of

# Ten colours that remain distinct with colour-vision deficiency (Petroff 2021, arXiv:2107.02270).
TEN_COLOURS = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()  # noqa: SIM905
MOST_POINTS = 1000
MOST_LABELS = 20
INK = "#333333"


class Look(NamedTuple):
    """How a method is drawn: no two methods differ in their colour alone."""

    colour: str
    dashes: Literal["-", "--", "none"]
    marker: str


LOOKS = (Look("#8a8a8a", "none", "s"), Look("#0072b2", "-", "o"), Look("#d55e00", "--", "^"))
"""Of untrained, InfoNCE and α-CL; the colours are Okabe and Ito's."""


def draw_picture(path: Path, runs: list[Run], batch_size: int) -> None:
    """Draw the curves and the accuracies of all seeds."""
    figure = Figure(figsize=(8.6, 6.2), dpi=200, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    panels = figure.subplot_mosaic([["positives", "effective"], ["accuracy", "accuracy"]])
    effective, accuracy = panels["effective"], panels["accuracy"]
    _curves(panels["positives"], runs, "d2_pos", "Distance to the other view", "mean of 1 - cos")
    _curves(effective, runs, "effective_negatives", "Effective negatives", "negatives")
    every = 2 * batch_size - 2
    effective.axhline(every, color=INK, linewidth=1, linestyle=":")
    effective.annotate(f"all {every}", (1, every), (0, 3), textcoords="offset points", size=9, color=INK)
    effective.set_ylim(0, 1.12 * every)
    _accuracies(accuracy, runs)
    n_seeds = len({run.seed for run in runs})
    if n_seeds > 1:
        note = "Lines: mean, with a band from the lowest to the highest; points: mean ± standard error"
        figure.suptitle(f"{n_seeds} seeds. {note}", fontsize=9, color=INK)
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, linewidth=2, label=method)
        for method, look in zip(methods_of(runs), LOOKS, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=4)
    replace_file(path, lambda part: figure.savefig(part, format="png"))


def draw_embeddings(path: Path, runs: list[Run], images: Images) -> None:
    """Draw the features of the first seed for each method, in two dimensions by t-SNE."""
    first_runs = [run for run in runs if run.seed == runs[0].seed]
    figure = Figure(figsize=(4.2 * len(first_runs), 4.6), dpi=130, layout="constrained")
    for axes, run in zip(figure.subplots(1, len(first_runs), squeeze=False)[0], first_runs, strict=True):
        _scatter(axes, run, images)
    figure.suptitle(f"{images.description}\nt-SNE of held-out features, seed {runs[0].seed}", fontsize=11, color=INK)
    replace_file(path, lambda part: figure.savefig(part, format="png"))


def _scatter(axes: Axes, run: Run, images: Images) -> None:
    """t-SNE of held-out features, each class in its colour and named at its middle."""
    labels = images.test_labels[:MOST_POINTS]
    points = project(run.test_features[:MOST_POINTS])
    colours = class_colours(len(images.classes))
    axes.scatter(points[:, 0], points[:, 1], s=12, c=[colours[label] for label in labels], linewidths=0)
    if len(images.classes) <= MOST_LABELS:
        for label in np.unique(labels):
            _name_class(axes, np.median(points[labels == label], axis=0), images.classes[label])
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{run.method}: linear probe {run.scores.probe_all:.1f} %", fontsize=11, color=INK)
    for spine in axes.spines.values():
        spine.set_color("#cccccc")


def _name_class(axes: Axes, place: npt.NDArray[np.float32], name: str) -> None:
    halo = patheffects.withStroke(linewidth=3, foreground="white")
    axes.text(place[0], place[1], name, ha="center", va="center", weight="bold", color=INK, path_effects=[halo])


def project(features: Features) -> npt.NDArray[np.float32]:
    """Bring features to two dimensions by t-SNE: ``[N, D]`` -> ``[N, 2]``."""
    scaled = StandardScaler().fit_transform(features)
    perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))
    points: npt.NDArray[np.float32] = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(scaled)
    return points


def class_colours(n_classes: int) -> Sequence[object]:
    """Return a colour for each class."""
    if n_classes <= len(TEN_COLOURS):
        return TEN_COLOURS
    return list(colormaps["turbo"](np.linspace(0, 1, n_classes)))


def _curves(axes: Axes, runs: list[Run], name: str, title: str, unit: str) -> None:
    """One quantity by epoch for both losses: the mean over the seeds, and a band from the lowest to the highest."""
    for method, look in zip(methods_of(runs)[1:], LOOKS[1:], strict=True):
        values = np.array([[epoch[name] for epoch in run.curves] for run in runs if run.method == method])
        epochs = np.arange(1, values.shape[1] + 1)
        marker = "o" if len(epochs) < 5 else ""  # a line through one point is not seen
        axes.plot(epochs, values.mean(axis=0), color=look.colour, linestyle=look.dashes, linewidth=2, marker=marker)
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=look.colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    _tidy(axes, title, unit)
    axes.set_xlabel("epoch", fontsize=10)


def _accuracies(axes: Axes, runs: list[Run]) -> None:
    """A point with its standard error, and its value, for each method and evaluation."""
    columns = {"probe_all": "linear probe, all labels", "probe_few": f"linear probe, {FEW} per class", "knn": "kNN"}
    for shift, method, look in zip((-0.2, 0, 0.2), methods_of(runs), LOOKS, strict=True):
        places = np.arange(len(columns)) + shift
        means, errors = zip(*(mean_and_error(runs, method, column) for column in columns), strict=True)
        axes.errorbar(places, means, np.nan_to_num(errors), fmt=look.marker, color=look.colour, capsize=3)
        for place, mean, error in zip(places, means, np.nan_to_num(errors), strict=True):
            axes.annotate(
                f"{mean:.1f}", (place, mean + error), (0, 4), textcoords="offset points", ha="center", size=8, color=INK
            )
    axes.set_xticks(range(len(columns)), columns.values())
    axes.margins(x=0.1, y=0.18)
    _tidy(axes, "Accuracy on held-out images", "%")


def _tidy(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_ylabel(unit, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def read(path: Path) -> tuple[list[Run], int]:
    """Return the runs of a quickstart.json, which has no features, and their batch size."""
    report = json.loads(path.read_text(encoding="utf-8"))
    nothing: Features = np.empty((0, 0), dtype=np.float32)
    runs = [
        Run(
            run["method"],
            run["seed"],
            run["initial_weights"],
            run["train_seconds"],
            Scores(**run["scores"]),
            run["curves"],
            test_features=nothing,
        )
        for run in report["runs"]
    ]
    return runs, report["settings"]["batch_size"]


def redraw(numbers: Path, picture: Path) -> None:
    """Draw the picture of a quickstart.json again."""
    draw_picture(picture, *read(numbers))
