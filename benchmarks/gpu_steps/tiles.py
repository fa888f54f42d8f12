"""Milliseconds of the Triton kernels for each tile and number of programs, which the default should match."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alphacl_plugins import AlphaCLLoss
from gpu_steps.cells import Cell, Row
from gpu_steps.timing import forward_backward, milliseconds, two_views
from gpu_steps.worker import one_line

TILES = [
    {"ROWS": rows, "COLUMNS": columns, "CHUNK": chunk, "num_warps": warps, "num_stages": stages}
    for rows, columns, chunk, warps, stages in (
        (128, 64, 32, 8, 2),
        (64, 64, 32, 4, 2),
        (64, 128, 32, 8, 2),
        (128, 128, 32, 8, 2),
        (128, 32, 32, 8, 2),
        (128, 64, 64, 8, 2),
        (128, 64, 32, 4, 2),
        (128, 64, 32, 8, 3),
        (64, 64, 64, 8, 2),
        (64, 32, 32, 4, 3),
    )
]
PROGRAMS = 256
OTHER_PROGRAMS = (128, 512, 1024)
"""Least numbers of programs that a kernel is cut into; these with the first tile alone."""
SIZES = (4096, 1024, 16384)


def cells(device: str) -> list[Cell]:
    """Return tiles, then numbers of programs; none on a CPU."""
    ways = [(tile, PROGRAMS) for tile in TILES] + [(TILES[0], programs) for programs in OTHER_PROGRAMS]
    return [
        {"n": n, "precision": precision, "tile": tile, "programs": programs}
        for precision in ("highest", "medium")
        for tile, programs in ways
        for n in SIZES
        if device == "cuda"
    ]


def compiling(device: str) -> list[Cell]:
    """Return the cells that bring all kernels into Triton's cache; several processes may share these."""
    return [cell for cell in cells(device) if (cell["n"], cell["programs"]) == (SIZES[1], PROGRAMS)]


def measure(
    device: str, n: int, precision: str, tile: dict[str, int], programs: int, width: int = 128
) -> Iterator[Row]:
    """Measure forward and backward of InfoNCE."""
    from alphacl_plugins.engines import triton_tiles  # needs Triton

    torch.set_float32_matmul_precision(precision)
    triton_tiles._TILE.update(tile)
    triton_tiles._PROGRAMS = programs
    call = forward_backward(AlphaCLLoss("infonce", block_size="kernel"), two_views(n, width, device))
    row: Row = {"N": n, "D": width, "precision": precision, **tile, "programs": programs}
    try:
        row["ms"] = milliseconds(call, device, seconds=0.15)
    except Exception as error:  # a tile that is too large for this GPU is a result
        row["failed"] = one_line(error)
    yield row
