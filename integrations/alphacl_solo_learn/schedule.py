"""The learning rate of an epoch, for solo-learn's ``method: alpha_cl`` and the recipes alike."""

import math
from typing import Literal

Schedule = Literal["paper", "cosine"]
CONSTANT_EPOCHS = 10
"""Of the paper's schedule, at its start."""


def relative_rate(schedule: Schedule, epoch: int, *, batches: float, epochs: int) -> float:
    """Return the learning rate of epoch e = 0, 1, ... relative to the first one.

    "paper": ``(1 + cos(π max(0, e - 10) / T)) / 2``: 0 after 10 + T epochs, and up again. "cosine":
    ``(1 + cos(π e / E)) / 2``, which is 0 at the end of the last epoch.

    Args:
        schedule: which one.
        epoch: e, from 0.
        batches: T, the batches of an epoch as one process with the whole batch has them; inf is allowed.
        epochs: E, of the whole training.

    Source:
        of "paper", the published code of Tian (2022), arXiv:2201.12680.

    Examples:
        >>> [round(relative_rate("paper", epoch, batches=390, epochs=500), 3) for epoch in (0, 10, 100, 400)]
        [1.0, 1.0, 0.874, 0.0]
        >>> [round(relative_rate("cosine", epoch, batches=390, epochs=500), 3) for epoch in (0, 10, 100, 400)]
        [1.0, 0.999, 0.905, 0.095]
    """
    part = epoch / epochs if schedule == "cosine" else max(0, epoch - CONSTANT_EPOCHS) / batches
    return (1 + math.cos(math.pi * part)) / 2


def whole_batches(images: int, batch_size: int, processes: int) -> int:
    """Return T: how many whole batches, each shared by all processes, an epoch has; at least 1.

    Args:
        images: of the training set.
        batch_size: of each process.
        processes: in all.
    """
    return max(1, images // (batch_size * processes))


def early_zero(schedule: Schedule, *, batches: float, epochs: int) -> str | None:
    """Return what to tell before a training whose learning rate reaches 0 before the end; None if it does not."""
    zero = CONSTANT_EPOCHS + batches
    if schedule == "cosine" or zero >= epochs:
        return None
    return (
        f"schedule: the paper's learning rate is 0 after {zero} of {epochs} epochs and rises again, as an epoch has "
        f"{batches} batches; the schedule cosine reaches 0 at the end"
    )
