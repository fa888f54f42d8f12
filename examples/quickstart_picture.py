"""The quickstart's picture: held-out features in two dimensions, training curves, accuracies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from provenance import replace_file
from quickstart_data import Images
from quickstart_evaluation import FEW, Features
from quickstart_report import Run, mean_and_error, methods_of

# Ten colours that remain distinct with colour-vision deficiency (Petroff 2021, arXiv:2107.02270).
TEN_COLOURS = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()  # noqa: SIM905
METHOD_COLOURS = ("#8a8a8a", "#0072b2", "#d55e00")  # untrained, InfoNCE, α-CL (Okabe and Ito)
MOST_POINTS = 1000
MOST_LABELS = 20
INK = "#333333"


def draw_picture(path: Path, runs: list[Run], images: Images) -> None:
    """Draw the features of the first seed for each method, and below them the curves and accuracies of all seeds."""
    figure = Figure(figsize=(13, 8), dpi=130, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.35, 1])[:, 0]
    first_runs = [run for run in runs if run.seed == runs[0].seed]
    for axes, run in zip(above.subplots(1, len(first_runs)), first_runs, strict=True):
        _scatter(axes, run, images)
    loss, positives, negatives, accuracy = below.subplots(1, 4)
    _losses(loss, runs)
    _curves(positives, runs, "d2_pos", "Distance to the other view (1 - cos)")
    _curves(negatives, runs, "effective_negatives", "Effective number of negatives")
    _accuracies(accuracy, runs)
    n_seeds = len({run.seed for run in runs})
    note = "one seed" if n_seeds == 1 else f"mean over {n_seeds} seeds (accuracies: ± standard error)"
    figure.suptitle(
        f"{images.description}\nabove: t-SNE of held-out features, seed {runs[0].seed}; below: {note}",
        fontsize=11,
        color=INK,
    )
    below.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
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


def _losses(axes: Axes, runs: list[Run]) -> None:
    """Each loss on an axis of its own colour: their values are not comparable."""
    other = axes.twinx()
    for place, method, colour in zip((axes, other), methods_of(runs)[1:], METHOD_COLOURS[1:], strict=True):
        _curve(place, runs, method, "loss", colour)
        place.tick_params(axis="y", colors=colour, labelsize=9)
    axes.set_title("Training loss, each on its own scale", fontsize=10, color=INK)
    other.spines["right"].set_visible(True)


def _curves(axes: Axes, runs: list[Run], name: str, title: str) -> None:
    """One quantity by epoch for both losses."""
    for method, colour in zip(methods_of(runs)[1:], METHOD_COLOURS[1:], strict=True):
        _curve(axes, runs, method, name, colour)
    axes.set_title(title, fontsize=10, color=INK)


def _curve(axes: Axes, runs: list[Run], method: str, name: str, colour: str) -> None:
    """Mean over the seeds, by epoch."""
    values = np.array([[epoch[name] for epoch in run.curves] for run in runs if run.method == method])
    n_epochs = values.shape[1]
    marker = "o" if n_epochs < 5 else ""  # a line through one point is not seen
    axes.plot(np.arange(1, n_epochs + 1), values.mean(axis=0), color=colour, linewidth=2, marker=marker)
    axes.set_xlim(0.5, n_epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    _tidy(axes)


def _accuracies(axes: Axes, runs: list[Run]) -> None:
    """A point with its standard error, and its value, for each method and evaluation."""
    columns = {"probe_all": "probe,\nall labels", "probe_few": f"probe,\n{FEW} per class", "knn": "kNN"}
    for shift, method, colour in zip((-0.28, 0, 0.28), methods_of(runs), METHOD_COLOURS, strict=True):
        places = np.arange(len(columns)) + shift
        means, errors = zip(*(mean_and_error(runs, method, column) for column in columns), strict=True)
        axes.errorbar(places, means, np.nan_to_num(errors), fmt="o", color=colour, capsize=3, label=method)
        for place, mean, error in zip(places, means, np.nan_to_num(errors), strict=True):
            axes.annotate(
                f"{mean:.1f}", (place, mean + error), (0, 5), textcoords="offset points", ha="center", size=7, color=INK
            )
    axes.set_title("Held-out accuracy (%)", fontsize=10, color=INK)
    axes.set_xticks(range(len(columns)), columns.values())
    axes.margins(x=0.1, y=0.15)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
