"""`python -m gpu_steps.worker STEP DEVICE`: measure cells that are given as JSON (see `gpu_steps.cells`)."""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from typing import IO

import torch

from gpu_steps.cells import BROKEN, READY, Row


def main(step: str, device: str) -> None:
    """Report each cell; on a GPU, end with code BROKEN after a failure, which may have broken its state."""
    lines = _own_output()
    warnings.simplefilter("ignore")
    measure = importlib.import_module(f"gpu_steps.{step}").measure
    torch.zeros(1, device=device)
    print(READY, file=lines, flush=True)
    for cell in json.load(sys.stdin):
        failed = False
        try:
            rows: list[Row] = list(measure(device, **cell))
        except Exception as error:  # what a cell cannot do is a result
            rows, failed = [{"failed": one_line(error)}], True
        print(json.dumps(rows, allow_nan=False), file=lines, flush=True)
        if device == "cuda" and (failed or not _works()):
            os._exit(BROKEN)  # an orderly end would wait for the GPU


def one_line(error: Exception) -> str:
    """Return the kind of an error and its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _own_output() -> IO[str]:
    """Return the standard output; whatever else prints goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


def _works() -> bool:
    try:
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
    except Exception:  # whatever torch makes of an error of CUDA
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
