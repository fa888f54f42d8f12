"""Milliseconds of a call, as a training step sees them, and the views that losses are called with."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

Call = Callable[[], object]


def wait_for(device: str) -> None:
    """Wait until the device has done all that it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(call: Call, device: str, *, seconds: float = 0.25, least: int = 5, most: int = 60) -> float:
    """Return the median over at least ``least`` calls, up to ``most`` within ``seconds``, after three to warm up."""
    for _ in range(3):
        call()
    wait_for(device)
    spent: list[float] = []
    began = time.perf_counter()
    while len(spent) < least or (len(spent) < most and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        call()
        wait_for(device)
        spent.append(time.perf_counter() - start)
    return round(1e3 * median(spent), 4)


def two_views(n: int, width: int, device: str) -> list[Tensor]:
    """Return two views of ``n`` samples that belong together, ``[n, width]`` each, with gradient."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, width, generator=generator)
    views = (z, z + 0.7 * torch.randn(n, width, generator=generator))
    return [view.to(device).requires_grad_() for view in views]


def forward_backward(loss: Callable[..., Tensor], views: list[Tensor]) -> Call:
    """Return a call that forms value and gradient."""

    def call() -> None:
        for view in views:
            view.grad = None
        loss(*views).backward()  # type: ignore[no-untyped-call]

    return call


def extra_memory(call: Call, device: str) -> float | None:
    """Return the MiB that the allocator of a GPU gives beyond what is held before the call; None on a CPU."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)
