"""The losses that are measured: each a function of two views; peers are imported on use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from alphacl_plugins import AlphaCLLoss

Loss = Callable[[Tensor, Tensor], Tensor]
TAU = 0.5
STRATEGIES = ("infonce", "direct", "square", "inverse", "inverse_exact", "kcl")


def _lightly_ntxent() -> Loss:
    from lightly.loss import NTXentLoss

    return NTXentLoss(TAU)  # type: ignore[no-any-return]


def _lightly_dcl() -> Loss:
    from lightly.loss import DCLLoss

    return DCLLoss(TAU)  # type: ignore[no-any-return]


def _solo_learn() -> Loss:
    home = Path(os.environ.get("SOLO_LEARN_HOME", "~/solo-learn")).expanduser()
    if not (home / "solo").is_dir():
        raise ImportError(f"SOLO_LEARN_HOME: expected a clone of solo-learn, got {home}")
    sys.path.insert(0, str(home))
    from solo.losses.simclr import simclr_loss_func

    def loss(z: Tensor, z_aug: Tensor) -> Tensor:
        samples = torch.arange(len(z), device=z.device).repeat(2)
        return simclr_loss_func(torch.cat([z, z_aug]), samples, TAU)  # type: ignore[no-any-return]

    return loss


def _pytorch_metric_learning() -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    return SelfSupervisedLoss(NTXentLoss(temperature=TAU))  # type: ignore[no-any-return]


def _info_nce() -> Loss:
    from info_nce import InfoNCE

    return InfoNCE(temperature=TAU)  # type: ignore[no-any-return]


def _inf_cl() -> Loss:
    from inf_cl import cal_inf_loss

    def loss(z: Tensor, z_aug: Tensor) -> Tensor:
        q, k = (torch.nn.functional.normalize(view) for view in (z, z_aug))
        return cal_inf_loss(q / TAU, k, head_dim=min(256, z.shape[1]))  # type: ignore[no-any-return]

    return loss


def _memeff() -> Loss:
    from memeff import MemoryEfficientQwen3Loss

    return MemoryEfficientQwen3Loss(TAU, margin=2.0, stable=False)  # type: ignore[no-any-return]  # all negatives count


def _compiled() -> Loss:  # a size that does not change, so that a step is one CUDA graph
    return torch.compile(AlphaCLLoss("infonce"), mode="reduce-overhead", dynamic=False)


OURS: dict[str, Callable[[], Loss]] = {
    **{name: partial(AlphaCLLoss, name) for name in STRATEGIES},
    "infonce, one way": lambda: AlphaCLLoss("infonce", negatives="cross", symmetric=False),
    "infonce, compiled": _compiled,
    "infonce, kernel": lambda: AlphaCLLoss("infonce", block_size="kernel"),
    "direct, kernel": lambda: AlphaCLLoss("direct", block_size="kernel"),
    "infonce, one way, kernel": lambda: AlphaCLLoss("infonce", negatives="cross", symmetric=False, block_size="kernel"),
}
SAME_LOSS = {
    "lightly NTXentLoss": _lightly_ntxent,
    "lightly DCLLoss": _lightly_dcl,
    "solo-learn": _solo_learn,
    "pytorch-metric-learning": _pytorch_metric_learning,
}
"""Every sample of both views is an anchor, and all other samples of both are negatives: four matrices N x N."""
ONE_WAY = {"info-nce-pytorch": _info_nce, "inf-cl": _inf_cl, "memeff": _memeff}
"""The first view's samples alone are anchors, the second view's are negatives: one matrix N x N."""
ON_A_GPU = (
    "infonce, compiled",
    "infonce, kernel",
    "direct, kernel",
    "infonce, one way, kernel",
    "inf-cl",
    "memeff",
)
PEERS: dict[str, Callable[[], Loss]] = {**SAME_LOSS, **ONE_WAY}
PACKAGES = ("info-nce-pytorch", "inf-cl", "memeff")
"""Peers that no example needs, whose versions a report names."""


def build(name: str) -> Loss:
    """Make a loss, or raise ImportError."""
    if name in ON_A_GPU and not torch.cuda.is_available():
        raise ImportError("needs a GPU")
    return (OURS | PEERS)[name]()
