"""How sharp strategies are: their weights on simulated distances, as numbers and as a table."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.checks import check_count, check_non_negative, check_positive
from alphacl_plugins.statistics import entropy_of_rows
from alphacl_plugins.strategies import AnyStrategy, PairWeights, resolve_strategy, strategy_names
from alphacl_plugins.strategies.guarded import plain_on

_ROWS = 64  # simulated anchors
_HALF_STEP = 1e-4  # of the slope, in units of the spread
_CURVE = (-3, -2, -1, 0, 1, 2)  # where α is shown, in units of the spread around the mean


class Sharpness(NamedTuple):
    """How a strategy weighs simulated negatives.

    Attributes:
        effective: effective negatives, the exponential of the mean entropy of α.
        local_temperature: ``-1 / (d log α / dD)`` at the mean distance; NaN if no weight is above 0 there.
        curve: α at the distances that were asked for, in units of an average negative's weight.
    """

    effective: float
    local_temperature: float
    curve: list[float]


def strategy_table(
    strategies: Sequence[str] = (),
    *,
    negatives: int = 254,
    mean: float = 1.0,
    spread: float = 0.15,
    positive: float = 0.2,
) -> str:
    """Show how sharp strategies are, on simulated distances: negatives are normal around a mean, and not below 0.

    Columns: effective negatives, the exponential of α's mean entropy; the local temperature, ``-1 / (d log α / dD)``
    at the mean distance, that of the softmax with the same slope there; and α(D) in units of an average negative's
    weight, at some distances around the mean. Strategies with as many effective negatives are equally sharp.

    Args:
        strategies: names or import paths, with options as in ``"infonce:tau=0.1"``. Empty: all that are registered.
        negatives: how many an anchor has, >= 2; 254 for a batch of 128 in two views.
        mean: mean distance D of the negatives.
        spread: standard deviation of their distances.
        positive: distance D of the positive.

    Returns:
        lines of text.

    Raises:
        TypeError, ValueError, ImportError: as `sharpness_of`.

    Examples:
        >>> print(strategy_table(["entropy:tau=0.25", "uniform"], negatives=100))  # doctest: +ELLIPSIS
        100 negatives at D = 1 ± 0.15, positive at D = 0.2; α(D) in units of an average negative's weight
        strategy          effective  local τ  α(0.55)  α(0.70)  ...
        entropy:tau=0.25       83.8     0.25     4.84     2.71  ...
        uniform               100.0      inf     1.00     1.00  ...
    """
    _check_simulated(negatives, mean, spread, positive)
    distances = [max(mean + step * spread, 0.0) for step in _CURVE]
    if isinstance(strategies, str) or not all(isinstance(text, str) for text in strategies):
        raise TypeError(f"strategies: expected a list of names, got {strategies!r}")
    head = ["strategy", "effective", "local τ", *(f"α({d:.2f})" for d in distances)]
    rows = [head]
    for text in strategies or strategy_names():
        effective, tau, curve = sharpness_of(
            text, distances, negatives=negatives, mean=mean, spread=spread, positive=positive
        )
        rows.append([text, f"{effective:.1f}", _number(tau), *map(_number, curve)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    simulated = f"{negatives} negatives at D = {mean:g} ± {spread:g}, positive at D = {positive:g}"
    return "\n".join([f"{simulated}; α(D) in units of an average negative's weight", *lines])


@torch.no_grad()
def sharpness_of(
    strategy: str | AnyStrategy,
    distances: Sequence[float] = (),
    *,
    negatives: int = 254,
    mean: float = 1.0,
    spread: float = 0.15,
    positive: float = 0.2,
) -> Sharpness:
    """Weigh simulated negatives: 64 anchors, whose distances are normal around a mean, and not below 0.

    Args:
        strategy: a name or import path, with options as in ``"infonce:tau=0.1"``, or a strategy object.
        distances: where α is wanted, >= 0.
        negatives: how many an anchor has, >= 2; 254 for a batch of 128 in two views.
        mean: mean distance D of the negatives.
        spread: standard deviation of their distances.
        positive: distance D of the positive.

    Raises:
        TypeError, ValueError, ImportError: as `resolve_strategy`, or a number is outside its range.

    Examples:
        >>> sharpness_of("uniform", [0.5]).curve
        [1.0]
    """
    _check_simulated(negatives, mean, spread, positive)
    for place, distance in enumerate(distances):
        check_non_negative(f"distances[{place}]", distance)
    chosen = strategy_from_text(strategy) if isinstance(strategy, str) else resolve_strategy(strategy)
    rule, generator = plain_on(chosen, torch.full((1,), positive)), torch.Generator().manual_seed(0)
    normal = torch.randn(_ROWS, negatives, generator=generator, dtype=torch.float64, device="cpu")
    d2_neg = (mean + spread * normal).clamp_min(0.0)
    d2_pos = torch.full_like(d2_neg[:, 0], positive)

    def weights(*probes: float) -> Tensor:
        """Weigh the simulated rows, their first negatives moved to some distances."""
        moved = d2_neg.clone()
        for column, probe in enumerate(probes):
            moved[:, column] = probe
        answer: PairWeights = rule(d2_pos, moved)
        return answer.neg

    neg, half = weights(), _HALF_STEP * spread
    effective = entropy_of_rows(neg).mean().exp() * (neg > 0).any()
    near, far = weights(mean - half, mean + half)[:, :2].unbind(dim=1)
    slopes = (far.log() - near.log()) / (2 * half)
    slope = slopes[slopes.isfinite()].mean() if bool(slopes.isfinite().any()) else torch.tensor(math.nan)
    tau = math.inf if abs(float(slope)) < 1e-9 else -1 / float(slope)
    curve = []
    for distance in distances:
        probed = weights(distance)
        average = probed.mean(dim=1)
        found = average != 0
        curve.append(float((probed[found, 0] / average[found]).mean()) if bool(found.any()) else 0.0)
    return Sharpness(float(effective), tau, curve)


def _check_simulated(negatives: object, mean: object, spread: object, positive: object) -> None:
    check_count("negatives", negatives)
    if negatives == 1:
        raise ValueError(f"negatives: expected an int >= 2, got {negatives!r}")
    check_positive("mean", mean)
    check_positive("spread", spread)
    check_non_negative("positive", positive)


def _number(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.2f}" if abs(x) < 1000 else f"{x:.3g}"


def strategy_from_text(text: str) -> Any:
    """Build the strategy of ``name:option=value,...``; values are Python's, and a bare word is a string.

    Raises:
        TypeError, ValueError, ImportError: as `resolve_strategy`, or the text is no such thing.

    Examples:
        >>> strategy_from_text("direct:tau=0.2,normalize=False")
        Direct(tau=0.2, p=4.0, normalize=False)
    """
    name, _, options = text.partition(":")
    try:
        call: Any = ast.parse(f"f({options})", mode="eval").body
        names = [word.arg for word in call.keywords]
        if call.args or None in names or len(set(names)) < len(names):
            raise ValueError
        values: dict[str, Any] = {
            str(word.arg): word.value.id if isinstance(word.value, ast.Name) else ast.literal_eval(word.value)
            for word in call.keywords
        }
    except (SyntaxError, ValueError):
        raise ValueError(f"strategy: expected name:option=value,..., such as infonce:tau=0.1, got {text!r}") from None
    return resolve_strategy(name, values)
