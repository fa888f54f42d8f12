"""Pictures of α: against distance, of all pairs, over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alphacl_plugins.checks import check_labels, check_matrix
from alphacl_plugins.functional import promote
from alphacl_plugins.plots.axes import COLOURS, line, new_axes
from alphacl_plugins.sharpness import sharpness_of
from alphacl_plugins.strategies import AnyStrategy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 121


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
    if isinstance(strategies, str):
        raise TypeError(f"strategies: expected a list, got {strategies!r}")
    axes = new_axes(axes)
    start, end = max(min(mean - 5 * spread, positive - spread), 0.0), mean + 4 * spread
    distances = [start + (end - start) * i / (_POINTS - 1) for i in range(_POINTS)]
    hill = [math.exp(-0.5 * ((d - mean) / spread) ** 2) for d in distances]
    axes.fill_between(distances, [largest / 5 * h for h in hill], color="0.9", linewidth=0, zorder=0)
    axes.axvline(positive, color="0.5", linewidth=1, linestyle=":")
    for i, strategy in enumerate(strategies):
        found = sharpness_of(strategy, distances, negatives=negatives, mean=mean, spread=spread, positive=positive)
        name = strategy if isinstance(strategy, str) else repr(strategy)
        axes.plot(distances, found.curve, label=f"{name} ({found.effective:.0f})", **line(i))
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
    axes = new_axes(axes)
    rows, order = labels.argsort(stable=True), columns.argsort(stable=True)
    weights = promote(alpha.detach())[0].clamp_min(0.0).cpu()[rows.cpu()][:, order.cpu()]
    share = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    relative = (share * share.shape[1]).log10().clamp_min(-2.0)  # 1: as much as if all had the same weight
    picture = axes.imshow(relative.numpy(), cmap="cividis_r", vmin=-2, vmax=2, interpolation="nearest", aspect="auto")
    for draw, classes in ((axes.axhline, labels[rows]), (axes.axvline, columns[order])):
        for edge in (classes.diff() != 0).nonzero().flatten().tolist():
            draw(edge + 0.5, color="white", linewidth=0.8)
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
    axes = new_axes(axes)
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
