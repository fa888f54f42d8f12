"""`benchmarks/loss.py`'s measurements: the losses that people use beside ours, in the order of their value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch

from gpu_steps.cells import Cell, Row
from loss_measurements import Case, measure_memory, measure_times
from loss_peers import ON_A_GPU

FIRST = (
    "infonce", "direct", "infonce, one way", "lightly NTXentLoss", "solo-learn", "info-nce-pytorch",
)  # fmt: skip
IN_TRITON = ("infonce, kernel", "infonce, one way, kernel", "direct, kernel", "inf-cl", "memeff")
"""In cells of their own: where one breaks the GPU's state, the others are measured all the same."""
SECOND = ("square", "inverse", "kcl", "inverse_exact", "lightly DCLLoss", "pytorch-metric-learning")
SIZES = (64, 128, 512, 1024, 4096, 8192, 16384)
LARGEST = {"pytorch-metric-learning": 256}
"""Largest N of a loss: at 512 this one takes 17 GB."""
SECONDS = 0.25
"""For the runs of a loss at a size."""


def cells(device: str) -> list[Cell]:
    """Return groups of losses, sizes and precisions; the most valuable losses come first, then smaller sizes."""
    if device == "cpu":
        return [_cell(("infonce", "lightly NTXentLoss"), 32)]
    found = [_cell(group, n) for n in SIZES for group in (FIRST, IN_TRITON)]
    found += [_cell(IN_TRITON, n, precision="medium") for n in (512, 4096, 16384, 1024, 8192)]
    found += [_cell(SECOND, n) for n in SIZES]
    found += [_cell(("infonce, compiled",), n) for n in SIZES[:4]]  # some 20 s each
    return found + [_cell(group, n, width=512) for n in (512, 4096) for group in (FIRST, IN_TRITON)]


def _cell(losses: Sequence[str], n: int, *, width: int = 128, precision: str = "highest") -> Cell:
    able = [loss for loss in losses if n <= LARGEST.get(loss, n)]
    return {"losses": able, "n": n, "width": width, "precision": precision}


def measure(device: str, losses: Sequence[str], n: int, width: int, precision: str) -> Iterator[Row]:
    """Yield the result of each loss, as `loss.py` writes it."""
    torch.set_float32_matmul_precision(precision)
    cases = [
        Case(loss, n, width, device, torch.get_num_threads(), 8.0, precision)
        for loss in losses
        if device == "cuda" or loss not in ON_A_GPU
    ]
    memory = {case.loss: measure_memory(case, SECONDS) for case in cases}
    times = measure_times([case for case in cases if "failed" not in memory[case.loss]], SECONDS)
    for case in cases:
        yield asdict(case) | memory[case.loss] | times.get(case.loss, {})
