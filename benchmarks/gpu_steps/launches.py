"""What a step of a loss costs beside its arithmetic: kernels launched, host syncs; as a CUDA graph, and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from alphacl_plugins import AlphaCLLoss
from gpu_steps.cells import Cell, Row
from gpu_steps.timing import Call, forward_backward, milliseconds, two_views, wait_for

LOSSES: dict[str, dict[str, Any]] = {
    "infonce": {},
    "infonce, kernel": {"strategy": "infonce", "block_size": "kernel"},
    "infonce, one way": {"strategy": "infonce", "negatives": "cross", "symmetric": False},
    "infonce, labels": {"strategy": "infonce"},
    "direct": {},
    "square": {},
    "inverse": {},
    "kcl": {},
    "triplet": {},
}
WAYS = ("plain", "graph", "compiled")
COMPILED = ("infonce", "infonce, kernel", "direct", "square")
"""Some 15 s each."""


def cells(device: str) -> list[Cell]:
    """Return losses, sizes and ways; compiled calls come last."""
    losses, sizes = (list(LOSSES), (64, 512)) if device == "cuda" else (["infonce"], (16,))
    return [
        {"loss": loss, "n": n, "way": way}
        for way in WAYS
        for n in sizes
        for loss in losses
        if (way != "graph" or device == "cuda") and (way != "compiled" or loss in COMPILED)
    ]


def measure(device: str, loss: str, n: int, way: str, width: int = 128) -> Iterator[Row]:
    """Measure forward and backward of a loss."""
    built = AlphaCLLoss(**({"strategy": loss} | LOSSES[loss]))
    labels = torch.arange(n, device=device) % 10 if "labels" in loss else None
    views = two_views(n, width, device)

    def function(*views: Tensor) -> Tensor:
        value: Tensor = built(*views, labels=labels)
        return value

    row: Row = {"loss": loss, "N": n, "D": width, "way": way}
    yield row | {"plain": _plain, "graph": _graph, "compiled": _compiled}[way](function, views, device)


def _plain(loss: Callable[..., Tensor], views: list[Tensor], device: str) -> Row:
    call = forward_backward(loss, views)
    spent = milliseconds(call, device)
    return {"ms": spent, **_launches(call, device), "host_syncs": _host_syncs(call, device)}


def _launches(call: Call, device: str) -> Row:
    """Kernels and the microseconds that they run; on a CPU, operations."""
    kind, activities = DeviceType.CPU, [ProfilerActivity.CPU]
    if device == "cuda":
        kind, activities = DeviceType.CUDA, [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    wait_for(device)
    with profile(activities=activities) as seen:
        call()
        wait_for(device)
    events = [event for event in seen.events() or [] if event.device_type == kind]
    if device == "cpu":
        return {"operations": len(events)}
    return {"kernels": len(events), "kernel_us": round(sum(event.time_range.elapsed_us() for event in events), 1)}


def _host_syncs(call: Call, device: str) -> int | None:
    if device != "cuda":
        return None
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in found)


def _graph(loss: Callable[..., Tensor], views: list[Tensor], device: str) -> Row:
    """Forward and backward as one CUDA graph, and the largest difference of its gradient."""
    call = forward_backward(loss, views)
    call()
    expected = _gradient(views)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch asks: warm up beside the stream that is captured
        for _ in range(3):
            call()
    wait_for(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    spent = milliseconds(graph.replay, device)
    return {"ms": spent, "difference": _difference(_gradient(views), expected)}


def _compiled(loss: Callable[..., Tensor], views: list[Tensor], device: str) -> Row:
    """By torch.compile, as CUDA graphs; on a CPU only what dynamo can trace."""
    forward_backward(loss, views)()
    expected = _gradient(views)
    options: dict[str, Any] = {"mode": "reduce-overhead"} if device == "cuda" else {"backend": "eager"}
    call = forward_backward(torch.compile(loss, dynamic=False, **options), views)
    spent = milliseconds(call, device)
    return {"ms": spent, "difference": _difference(_gradient(views), expected)}


def _gradient(views: list[Tensor]) -> Tensor:
    return torch.stack([view.grad for view in views if view.grad is not None]).clone()


def _difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected entry."""
    return float((got - expected).abs().max() / expected.abs().max())
