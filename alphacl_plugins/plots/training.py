"""What a monitor has seen, as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alphacl_plugins.plots.axes import line, new_figure, tidy

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

    Returns:
        matplotlib's figure.

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
    figure = new_figure(width=3.2 * columns + 0.6, height=2.4 * rows + 0.4)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(places, shown, strict=False):
        tidy(axes)
        for i, (run, history) in enumerate(runs.items()):
            looks = [look for look in history if name in look]
            axes.plot(
                [look["epoch"] for look in looks], [look[name] for look in looks], marker="o", markersize=3, label=run,
                **line(i),
            )  # fmt: skip
        axes.set_title(CURVES.get(name, name), fontsize="medium", loc="left")
        axes.set_xlabel("epoch")
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    if len(runs) > 1:
        places[0].legend(frameon=False)
    return figure
