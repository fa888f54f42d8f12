"""Counts the cases that the suite tries, for the table of docs/reliability.md."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

tried: Counter[tuple[str, str]] = Counter()
failed: Counter[tuple[str, str]] = Counter()


@contextmanager
def case(claim: str, subject: str) -> Iterator[None]:
    """Count the body as one case of a claim about a subject (a strategy's name), and as a failure if it raises."""
    tried[claim, subject] += 1
    try:
        yield
    except BaseException:
        failed[claim, subject] += 1
        raise
