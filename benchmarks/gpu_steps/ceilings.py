"""What the device can do at best: products of matrices in three precisions, and copies."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu_steps.cells import Cell, Row
from gpu_steps.timing import milliseconds

PRODUCTS = {
    "float32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
    "bfloat16": (torch.bfloat16, "high"),
}


def cells(device: str) -> list[Cell]:
    """Return what to measure: the device itself, products, a copy."""
    return [{"what": what} for what in ("device", *PRODUCTS, "copy")]


def measure(device: str, what: str) -> Iterator[Row]:
    """Measure one of them: 10^12 operations a second, or 10^12 bytes read and written."""
    if what == "device":
        yield {"what": what} | _device(device)
    elif what == "copy":
        source = torch.empty(2**28 if device == "cuda" else 2**20, device=device)
        target = torch.empty_like(source)
        spent = milliseconds(lambda: target.copy_(source), device)
        yield {"what": what, "bytes": source.nbytes, "ms": spent, "TB_per_second": 2e-9 * source.nbytes / spent}
    else:
        dtype, precision = PRODUCTS[what]
        torch.set_float32_matmul_precision(precision)
        side = 8192 if device == "cuda" else 256
        matrix = torch.randn(side, side, device=device).to(dtype)
        spent = milliseconds(lambda: matrix @ matrix, device)
        yield {"what": what, "side": side, "ms": spent, "TFLOP_per_second": 2e-9 * side**3 / spent}


def _device(device: str) -> Row:
    if device == "cpu":
        return {"threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "bytes": found.total_memory,
        "processors": found.multi_processor_count,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }
