"""Pictures of embeddings: the directions they use, and how even they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alphacl_plugins import metrics
from alphacl_plugins.checks import check_matrix, check_rows
from alphacl_plugins.functional import l2_normalize
from alphacl_plugins.plots.axes import line, new_axes
from alphacl_plugins.sphere import UniformCosines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = 80
_MOST_DENSITY = 3  # in units of the law's peak
_MOST_ROWS = 2048  # for a histogram of all pairs


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
    axes = new_axes(axes)
    for i, (name, z) in enumerate(_named(embeddings)):
        unit = l2_normalize(z.detach())
        values = metrics.singular_spectrum(unit)
        values = (values / values[0]).clamp_min(1e-8)
        label = f"{name} ({float(metrics.effective_rank(unit)):.1f})".strip()
        axes.plot(range(1, len(values) + 1), values.cpu().numpy(), label=label, **line(i))
    axes.set(yscale="log", xlabel="direction", ylabel="singular value, relative to the largest", xlim=(1, None))
    axes.legend(title="effective rank", frameon=False, alignment="left")
    return axes


def similarities(embeddings: Tensor | Mapping[str, Tensor], *, axes: Axes | None = None) -> Axes:
    """Draw the cosines of all pairs of samples beside those of points that are spread uniformly on the sphere.

    How to read it: the dotted line is what perfectly even embeddings have. A hill on its right says that samples
    crowd together, a second hill near 1 that there are clusters, a spike at 1 that samples have become one point (the
    axis ends at three times the law's peak). The number after a name is the distance W1 to the uniform law.

    Args:
        embeddings: ``[N, D]``, of one width; or several by name. At most 2,048 rows are drawn, evenly taken.
        axes: matplotlib's, to draw into; None: a new figure.

    Raises:
        TypeError, ValueError: embeddings of another kind or shape.
        ModuleNotFoundError: matplotlib is not installed.
    """
    axes = new_axes(axes)
    given = _named(embeddings)
    edges = torch.linspace(-1, 1, _BARS + 1, dtype=torch.float64, device="cpu")
    for i, (name, z) in enumerate(given):
        check_rows(name or "embeddings", z, 2)
        unit = l2_normalize(z.detach()[:: -(-len(z) // _MOST_ROWS)].double()).cpu()
        cosines = (unit @ unit.T).clamp(-1, 1)[torch.ones(len(unit), len(unit), dtype=torch.bool, device="cpu").triu(1)]
        heights = torch.histc(cosines, _BARS, -1, 1) / len(cosines) * (_BARS / 2)
        label = f"{name} ({float(metrics.wasserstein_uniformity(unit)):.3f})".strip()
        axes.stairs(heights.numpy(), edges.numpy(), label=label, **line(i))
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


def _named(embeddings: Tensor | Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    given = list(embeddings.items()) if isinstance(embeddings, Mapping) else [("", embeddings)]
    for name, z in given:
        check_matrix(name or "embeddings", z)
    if not given:
        raise ValueError("embeddings: expected at least one, got an empty mapping")
    return given
