"""What the measurements say: the table, the goals, the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alphacl_plugins.plots.axes import COLOURS, new_figure
from loss_peers import ONE_WAY, SAME_LOSS

Result = dict[str, Any]
MIB = 2**20
LEAST = 0.1
"""MiB or ms that are drawn: less is noise."""

DRAWN: dict[str, dict[str, Any]] = {
    "infonce": {"marker": "o"},
    "lightly NTXentLoss": {"marker": "s", "linestyle": "--"},
    "solo-learn": {"marker": "^", "linestyle": "-."},
    "pytorch-metric-learning": {"marker": "x", "linestyle": ":"},
    "square": {"marker": "D", "linestyle": "--"},
    "kcl": {"marker": "v", "linestyle": "-."},
}
"""The losses in the picture, all of 2N anchors; the others are in the table."""


def markdown(results: list[Result]) -> str:
    """A table with a row for each loss and size."""
    lines = ["| D | N | loss | ms | times the fastest peer | extra MiB | saved MiB |", "|---|---|---|---|---|---|---|"]
    for r in results:
        cells = [str(r["width"]), str(r["size"]), r["loss"]]
        if "failed" in r:
            cells += [r["failed"], "", "", ""]
        else:
            fastest = _fastest_peer(results, r)
            cells += [
                f"{1e3 * r['seconds']:.3g}",
                "" if fastest is None else f"{r['seconds'] / fastest:.2f}",
                f"{r['extra_bytes'] / MIB:.1f}",
                f"{r['saved_bytes'] / MIB:.2f}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def goals(results: list[Result], rate: float | None = None) -> str:
    """Each goal of the device with what was measured, and whether it is reached.

    ``rate``: multiplications and additions per second of a large product of matrices, on a GPU.
    """
    at = {(r["loss"], r["size"]): r for r in results if r["width"] == 128 and "failed" not in r}
    on_gpu = any(r["device"] == "cuda" for r in results)
    lines = [f"| goal (D = 128, {'GPU' if on_gpu else 'CPU'}) | measured | result |", "|---|---|---|"]

    def goal(text: str, measured: Callable[[], float | None], bound: float, *, at_least: bool) -> None:
        try:
            value = measured()
        except KeyError:
            value = None
        if value is None:
            lines.append(f"| {text} | not measured | |")
            return
        reached = value >= bound if at_least else value <= bound
        lines.append(f"| {text} | {value:.2f} | {'pass' if reached else 'miss'} |")

    def against_peers(size: int, ours: str = "infonce") -> float | None:
        fastest = _fastest_peer(results, at[ours, size])
        return None if fastest is None else fastest / float(at[ours, size]["seconds"])

    def ratio(a: str, b: str, size: int, what: str = "seconds") -> float:
        return float(at[a, size][what] / at[b, size][what])

    def against_products(ours: str, size: int) -> float | None:
        operations = 3 * 2 * (2 * size) ** 2 * 128
        return None if rate is None else float(at[ours, size]["seconds"]) * rate / operations

    memory = "extra_bytes"
    if on_gpu:
        for ours in ("infonce", "infonce, compiled", "infonce, kernel"):
            for size, bound in ((64, 2.0), (128, 2.0), (256, 2.0), (512, 2.0), (1024, 2.0), (8192, 1.5)):
                text = f"{ours} at least {bound:g}x faster than the fastest peer, N = {size}"
                goal(text, lambda ours=ours, size=size: against_peers(size, ours), bound, at_least=True)  # type: ignore[misc]
            text = f"{ours} at N = 8192 at most 3 times three products of matrices"
            goal(text, lambda ours=ours: against_products(ours, 8192), 3.0, at_least=False)  # type: ignore[misc]
            text = f"extra memory of {ours} at N = 16384 at most a tenth of lightly NTXentLoss's: lightly's over ours"
            goal(text, lambda ours=ours: ratio("lightly NTXentLoss", ours, 16384, memory), 10.0, at_least=True)  # type: ignore[misc]
        return "\n".join(lines)
    for size, bound in ((64, 1.2), (128, 1.2), (512, 1.6), (2048, 3.0)):
        text = f"infonce at least {bound:g}x faster than the fastest peer, N = {size}"
        goal(text, lambda size=size: against_peers(size), bound, at_least=True)  # type: ignore[misc]
    for name, bound in (("direct", 1.1), ("square", 2.5), ("inverse", 2.5), ("inverse_exact", 2.5)):
        for size in (512, 2048):
            text = f"{name} at most {bound:g} times infonce, N = {size}"
            goal(text, lambda name=name, size=size: ratio(name, "infonce", size), bound, at_least=False)  # type: ignore[misc]
    text = "extra memory at N = 4096 at most a sixth of lightly NTXentLoss's: lightly's over ours"
    goal(text, lambda: ratio("lightly NTXentLoss", "infonce", 4096, memory), 6.0, at_least=True)
    text = "extra memory at N = 16384 at most 300 MiB"
    goal(text, lambda: at["infonce", 16384][memory] / MIB, 300.0, at_least=False)
    text = "memory from N = 8192 to 16384 grows at most 2.2 times"
    goal(text, lambda: at["infonce", 16384][memory] / at["infonce", 8192][memory], 2.2, at_least=False)
    return "\n".join(lines)


def plot(results: list[Result], path: Path) -> None:
    """Time and memory against N, both logarithmic, for the smallest width: InfoNCE here and there, and two others."""
    width = min(r["width"] for r in results)
    sizes = sorted({r["size"] for r in results if r["width"] == width})
    figure = new_figure(9, 4.4)
    panels = (
        ("seconds", 1e3, "Forward and backward, ms"),
        ("extra_bytes", 1 / MIB, "Memory beyond the embeddings, MiB"),
    )
    for axes, (column, scale, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, (name, style) in enumerate(DRAWN.items()):
            rows = [r for r in results if r["loss"] == name and r["width"] == width]
            found = [r for r in rows if scale * r.get(column, 0) >= LEAST]
            if found:
                numbers = [scale * r[column] for r in found]
                axes.plot([r["size"] for r in found], numbers, label=name, color=COLOURS[number], linewidth=2, **style)
                if any("memory" in str(r.get("failed")) for r in rows):
                    axes.annotate(" out of memory", (found[-1]["size"], numbers[-1]), fontsize=8, va="center")
        axes.set(xscale="log", yscale="log", xlabel=f"N samples in two views (D = {width})")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
        axes.minorticks_off()
        axes.set_title(title, fontsize="medium", loc="left")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150, format="png")


def _fastest_peer(results: list[Result], ours: Result) -> float | None:
    """Of those that compare the same anchors and negatives as this loss, at its size."""
    names = ONE_WAY if ours["loss"] in ONE_WAY or "one way" in ours["loss"] else SAME_LOSS
    same = (ours["size"], ours["width"])
    times = [
        r["seconds"] for r in results if r["loss"] in names and (r["size"], r["width"]) == same and "failed" not in r
    ]
    return min(times) if times else None
