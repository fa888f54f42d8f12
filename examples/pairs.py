"""Who is compared with whom, in nine situations: each is run, and its pairs are drawn.

    python examples/pairs.py                     prints the loss of each
    python examples/pairs.py --output pairs.png  draws them

Rows are anchors, columns those of ``pair_weights``. A dark cell is a positive, a light one a negative, deeper where it
counts more often; white is not compared.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from command_line import in_one_line

import torch
import tyro
from torch import Tensor

from alphacl_plugins import AlphaCLLoss, PairWeights
from alphacl_plugins.plots.axes import new_figure

N, D, H, Q = 4, 8, 2, 5
VIEWS = ("z", "z_aug")
WIDTHS = {"z": N, "z_aug": N, "other view": N, "own": H, "queue": Q}


class Situation(NamedTuple):
    """A loss and what it is called with."""

    name: str
    options: dict[str, Any]
    columns: tuple[str, ...]
    views: list[Tensor]
    call: dict[str, Any]


def situations() -> list[Situation]:
    """Return the situations of the manual's page on pairs, four samples each."""
    torch.manual_seed(0)
    z, z_aug = torch.randn(2, N, D)
    labels, ids = torch.tensor([0, 0, 1, 2]), torch.tensor([7, 7, -1, -1])
    cross, one_way = {"negatives": "cross"}, {"negatives": "cross", "symmetric": False}
    captions, q = cross | {"positives": "other_views"}, torch.tensor([0.4, 0.3, 0.2, 0.1])
    return [
        Situation("SimCLR", {}, VIEWS, [z, z_aug], {}),
        Situation("CLIP", cross, ("other view",), [z, z_aug], {}),
        Situation(
            "MoCo", {"negatives": "queue", "symmetric": False}, ("queue",), [z, z_aug], {"queue": torch.randn(Q, D)}
        ),
        Situation("SupCon, two views", {}, VIEWS, [z, z_aug], {"labels": labels}),
        Situation("SupCon, one view", {}, ("z",), [z], {"labels": labels}),
        Situation("captions", captions, VIEWS, [z, z_aug], {"labels": labels}),
        Situation(
            "hard negatives", one_way, ("other view", "own"), [z, z_aug], {"extra_negatives": torch.randn(N, H, D)}
        ),
        Situation("duplicates", {}, VIEWS, [z, z_aug], {"exclude": ids}),
        Situation("log-q", one_way, ("other view",), [z, z_aug], {"count": (q, 1 / q)}),
    ]


def roles(situation: Situation) -> Tensor:
    """Return how often each column counts as a negative of each anchor, ``[M, K]``, and -1 where it is a positive."""
    seen: list[Tensor] = []

    def watch(d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        seen.append((d2_neg < torch.inf).double() * (1 if count is None else count))
        return PairWeights(torch.softmax(-d2_neg, dim=1))

    watch.counts = True  # type: ignore[attr-defined]
    z, *more = situation.views
    pos = AlphaCLLoss(watch, **situation.options).pair_weights(z, *more, **situation.call).pos
    if "labels" in situation.call:
        assert pos is not None
        found = seen[0] * (pos.sum(dim=1, keepdim=True) > 0)  # an anchor without positives is left out
        return torch.where(pos > 0, -1.0, found)
    found = torch.cat(seen)
    for anchor in range(len(found)):
        start = 0
        for column in situation.columns:
            if column == "other view" or (column in VIEWS and column != VIEWS[anchor // N]):
                found[anchor, start + anchor % N] = -1
            start += WIDTHS[column]
    return found


def main(output: Path | None = None) -> None:
    """Run every situation.

    Args:
        output: where the picture goes; None: none is drawn.
    """
    drawn = []
    for situation in situations():
        criterion = AlphaCLLoss("infonce", tau=0.5, **situation.options)
        z, *more = situation.views
        print(f"{situation.name}: {float(criterion(z, *more, **situation.call)):.4f}")
        drawn.append((situation, roles(situation)))
    if output is None:
        return
    figure = new_figure(7.2, 7.2)
    axes = figure.subplots(3, 3)
    for axis, (situation, role) in zip(axes.flat, drawn, strict=True):
        axis.imshow(
            torch.where(role < 0, 1.0, 0.5 * role / role.max()).numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto"
        )
        axis.set_title(situation.name, fontsize=11)
        axis.set_xticks(torch.arange(0.5, role.shape[1] - 1).tolist(), [], minor=True)
        axis.set_yticks(torch.arange(0.5, role.shape[0] - 1).tolist(), [], minor=True)
        axis.grid(which="minor", color="0.75", linewidth=0.6)
        ends = torch.tensor([0, *(WIDTHS[column] for column in situation.columns)]).cumsum(0).sub(0.5).tolist()
        middle = [(start + stop) / 2 for start, stop in pairwise(ends)]
        axis.set_xticks(middle, situation.columns)
        anchors = VIEWS[: len(role) // N]
        axis.set_yticks([N * view + (N - 1) / 2 for view in range(len(anchors))], anchors)
        for line in ends[1:-1]:
            axis.axvline(line, color="black", linewidth=1)
        if len(anchors) == 2:
            axis.axhline(N - 0.5, color="black", linewidth=1)
        axis.tick_params(which="both", length=0, labelsize=9)
    figure.savefig(output, dpi=100)
    print(f"written: {output}")


if __name__ == "__main__":
    with in_one_line():
        tyro.cli(main, description=__doc__)
