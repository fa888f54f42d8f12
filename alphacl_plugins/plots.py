"""Pictures of α and of embeddings, each with how to read it: ``pip install "alphacl-plugins[plots]"``.

Every function draws into the axes it is given, or into a figure of its own, and returns the axes:
``plots.alpha_curves(["infonce", "square"]).figure.savefig("alpha.png", dpi=150)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alphacl_plugins import metrics
from alphacl_plugins.checks import check_labels, check_matrix, check_two_rows
from alphacl_plugins.functional import l2_normalize, promote
from alphacl_plugins.sharpness import sharpness_of
from alphacl_plugins.sphere import UniformCosines
from alphacl_plugins.strategies import AnyStrategy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, which people with a colour-blindness tell apart; lines differ in their dashes too."""

DASHES = ("-", "--", "-.", ":")
_POINTS = 121
_BARS = 80
_MOST_DENSITY = 3  # in units of the law's peak
_MOST_ROWS = 2048  # for a histogram of all pairs


def alpha_curves(
    strategies: Sequence[str | AnyStrategy] = ("uniform", "infonce", "direct", "square", "triplet"),
    *,
    negatives: int = 254,
    mean: float = 1.0,
    spread: float = 0.15,
    positive: float = 0.2,
    largest: float = 5.0,
    axes: Axes | None = None,
) -> Axes:
    """Draw α against the distance of a negative, one line for each strategy.

    How to read it: a line at 1 pushes every negative away alike. Where it is higher, negatives at that distance are
    pushed more than an average one: a line that is steep on the left cares for the nearest ("hard") negatives alone. A
    line that is 0 from some distance on leaves the far ones alone. The grey hill is where the negatives are. The number
    after a name is how many of the negatives the strategy attends to.

    Args:
        strategies: names or import paths, with options as in ``"infonce:tau=0.1"``, or strategy objects.
        negatives: how many an anchor has.
        mean: mean distance D = ||z_i - z_j||²/2 of the negatives; 1 where cosines are 0.
        spread: standard deviation of their distances.
        positive: distance D of the positive.
        largest: upper end of the axis of α; what is above is cut off.
        axes: matplotlib's, to draw into; None: a new figure.

    Raises:
        TypeError, ValueError, ImportError: as `alphacl_plugins.sharpness.sharpness_of`.
        ModuleNotFoundError: matplotlib is not installed.
    """
    axes = _axes(axes)
    start, end = max(min(mean - 5 * spread, positive - spread), 0.0), mean + 4 * spread
    distances = [start + (end - start) * i / (_POINTS - 1) for i in range(_POINTS)]
    hill = [math.exp(-0.5 * ((d - mean) / spread) ** 2) for d in distances]
    axes.fill_between(distances, [largest / 5 * h for h in hill], color="0.9", linewidth=0, zorder=0)
    axes.axvline(positive, color="0.5", linewidth=1, linestyle=":")
    for i, strategy in enumerate(strategies):
        found = sharpness_of(strategy, distances, negatives=negatives, mean=mean, spread=spread, positive=positive)
        name = strategy if isinstance(strategy, str) else repr(strategy)
        axes.plot(distances, found.curve, label=f"{name} ({found.effective:.0f})", **_line(i))
    axes.set(xlim=(start, end), ylim=(0, largest), xlabel="distance D of a negative (D = 1 - cos)")
    axes.set_ylabel("α, relative to an average negative")
    if start <= positive <= end:
        axes.text(positive, largest, " positive", ha="left", va="top", color="0.4")
    axes.legend(title=f"strategy (effective negatives of {negatives})", frameon=False, alignment="left")
    return axes


