"""Checks of arguments: on types, shapes and hyper-parameters, never on tensor values (that would force a host sync)."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.caller_warnings import warn_caller


def check_positive(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number > 0."""
    _check_number(name, value, "a finite number > 0", lambda x: x > 0)


def check_temperature(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number > 0 or a 0-dim floating-point tensor, whose value is not looked at."""
    if not is_scalar(value):
        check_positive(name, value)


def is_scalar(value: object) -> bool:
    """Whether ``value`` is a 0-dim floating-point tensor."""
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def check_above(name: str, value: object, bound: float, why: str) -> None:
    """Raise unless ``value`` is a finite number > ``bound``, and say ``why``."""
    _check_number(name, value, f"a finite number > {bound} ({why})", lambda x: x > bound)


def check_at_most(name: str, value: object, bound: float, why: str) -> None:
    """Raise unless ``value`` is a finite number <= ``bound``, and say ``why``."""
    _check_number(name, value, f"a finite number <= {bound} ({why})", lambda x: x <= bound)


def check_non_negative(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number >= 0."""
    _check_number(name, value, "a finite number >= 0", lambda x: x >= 0)


def check_finite(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number."""
    _check_number(name, value, "a finite number", lambda x: True)


def check_bounds(name: str, value: object) -> tuple[float, float]:
    """Raise unless ``value`` is (least, largest) with finite numbers 0 < least < largest; return them."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{name}: expected (least, largest), got {value!r}")
    low, high = value
    check_positive(f"{name}[0]", low)
    check_positive(f"{name}[1]", high)
    if low >= high:
        raise ValueError(f"{name}: expected (least, largest), got {tuple(value)!r}")
    return float(low), float(high)


def check_count(name: str, value: object) -> None:
    """Raise unless ``value`` is an int >= 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int >= 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected an int >= 1, got {value!r}")


def check_bool(name: str, value: object) -> None:
    """Raise unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_callable(name: str, value: object) -> None:
    """Raise unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{name}: expected a function of a tensor, got {value!r}")


def check_dense(name: str, value: Tensor, expected: str) -> None:
    """Raise unless ``value`` is a dense tensor of this process, with values."""
    if not _is_dense(value):
        raise TypeError(f"{name}: expected a dense {expected}, got {_kind(name, value)}")


def check_matrix(name: str, value: object) -> None:
    """Raise unless ``value`` is a dense floating-point tensor ``[rows, columns]`` with at least one column."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor [rows, columns], got {type(value).__name__}")
    if value.is_nested or value.layout is not torch.strided or value.is_meta or hasattr(type(value), "to_local"):
        raise TypeError(f"{name}: expected a dense tensor [rows, columns], got {_kind(name, value)}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")
    if value.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating-point tensor of 16 bits or more, got {value.dtype}")
    if value.ndim != 2 or value.shape[1] == 0:
        raise ValueError(f"{name}: expected shape [rows, columns], got {tuple(value.shape)}")


def check_rows(name: str, value: Tensor, least: int = 1) -> None:
    """Raise unless ``value`` is a floating-point matrix with at least this many rows."""
    check_matrix(name, value)
    if len(value) < least:
        raise ValueError(f"{name}: expected at least {least} row{'s' * (least > 1)}, got shape {tuple(value.shape)}")


def check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both are floating-point matrices of one shape."""
    check_matrix(other_name, other)
    check_matrix(name, value)
    if value.shape != other.shape:
        raise ValueError(f"{name}: expected the shape of {other_name} {tuple(other.shape)}, got {tuple(value.shape)}")


def check_width(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both are floating-point matrices with as many columns."""
    check_matrix(name, value)
    if value.shape[1] != other.shape[1]:
        raise ValueError(f"{name}: expected {other.shape[1]} columns as {other_name} has, got {tuple(value.shape)}")


def check_alpha(alpha: object, n: int) -> Tensor:
    """Raise unless ``alpha`` is a floating-point tensor ``[n, n]``; return it."""
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha: expected a tensor [{n}, {n}], got {alpha!r}")
    check_matrix("alpha", alpha)
    if alpha.shape != (n, n):
        raise ValueError(f"alpha: expected shape [{n}, {n}], got {tuple(alpha.shape)}")
    return alpha


