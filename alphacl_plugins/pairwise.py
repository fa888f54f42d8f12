"""All pairs of rows, some at a time: what a metric of pairs needs in O(N) memory."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024  # the square of it stays in the caches of a CPU


def tiles(rows: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield some rows with None, for themselves, and with some later ones: by `once` each pair i < j comes once."""
    parts = torch.split(rows, ROWS_AT_ONCE)
    for i, some in enumerate(parts):
        if len(some) > 1:
            yield some, None
        yield from ((some, later) for later in parts[i + 1 :])


def once(values: Tensor, later: Tensor | None) -> Tensor:
    """Return the values of a tile as a vector; of rows with themselves those of i < j."""
    return values[torch.ones_like(values, dtype=torch.bool).triu_(1)] if later is None else values.flatten()


def if_finite(z: Tensor, value: Tensor) -> Tensor:
    """Return the value, NaN if an entry of z is not finite; without a host sync."""
    return torch.where(z.detach().isfinite().all(), value, math.nan)
