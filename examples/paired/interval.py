"""The mean of paired differences, and Student's interval for it."""

from dataclasses import dataclass
from statistics import mean

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences in points; half the width of its 95 % interval, None for fewer than two seeds."""

    mean: float
    half: float | None
    wins: int
    n: int

    @property
    def text(self) -> str:
        """The interval as a table shows it.

        >>> Interval(1.25, 0.5, 3, 3).text
        '+1.25 ± 0.50'
        >>> Interval(-0.001, None, 0, 1).text
        '+0.00'
        """
        return f"{round(self.mean, 2) + 0.0:+.2f}" + ("" if self.half is None else f" ± {self.half:.2f}")


def interval(differences: list[float]) -> Interval:
    """Return mean, half width of Student's 95 % interval, and how many differences are above 0.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, half=2.4841377117503303, wins=3, n=3)
    """
    n = len(differences)
    half = None
    if n > 1:
        error = float(np.std(differences, ddof=1)) / n**0.5
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Interval(float(mean(differences)), half, sum(bool(difference > 0) for difference in differences), n)