def alpha_heatmap(alpha: Tensor, labels: Tensor, *, columns: Tensor | None = None, axes: Axes | None = None) -> Axes:
    """Draw a matrix of weights, rows and columns sorted by class, on a logarithmic scale.

    How to read it: a row is an anchor, a column a negative; the darker, the larger its weight among those of the row.
    Squares on the diagonal are pairs of one class: a dark one says that the loss pushes samples of that class apart
    (false negatives), a dark square beside the diagonal that it takes two classes for each other. Yellow: hardly any
    weight.

    Args:
        alpha: weights of the negatives ``[M, K]``, such as ``loss.pair_weights(z, z_aug).neg``.
        labels: classes of the anchors, ``[M]``; with as many negatives as anchors, of these too.
        columns: classes of the negatives, ``[K]``; None: those of the anchors.
        axes: matplotlib's, to draw into; None: a new figure.

    Raises:
        TypeError, ValueError: arguments of another kind or shape.
        ModuleNotFoundError: matplotlib is not installed.
    """
    check_matrix("alpha", alpha)
    check_labels("labels", labels, alpha.shape[0])
    columns = labels if columns is None else columns
    check_labels("columns", columns, alpha.shape[1])
    axes = _axes(axes)
    rows, order = labels.argsort(stable=True), columns.argsort(stable=True)
    weights = promote(alpha.detach())[0].clamp_min(0.0).cpu()[rows.cpu()][:, order.cpu()]
    share = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    relative = (share * share.shape[1]).log10().clamp_min(-2.0)  # 1: as much as if all had the same weight
    picture = axes.imshow(relative.numpy(), cmap="cividis_r", vmin=-2, vmax=2, interpolation="nearest", aspect="auto")
    for line, classes in ((axes.axhline, labels[rows]), (axes.axvline, columns[order])):
        for edge in (classes.diff() != 0).nonzero().flatten().tolist():
            line(edge + 0.5, color="white", linewidth=0.8)
    axes.set(xlabel="negatives, by class", ylabel="anchors, by class", xticks=[], yticks=[])
    bar = axes.figure.colorbar(picture, ax=axes, ticks=[-2, -1, 0, 1, 2], label="α, relative to equal weights")
    bar.ax.set_yticklabels(["≤ 1/100", "1/10", "1", "10", "≥ 100"])
    return axes


def effective_negatives(history: Sequence[Mapping[str, float]], *, axes: Axes | None = None) -> Axes:
    """Draw how many negatives an anchor attends to, over training.

    How to read it: the line is the median anchor, the dark band the middle half of them, the light one nine in ten.
    Few mean a sharp loss, which learns from hard negatives and suffers from false ones; as many as there are
    negatives, a loss that pushes all alike. A wide band says that anchors are treated very differently. Lines that
    fall show a loss that sharpens as the embeddings spread.

    Args:
        history: of an `alphacl_lightly.RepresentationMonitor`.
        axes: matplotlib's, to draw into; None: a new figure.

    Raises:
        ValueError: no look in the history has them.
        ModuleNotFoundError: matplotlib is not installed.
    """
    looks = [look for look in history if "effective_negatives_50" in look]
    if not looks:
        raise ValueError("history: expected effective negatives, got none; the monitor needs two views and a loss")
    axes = _axes(axes)
    epochs = [look["epoch"] for look in looks]
    low, lower, middle, upper, high = (
        [look[f"effective_negatives_{q}"] for look in looks] for q in ("05", "25", "50", "75", "95")
    )
    axes.fill_between(epochs, low, high, color=COLOURS[5], alpha=0.3, linewidth=0, label="nine in ten anchors")
    axes.fill_between(epochs, lower, upper, color=COLOURS[5], alpha=0.6, linewidth=0, label="the middle half")
    axes.plot(epochs, middle, color=COLOURS[0], marker="o", markersize=4, label="median anchor")
    axes.set(xlabel="epoch", ylabel="effective negatives of an anchor", ylim=(0, None))
    axes.legend(frameon=False)
    return axes


def singular_values(embeddings: Tensor | Mapping[str, Tensor], *, axes: Axes | None = None) -> Axes:
    """Draw the singular values of embeddings, largest first, each relative to the largest of its own.

    How to read it: a flat line uses all directions. One that falls off a cliff uses as many as there are before it
    (dimensional collapse). The number after a name is the effective rank.

    Args:
        embeddings: ``[N, D]``, scaled to length 1 here; or several by name.
        axes: matplotlib's, to draw into; None: a new figure.

    Raises:
        TypeError, ValueError: embeddings of another kind or shape.
        ModuleNotFoundError: matplotlib is not installed.
    """
    axes = _axes(axes)
    for i, (name, z) in enumerate(_named(embeddings)):
        unit = l2_normalize(z.detach())
        values = metrics.singular_spectrum(unit)
        values = (values / values[0]).clamp_min(1e-8)
        label = f"{name} ({float(metrics.effective_rank(unit)):.1f})".strip()
        axes.plot(range(1, len(values) + 1), values.cpu().numpy(), label=label, **_line(i))
    axes.set(yscale="log", xlabel="direction", ylabel="singular value, relative to the largest", xlim=(1, None))
    axes.legend(title="effective rank", frameon=False, alignment="left")
    return axes


