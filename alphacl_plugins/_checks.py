"""Checks of arguments: on types, shapes and hyper-parameters, never on tensor values (that would force a host sync)."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real

from torch import Tensor


def check_positive(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number > 0."""
    _check_number(name, value, "a finite number > 0", lambda x: x > 0)


def check_above(name: str, value: object, bound: float, why: str) -> None:
    """Raise unless ``value`` is a finite number > ``bound``, and say ``why``."""
    _check_number(name, value, f"a finite number > {bound} ({why})", lambda x: x > bound)


def check_non_negative(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number >= 0."""
    _check_number(name, value, "a finite number >= 0", lambda x: x >= 0)


def check_finite(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number."""
    _check_number(name, value, "a finite number", lambda x: True)


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


def check_matrix(name: str, value: object) -> None:
    """Raise unless ``value`` is a floating-point tensor ``[rows, columns]`` with at least one column."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor [rows, columns], got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")
    if value.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected a floating-point tensor of 16 bits or more, got {value.dtype}")
    if value.ndim != 2 or value.shape[1] == 0:
        raise ValueError(f"{name}: expected shape [rows, columns], got {tuple(value.shape)}")


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


def check_labels(name: str, value: object, rows: int) -> None:
    """Raise unless ``value`` is an integer tensor ``[rows]``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected an integer tensor [{rows}], got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name}: expected an integer tensor [{rows}], got {value.dtype}")
    if value.shape != (rows,):
        raise ValueError(f"{name}: expected shape [{rows}], a label for each sample, got {tuple(value.shape)}")


def _check_number(name: str, value: object, expected: str, accepts: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if not (math.isfinite(value) and accepts(float(value))):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
