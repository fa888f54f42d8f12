"""Which cases of a long list `make test` runs; `make test-full` runs them all."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(quick: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """Return the cases, marked as slow but for the quick ones."""
    quick = list(quick)
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