def check_labels(name: str, value: object, rows: int) -> None:
    """Raise unless ``value`` is an integer tensor ``[rows]``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected an integer tensor [{rows}], got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name}: expected an integer tensor [{rows}], got {value.dtype}")
    if not _is_dense(value):  # no text with the number before that: torch.compile would make a graph for each
        raise TypeError(f"{name}: expected a dense integer tensor [{rows}], got {_kind(name, value)}")
    if value.shape != (rows,):
        raise ValueError(f"{name}: expected shape [{rows}], a label for each sample, got {tuple(value.shape)}")


def check_batch(views: Sequence[Any], call: Any, negatives: str | None, ranks: int = 1) -> None:
    """Raise unless views, labels and queue belong together and leave negatives to an anchor (not checked if None).

    ``call`` has ``labels``, ``queue`` and ``extra_negatives`` as they came.
    """
    labels, queue, extra = call.labels, call.queue, call.extra_negatives
    if len(views) == 1:
        check_matrix("z", views[0])
    for k, view in enumerate(views[1:]):
        if not isinstance(view, Tensor) or (view.ndim == 1 and not view.is_floating_point()):
            _explain_mistake(views, k + 1)
        check_same_shape("z_aug" if k == 0 else f"more_views[{k - 1}]", view, "z", views[0])
    if queue is not None and not isinstance(queue, Tensor) and hasattr(queue, "embeddings"):
        raise TypeError(f"queue: expected a tensor [Q, D], got an {type(queue).__name__}; pass queue.embeddings")
    if labels is not None:
        check_labels("labels", labels, len(views[0]))
        if len(views) > 1 and views[1] is views[0] and negatives is not None:  # once: gathering checks again
            warn_caller(
                "z_aug: got the tensor z itself, so every anchor has a copy of itself as a positive; for one view with "
                "labels leave z_aug out: criterion(z, labels=labels)",
                UserWarning,
            )
    if queue is not None:
        check_width("queue", queue, "z", views[0])
    n, n_queue = ranks * views[0].shape[0], 0 if queue is None else queue.shape[0]
    n_queue += max(extra.shape[-2], ranks > 1) if isinstance(extra, Tensor) and extra.ndim > 1 else 0
    if negatives is None:
        return
    if n == 0:
        raise ValueError("z: expected at least 1 sample, got 0")
    if negatives == "queue":
        if n_queue == 0:
            raise ValueError('queue: expected embeddings [Q, D] with Q >= 1, as negatives is "queue", got none')
    elif n < 2 and n_queue == 0:
        raise ValueError(f"z: expected at least 2 samples (or a queue) to have negatives, got {n}")


def _is_dense(value: Tensor) -> bool:
    odd = value.is_nested or value.layout is not torch.strided or value.is_meta or hasattr(type(value), "to_local")
    return not odd


def _kind(name: str, value: Any) -> str:
    """Say what kind of tensor this is that is not a dense one of this process."""
    if hasattr(type(value), "to_local"):
        return f"a {type(value).__name__}, spread over processes; pass {name}.to_local()"
    if value.is_nested:
        return "a nested one"
    return "one without values, on the device meta" if value.is_meta else str(value.layout)


def _explain_mistake(views: Sequence[object], k: int) -> None:
    """Raise if the views, of which number k is none, show how the call was meant."""
    names = ("z", "z_aug", *(f"more_views[{i}]" for i in range(len(views) - 2)))
    for name, view in zip(names, views, strict=True):
        if isinstance(view, (list, tuple)):
            kind = type(view).__name__
            raise TypeError(
                f"{name}: expected a tensor [N, D], got a {kind}; views go one by one, as in criterion(*views)"
            )
    name, view = names[k], views[k]
    if isinstance(view, Tensor):
        raise TypeError(
            f"{name}: expected embeddings [N, D], got {view.dtype} {tuple(view.shape)}; labels go by "
            "keyword: labels=..."
        )
    if view is None:
        raise TypeError(f"{name}: expected the embeddings of another view of the same samples [N, D], got None")


def _check_number(name: str, value: object, expected: str, accepts: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if not (math.isfinite(value) and accepts(float(value))):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
