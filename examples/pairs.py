"""Who is compared with whom, in nine situations: each is run, its weights are drawn.

    python examples/pairs.py                     runs them and prints each loss
    python examples/pairs.py --output docs/pairs.png

A dark blue cell is a positive, a light blue one a negative that counts, deeper where it counts more often; white is not
compared. Rows are anchors, columns those of ``pair_weights``.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor

from alphacl_plugins import AlphaCLLoss, PairWeights

N, D = 4, 8


class Situation(NamedTuple):
    """A loss and what it is called with."""

    name: str
    options: dict[str, object]
    views: list[Tensor]
    call: dict[str, object]


def situations() -> list[Situation]:
    """Return the situations of the manual's page."""
    torch.manual_seed(0)
    z, z_aug, keys, extra = (torch.randn(N, D) for _ in range(4))
    labels, own, queue = torch.tensor([0, 0, 1, 2]), torch.randn(N, 2, D), torch.randn(5, D)
    captions = torch.tensor([0, 0, 1, 2])
    q_pos, q = torch.rand(2 * N) + 0.5, torch.rand(2 * N) + 0.2
    return [
        Situation("SimCLR", {}, [z, z_aug], {}),
        Situation("MoCo", {"negatives": "queue", "symmetric": False}, [z, keys], {"queue": queue}),
        Situation("SupCon, two views", {}, [z, z_aug], {"labels": labels}),
        Situation("SupCon, one view", {"positives_as_negatives": True}, [z], {"labels": labels}),
        Situation("CLIP", {"negatives": "cross"}, [z, z_aug], {}),
        Situation(
            "captions", {"negatives": "cross", "positives": "other_views"}, [z, z_aug], {"labels": captions}
        ),
        Situation(
            "hard negatives",
            {"negatives": "cross", "symmetric": False},
            [z, z_aug],
            {"extra_negatives": own},
        ),
        Situation("duplicates", {}, [z, z_aug], {"exclude": torch.tensor([7, 7, -1, -1])}),
        Situation("log-q", {"negatives": "cross"}, [z, z_aug], {"count": (q_pos, 1 / q[:N])}),
    ]


def roles(criterion: AlphaCLLoss, situation: Situation) -> Tensor:
    """Return how often each column counts as a negative of each anchor, ``[M, K]``, and -1 where it is a positive."""
    seen: list[Tensor] = []

    def watch(d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        seen.append((d2_neg < torch.inf).double() * (1 if count is None else count))
        return PairWeights(torch.softmax(-d2_neg, dim=1))

    watch.counts = True  # type: ignore[attr-defined]
    watcher = AlphaCLLoss(
        watch,
        negatives=criterion.negatives,
        symmetric=criterion.symmetric,
        positives=criterion.positives,
    )
    z, *more = situation.views
    weights = watcher.pair_weights(z, *more, **situation.call)  # type: ignore[arg-type]
    found = torch.cat(seen) if len(seen) > 1 and len(seen[0]) != len(weights.neg) else seen[0]
    if "labels" in situation.call and weights.pos is not None:
        found[:, : weights.pos.shape[1]][weights.pos > 0] = -1
    return found


def main(output: Path | None = None) -> None:
    """Run every situation.

    Args:
        output: where the picture goes; None: none is drawn.
    """
    drawn = []
    for situation in situations():
        criterion = AlphaCLLoss("infonce", tau=0.5, **situation.options)  # type: ignore[arg-type]
        z, *more = situation.views
        loss = criterion(z, *more, **situation.call)
        print(f"{situation.name}: {float(loss):.4f}")
        drawn.append((situation.name, roles(criterion, situation)))
    if output is None:
        return
    matplotlib.use("Agg")
    figure, axes = plt.subplots(3, 3, figsize=(9, 6.6), layout="constrained")
    for axis, (name, role) in zip(axes.flat, drawn, strict=True):
        shade = torch.where(role < 0, 1.0, 0.45 * role / role.max())
        axis.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_title(name, fontsize=10)
        axis.set_xticks(torch.arange(0.5, role.shape[1] - 1).tolist(), [])
        axis.set_yticks(torch.arange(0.5, role.shape[0] - 1).tolist(), [])
        axis.grid(color="white", linewidth=0.8)
        axis.tick_params(length=0)
    figure.savefig(output, dpi=110)
    print(f"written: {output}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