def similarities(embeddings: Tensor | Mapping[str, Tensor], *, axes: Axes | None = None) -> Axes:
    """Draw the cosines of all pairs of samples beside those of points that are spread uniformly on the sphere.

    How to read it: the dotted line is what perfectly even embeddings have. A hill on its right says that samples
    crowd together, a second hill near 1 that there are clusters, a spike at 1 that samples have become one point (the
    axis ends at three times the law's peak). The number after a name is the distance W1 to the uniform law.

    Args:
        embeddings: ``[N, D]``, of one width; or several by name. Beyond 2,048 rows so many, evenly taken, are drawn.
        axes: matplotlib's, to draw into; None: a new figure.

    Raises:
        TypeError, ValueError: embeddings of another kind or shape.
        ModuleNotFoundError: matplotlib is not installed.
    """
    axes = _axes(axes)
    given = _named(embeddings)
    edges = torch.linspace(-1, 1, _BARS + 1, dtype=torch.float64)
    for i, (name, z) in enumerate(given):
        check_two_rows(name or "embeddings", z)
        unit = l2_normalize(z.detach()[:: -(-len(z) // _MOST_ROWS)].double()).cpu()
        cosines = (unit @ unit.T).clamp(-1, 1)[torch.ones(len(unit), len(unit), dtype=torch.bool).triu(1)]
        heights = torch.histc(cosines, _BARS, -1, 1) / len(cosines) * (_BARS / 2)
        label = f"{name} ({float(metrics.wasserstein_uniformity(unit)):.3f})".strip()
        axes.stairs(heights.numpy(), edges.numpy(), label=label, **_line(i))
    widths, law_peak = {z.shape[1] for _, z in given}, 0.0
    if len(widths) == 1 and (width := widths.pop()) > 1:
        law = UniformCosines(width, torch.device("cpu"))
        density = law.cdf(edges).diff() * (_BARS / 2)
        law_peak = float(density.max())
        axes.stairs(density.numpy(), edges.numpy(), color="0.3", linestyle=":", linewidth=2, label="uniform law (0)")
    highest = max(float(patch.get_data().values.max()) for patch in axes.patches)  # type: ignore[attr-defined]
    top = min(highest, _MOST_DENSITY * law_peak) if law_peak else highest
    axes.set(xlabel="cosine of two samples", ylabel="density", xlim=(-1, 1), ylim=(0, 1.05 * top))
    axes.legend(title="distance W1 to the uniform law", frameon=False, alignment="left")
    return axes


CURVES = {
    "knn": "nearest neighbours, %",
    "alignment": "alignment (lower: views closer)",
    "uniformity": "uniformity (lower: more even)",
    "effective_rank": "effective rank",
    "tolerance": "mean cosine within a class",
    "effective_negatives": "effective negatives",
}
"""What `training_curves` draws, and what it is called."""


def training_curves(
    histories: Sequence[Mapping[str, float]] | Mapping[str, Sequence[Mapping[str, float]]],
    names: Sequence[str] = tuple(CURVES),
) -> Any:
    """Draw what a monitor has logged, a panel for each number and a line for each run.

    How to read it: a healthy run has uniformity that falls at first, an effective rank that rises, and neighbours that
    get better. Uniformity near 0 together with alignment near 0 is collapse to a point: the views agree, as everything
    does. An effective rank near 1 is collapse to a line.

    Args:
        histories: of an `alphacl_lightly.RepresentationMonitor`, or several by name.
        names: of the numbers; those that no run has are left out.

    Returns: matplotlib's figure.

    Raises:
        ValueError: no run has any of them.
        ModuleNotFoundError: matplotlib is not installed.
    """
    runs: Mapping[str, Sequence[Mapping[str, float]]] = histories if isinstance(histories, Mapping) else {"": histories}
    shown = [name for name in names if any(name in look for history in runs.values() for look in history)]
    if not shown:
        raise ValueError(f"names: expected some of those in the histories, got {', '.join(names)}")
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = _figure(width=3.2 * columns + 0.6, height=2.4 * rows + 0.4)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(places, shown, strict=False):
        _tidy(axes)
        for i, (run, history) in enumerate(runs.items()):
            looks = [look for look in history if name in look]
            axes.plot(
                [look["epoch"] for look in looks], [look[name] for look in looks], marker="o", markersize=3, label=run,
                **_line(i),
            )  # fmt: skip
        axes.set_title(CURVES.get(name, name), fontsize="medium", loc="left")
        axes.set_xlabel("epoch")
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    if len(runs) > 1:
        places[0].legend(frameon=False)
    return figure


def _line(i: int) -> dict[str, Any]:
    """The look of line i."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 2}


def _named(embeddings: Tensor | Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    given = list(embeddings.items()) if isinstance(embeddings, Mapping) else [("", embeddings)]
    for name, z in given:
        check_matrix(name or "embeddings", z)
    if not given:
        raise ValueError("embeddings: expected at least one, got an empty mapping")
    return given


def _axes(axes: Axes | None) -> Axes:
    return _tidy(_figure(width=7.2, height=4.2).subplots() if axes is None else axes)


def _figure(width: float, height: float) -> Any:
    """Return a figure in inches: at 100 dots per inch 720 px are its 7.2."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "alphacl_plugins.plots needs matplotlib: pip install 'alphacl-plugins[plots]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _tidy(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    return axes
