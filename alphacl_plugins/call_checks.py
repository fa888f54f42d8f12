"""Checks of a call's keywords that say who is compared with whom: their types, then their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alphacl_plugins.checks import check_dense, check_labels, check_width
from alphacl_plugins.rules import Rules

if TYPE_CHECKING:
    from alphacl_plugins.arguments import Call, Sizes


def check_call(call: Call, z: Tensor, n_views: int, counts: bool, rules: Rules) -> None:
    """Raise unless a call's keywords have the right types, ``counts`` saying whether the strategy can count."""
    if n_views == 1 and rules.negatives == "cross":
        raise ValueError('negatives: expected "both", "same" or "queue" with one view, got "cross"')
    if n_views == 1 and rules.positives == "other_views" and call.queue_labels is None:
        raise ValueError('positives: expected "all" with one view and no queue_labels, got "other_views"')
    if call.queue_labels is not None:
        if call.labels is None or call.queue is None:
            raise ValueError("queue_labels: expected labels and a queue beside them, got none")
        check_labels("queue_labels", call.queue_labels, call.queue.shape[0])
    if call.extra_negatives is not None:
        _check_extra(call.extra_negatives, z)
    for name, value, kinds in (
        ("exclude", call.exclude, "integer ids or a bool mask"),
        ("count", call.count, "numbers >= 0, or (rows, columns)"),
        ("sample_weight", call.sample_weight, "numbers >= 0"),
    ):
        parts = value if name == "count" and isinstance(value, tuple) and len(value) == 2 else (value,)
        if value is not None and not all(isinstance(part, Tensor) and not part.is_complex() for part in parts):
            raise TypeError(f"{name}: expected a tensor, {kinds}, got {type(value).__name__}")
        for part in parts if value is not None else ():
            check_dense(name, part, "tensor")
    if isinstance(call.exclude, Tensor) and call.exclude.is_floating_point():
        raise TypeError(f"exclude: expected integer ids or a bool mask, got {call.exclude.dtype}")
    counted = call.count if isinstance(call.count, tuple) else (call.count,)
    if not counts and any(part is not None and part.dtype != torch.bool for part in counted):
        raise TypeError(
            "count: expected a bool mask with a strategy that cannot count (Strategy.counts is False), got "
            + ", ".join(str(part.dtype) for part in counted)
        )


def _check_extra(extra: object, z: Tensor) -> None:
    if not isinstance(extra, Tensor) or not extra.is_floating_point():
        got = extra.dtype if isinstance(extra, Tensor) else type(extra).__name__
        raise TypeError(f"extra_negatives: expected floating-point embeddings [C, D] or [N, H, D], got {got}")
    if extra.ndim not in (2, 3) or (extra.ndim == 3 and extra.shape[0] != z.shape[0]):
        raise ValueError(
            f"extra_negatives: expected embeddings [C, D] or [N, H, D] with N = {z.shape[0]}, got {tuple(extra.shape)}"
        )
    check_width("extra_negatives", extra.flatten(0, -2), "z", z)


def shape_problem_of(call: Call, sizes: Sizes) -> Exception | None:
    """Return what is wrong with the shapes of a call's keywords."""
    try:
        _check_shapes(call, sizes)
    except ValueError as error:
        return error
    return None


def _check_shapes(call: Call, sizes: Sizes) -> None:
    n, m, n_extra, _, n_queue, k = sizes
    exclude, count, weights = call.exclude, call.count, call.sample_weight
    mine = call.extra_negatives.shape[0] if n_extra else 0
    if exclude is not None and exclude.dtype == torch.bool:
        _check_shape("exclude", exclude, {(m, k): "[M, K]"})
    elif exclude is not None:
        allowed = {(n + mine + n_queue,): "[N + C + Q]", (n + mine,): "[N + C]", (n,): "[N]"}
        _check_shape("exclude", exclude, allowed)
    if isinstance(count, tuple):
        _check_shape("count[0]", count[0], {(n,): "[N]", (m,): "[M]"})
        _check_shape("count[1]", count[1], {(k,): "[K]"})
    elif count is not None:
        _check_shape("count", count, {(m, k): "[M, K]"} if count.ndim == 2 else {(n,): "[N]", (k,): "[K]"})
    if weights is not None:
        _check_shape("sample_weight", weights, {(n,): "[N]", (m,): "[M]"})


def _check_shape(name: str, x: Tensor, allowed: Mapping[Any, str]) -> None:
    if tuple(x.shape) not in allowed:
        shapes = " or ".join(f"{letters} = {list(shape)}" for shape, letters in allowed.items())
        raise ValueError(f"{name}: expected shape {shapes}, got {list(x.shape)}")
