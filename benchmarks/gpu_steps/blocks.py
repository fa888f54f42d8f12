"""Milliseconds and memory of each `block_size`, which "auto" should match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alphacl_plugins import AlphaCLLoss
from gpu_steps.cells import Cell, Row
from gpu_steps.timing import extra_memory, forward_backward, milliseconds, two_views

BLOCKS = ("auto", "autograd", 256, 1024, 4096)
STRATEGIES = ("infonce", "direct", "square", "triplet")
SIZES = (1024, 4096, 512, 16384)


def cells(device: str) -> list[Cell]:
    """Return sizes, strategies and blocks that cut a batch of 2N anchors."""
    sizes, blocks = (SIZES, BLOCKS) if device == "cuda" else ((32,), ("auto", 8))
    return [
        {"n": n, "strategy": strategy, "block": block}
        for n in sizes
        for strategy in STRATEGIES
        for block in blocks
        if isinstance(block, str) or block < 2 * n
    ]


def measure(device: str, n: int, strategy: str, block: Any, width: int = 128) -> Iterator[Row]:
    """Measure forward and backward of a loss."""
    call = forward_backward(AlphaCLLoss(strategy, block_size=block), two_views(n, width, device))
    spent = milliseconds(call, device, seconds=0.15)
    yield {
        "strategy": strategy,
        "N": n,
        "D": width,
        "block": block,
        "ms": spent,
        "extra_MiB": extra_memory(call, device),
    }
