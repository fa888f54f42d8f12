"""Which values to try of a strategy: from nearly all negatives down to a few, for every strategy alike."""

import inspect
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphacl_lightly import AlphaCLLoss
from alphacl_plugins import build_strategy, metrics

MOST, FEWEST = 200.0, 4.0
"""Effective negatives, of 254, at the two ends of a grid."""
NEGATIVES = 254
SPREAD = 0.25
"""Standard deviation of the cosine of two samples in the reference batch; trained networks have 0.15 to 0.35."""
SHARPNESS = {"inverse": "gamma", "kcl": "t", "modified_triplet": "c", "kl_ball": "rho"}
"""The option that says how sharp α is, where τ is not the one that does."""
LONGEST_STEP = 5.0
"""Largest ratio of the value beyond an end to the value at that end."""
SEARCHED = np.geomspace(1e-7, 1e3, 401)


def sharpness_option(strategy: str, fixed: dict[str, Any]) -> str | None:
    """Return the option of a strategy that is tuned: τ for most; None if there is none."""
    option = SHARPNESS.get(strategy, "tau")
    try:
        build_strategy(strategy, **{**_of_the_strategy(fixed), option: 2.0})
    except TypeError:
        return None
    return option


def spread(strategy: str, fixed: dict[str, Any], option: str, trials: int) -> tuple[float, ...]:
    """Return values of an option at which a reference batch has 200 to 4 effective negatives, in equal ratios.

    The reference is one anchor with 254 negatives whose cosines have a normal distribution. A network that is trained
    moves its embeddings, so the effective negatives of a run are other numbers, in the same order; a run records them.
    A strategy that cannot reach an end gets the range that it reaches.

    Args:
        strategy: name or import path.
        fixed: its other options.
        option: the one whose values are returned.
        trials: how many.

    Raises: ValueError if the strategy takes no value between 1e-7 and 1000.
    """
    found = {
        float(value): _effective(strategy, {**_of_the_strategy(fixed), option: float(value)}) for value in SEARCHED
    }
    reached = {value: number for value, number in found.items() if number is not None and number >= 1}
    if not reached:
        raise ValueError(f"strategies: expected values of {option} that {strategy} takes, got none; give some")
    most, fewest = min(MOST, max(reached.values())), max(FEWEST, min(reached.values()))
    targets = np.geomspace(most, fewest, trials)
    nearest = [min(reached, key=lambda value: abs(math.log(reached[value] / target))) for target in targets]
    values = tuple(float(f"{value:.2g}") for value in nearest)
    if len(set(values)) == trials:
        return values
    low, high = min(nearest), max(nearest)  # hardly any change of sharpness: the same range, in equal ratios
    if low == high:
        low, high = low / 4, high * 4
    return tuple(float(f"{value:.3g}") for value in np.geomspace(low, high, trials))


def beyond(values: tuple[float, ...], best: float) -> float | None:
    """Return the value one step outside a grid, if the best one lies at an end; None if it lies inside.

    >>> beyond((0.4, 0.2, 0.1), best=0.1)
    0.05
    """
    ordered = sorted(values)
    if len(ordered) < 2 or best not in (ordered[0], ordered[-1]):
        return None
    neighbour = ordered[1] if best == ordered[0] else ordered[-2]
    step = min(max(best / neighbour, 1 / LONGEST_STEP), LONGEST_STEP)
    return float(f"{best * step:.2g}")


def _of_the_strategy(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out the options of the loss."""
    own = inspect.signature(AlphaCLLoss).parameters
    return {name: value for name, value in options.items() if name not in own}


def _effective(strategy: str, options: dict[str, Any]) -> float | None:
    try:
        weights = build_strategy(strategy, **options)(torch.tensor([0.2]), _reference()).neg
    except ValueError:
        return None
    number = float(metrics.effective_negatives(weights.detach().float()))
    return number if math.isfinite(number) else None


@lru_cache
def _reference() -> Tensor:
    """Half squared distances of one anchor to its negatives. Shape: ``[1, 254]``."""
    quantiles: Tensor = torch.special.ndtri((torch.arange(NEGATIVES, dtype=torch.float64) + 0.5) / NEGATIVES)
    return (1 - SPREAD * quantiles).float().clamp(0, 2)[None]
