"""The look of all pictures: colours, dashes, size, frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, which people with a colour-blindness tell apart; lines differ in their dashes too."""

DASHES = ("-", "--", "-.", ":")


def line(i: int) -> dict[str, Any]:
    """The look of line i."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[(i + i // len(COLOURS)) % len(DASHES)],
        "linewidth": 2,
    }


def new_axes(axes: Axes | None) -> Axes:
    """Return the axes to draw into, tidied; None: of a new figure."""
    return tidy(new_figure(width=7.2, height=4.2).subplots() if axes is None else axes)


def new_figure(width: float, height: float) -> Figure:
    """Return a figure in inches: at 100 dots per inch 720 px are its 7.2."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "alphacl_plugins.plots needs matplotlib: pip install 'alphacl-plugins[plots]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> Axes:
    """Take the frame above and on the right away."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes
