"""Errors of value and gradient of every engine in float32, against autograd in float64 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins import AlphaCLLoss
from gpu_steps.cells import Cell, Row
from gpu_steps.timing import two_views
from gpu_steps.worker import one_line

SOFTMAX: list[tuple[str, dict[str, Any]]] = [
    ("infonce", {"tau": 0.1}),
    ("direct", {}),
    ("infonce", {"tau": 0.5}),
    ("entropy", {"tau": 0.2}),
    ("dhel", {}),
]
"""Strategies that the kernels can do."""
OTHERS: list[tuple[str, dict[str, Any]]] = [("square", {}), ("inverse", {}), ("triplet", {}), ("kcl", {})]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one way": {"negatives": "cross", "symmetric": False},
    "queue": {},
    "labels": {},
    "none": {"reduction": "none"},
}
ENGINES = ("auto", "autograd", 64, "kernel")
SIZES = ((333, 96), (64, 128), (1000, 128), (257, 512))
"""N and D."""


def cells(device: str) -> list[Cell]:
    """Return strategies, kinds of comparison, and sizes; the first sizes of all strategies and kinds come first."""
    sizes: tuple[tuple[int, int], ...] = SIZES
    strategies = [*SOFTMAX, *OTHERS]
    if device == "cpu":
        sizes, strategies = ((24, 16),), [SOFTMAX[0], OTHERS[0]]
    return [
        {"strategy": name, "options": options, "kind": kind, "n": n, "width": width}
        for n, width in sizes
        for kind in KINDS
        for name, options in strategies
    ]


def measure(device: str, strategy: str, options: dict[str, Any], kind: str, n: int, width: int) -> Iterator[Row]:
    """Yield a row for each engine and precision: errors relative to the largest entry, or why there are none."""
    views = two_views(n, width, "cpu")
    call: dict[str, Any] = {"name": strategy, "options": options, "kind": kind}
    value, gradient = _value_and_gradient([view.detach().double() for view in views], engine="autograd", **call)
    for engine, precision in _ways(device, (strategy, options), kind):
        torch.set_float32_matmul_precision(precision)
        row: Row = {"strategy": strategy, "options": options, "kind": kind, "N": n, "D": width}
        row |= {"engine": engine, "precision": precision}
        try:
            got, got_gradient = _value_and_gradient([view.detach().to(device) for view in views], engine=engine, **call)
            row |= _errors(got, value, "value") | _errors(got_gradient, gradient, "gradient")
        except Exception as error:  # what an engine cannot do is a result
            row["failed"] = one_line(error)
        yield row


def _ways(device: str, strategy: tuple[str, dict[str, Any]], kind: str) -> Iterator[tuple[str | int, str]]:
    for engine in ENGINES:
        if engine != "kernel":
            yield engine, "highest"
        elif device == "cuda" and strategy in SOFTMAX and kind != "labels":
            yield from ((engine, precision) for precision in ("highest", "medium"))


def _value_and_gradient(
    views: list[Tensor], *, name: str, options: dict[str, Any], kind: str, engine: Any
) -> tuple[Tensor, Tensor]:
    """Return the losses and the gradient of their sum, each times its weight with reduction "none"."""
    loss = AlphaCLLoss(name, block_size=engine, **KINDS[kind], **options)
    n, width = views[0].shape
    given = {
        "queue": {"queue": _random(2 * n + 1, width).to(views[0])},
        "labels": {"labels": torch.arange(n, device=views[0].device) % 7},
    }.get(kind, {})
    rows = [view.requires_grad_() for view in views]
    value = loss(*rows, **given)
    weights = 1 + _random(1, len(value))[0].abs().to(value) if kind == "none" else torch.ones_like(value)
    (value * weights).sum().backward()
    return value.detach(), torch.cat([row.grad for row in rows if row.grad is not None])


@cache
def _random(n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


def _errors(got: Tensor, expected: Tensor, what: str) -> Row:
    largest = expected.abs().max()
    error = float((got.double().cpu() - expected).abs().max() / torch.where(largest > 0, largest, 1.0))
    return (
        {what: error}
        if math.isfinite(error)
        else {what: None, "failed": f"{what}: expected finite numbers, got others"}
    )
