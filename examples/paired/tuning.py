"""Choosing the best of the values that are tried: by held-out training images, with as many trials for every row."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from paired.grids import beyond, sharpness_option
from paired.losses import Loss, Row
from paired.run import Run


def tuning_runs(row: Row, losses: Sequence[Loss], seeds: int) -> list[Run]:
    """Return the runs that try some losses of a row."""
    return [Run("tuning", row.name, loss, seed) for loss in losses for seed in range(seeds)]


def scores_of(losses: Sequence[Loss], seeds: int, probes: Mapping[tuple[Loss, int], float]) -> dict[Loss, float]:
    """Return the mean accuracy over the tuning seeds of the losses that were tried on all of them.

    Args:
        losses: of one row.
        seeds: tuning seeds, 0, 1, ...
        probes: accuracy of the probe on held-out training images, by loss and seed.
    """
    complete = [loss for loss in losses if all((loss, seed) in probes for seed in range(seeds))]
    return {loss: mean(probes[loss, seed] for seed in range(seeds)) for loss in complete}


def best_of(scores: Mapping[Loss, float]) -> Loss:
    """Return the loss with the highest accuracy, the earliest of equals."""
    return max(scores, key=lambda loss: scores[loss])


def best_in(tuning: Sequence[dict[str, Any]], row: str, first_seed: int) -> Loss:
    """Return the best loss of a row of another study.

    Args:
        tuning: the tuning runs of that study.
        row: name of the row.
        first_seed: of the runs that the loss is chosen for.

    Raises: ValueError if the study has not tuned the row, not yet tried every value on each of its tuning seeds, or one
        of these is not below the first seed.
    """
    runs = {(Loss.of(content), content["seed"]): content["probe"] for content in tuning if content["row"] == row}
    if not runs:
        tuned = ", ".join(sorted({content["row"] for content in tuning})) or "none"
        raise ValueError(f"tuned_in: expected tuning runs of {row}, got those of {tuned}")
    seeds = 1 + max(seed for _, seed in runs)
    if first_seed < seeds:
        raise ValueError(f"first_seed: expected a seed that the tuning has not seen, >= {seeds}, got {first_seed}")
    tried = sorted({loss for loss, _ in runs}, key=lambda loss: loss.label)
    missing = [loss.label for loss in tried for seed in range(seeds) if (loss, seed) not in runs]
    if missing:
        raise ValueError(f"tuned_in: expected {seeds} tuning runs of each value of {row}, got fewer of {missing[0]}")
    return best_of(scores_of(tried, seeds, runs))


def extension(row: Row, scores: Mapping[Loss, float]) -> Loss | None:
    """Return the one further loss to try if the best lies at an end of the grid; None if it lies inside.

    This is done once for each row, and only for the option that sets the sharpness (or else the first that is tuned).

    Args:
        row: with its grid.
        scores: of all its trials.
    """
    grid = dict(row.grid)
    if not grid:
        return None
    sharpness = sharpness_option(row.strategy, dict(row.fixed))
    option = sharpness if sharpness in grid else next(iter(grid))
    numbers = tuple(value for value in grid[option] if isinstance(value, float))
    best = dict(best_of(scores).options)
    value = best[option]
    if not isinstance(value, float) or len(numbers) < len(grid[option]):
        return None
    further = beyond(numbers, value)
    if further is None:
        return None
    loss = row.with_values({name: further if name == option else best[name] for name in grid})
    try:
        loss.build()
    except ValueError:  # out of the range of the option
        return None
    return loss
