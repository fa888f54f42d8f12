"""How much of a study fits into the time: a short measurement, then fewer epochs, then fewer seeds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from launched import quiet
from paired.images import Parts
from paired.losses import Loss
from paired.run import Protocol, build, fit, judge
from recipe.data import Data

STEPS = 14
NOT_TIMED = 3
"""First steps, slower than the rest."""
JUDGED = 1024
"""Images of each part on which an evaluation is timed."""
FEWEST_EPOCHS = 3
FEWEST_SEEDS = 2
"""An interval needs two."""
MARGIN = 1.1
"""What is announced, relative to what was measured."""
START = 20.0
"""Seconds until the worker processes have started."""
GRACE = 1.1
"""No run is begun that would not end within the announced time and a tenth."""


class Costs(NamedTuple):
    """Measured times, in seconds."""

    step: float
    evaluation: float

    def run(self, steps: int, epochs: int) -> float:
        """Return the time of one run with this many steps in an epoch."""
        return self.step * steps * epochs + self.evaluation


class Left(NamedTuple):
    """How many runs are still to do, by phase; a phase begins when the one before has ended."""

    tuning: int
    extension: int
    judged: int


@dataclass(frozen=True)
class Plan:
    """What is run, and for how long at most."""

    epochs: int
    seeds: int
    seconds: float
    left: Left


def make_plan(
    left: Callable[[int], Left],
    run_seconds: Callable[[int], float],
    jobs: int,
    epochs: range,
    seeds: int,
    minutes: float,
    spent: float,
) -> Plan:
    """Return the most that fits: fewer epochs first, then fewer seeds.

    Args:
        left: runs to do, for a number of seeds.
        run_seconds: time of one run, for a number of epochs.
        jobs: runs at once.
        epochs: the fewest up to the most.
        seeds: the most.
        minutes: for everything.
        spent: seconds that are gone already.

    Raises: ValueError if not even the least fits.
    """

    def plan(n_epochs: int, n_seeds: int) -> Plan:
        runs = left(n_seeds)
        rounds = sum(-(-n // jobs) for n in runs)
        seconds = MARGIN * rounds * run_seconds(n_epochs) + (START if rounds else 0)
        return Plan(n_epochs, n_seeds, seconds, runs)

    choices = [plan(n, seeds) for n in reversed(epochs)]
    choices += [plan(epochs[0], n) for n in range(seeds - 1, min(FEWEST_SEEDS, seeds) - 1, -1)]
    for choice in choices:
        if choice.seconds + spent <= 60 * minutes:
            return choice
    least = choices[-1]
    raise ValueError(
        f"minutes: expected at least {(least.seconds + spent) / 60 + 0.1:.1f} for {least.epochs} epochs and "
        f"{least.seeds} seeds, got {minutes:g}; fewer --strategies or --trials, or a lower --limit, take less"
    )


def measure(protocol: Protocol, parts: Parts, precisions: tuple[str, ...], loss: Loss) -> dict[str, Costs]:
    """Return the time of a step and of an evaluation on this machine, for each precision.

    Args:
        protocol: of the study.
        parts: its images.
        precisions: to try.
        loss: to train with.
    """
    quiet()
    return {each: _measure(replace(protocol, precision=each, epochs=STEPS), parts, loss) for each in precisions}


def _measure(protocol: Protocol, parts: Parts, loss: Loss) -> Costs:
    data = parts.judging
    training = build(loss, 0, protocol, data, parts)
    ticks = Ticks()
    fit(training, protocol, [ticks], max_steps=STEPS)
    few = replace(data, train=data.train.pick(slice(JUDGED)), test=data.test.pick(slice(JUDGED)))
    began = time.perf_counter()
    judge(training, protocol, few, 0)
    seconds = time.perf_counter() - began
    share = (len(data.train) + len(data.test)) / (len(few.train) + len(few.test))
    return Costs((ticks.times[-1] - ticks.times[NOT_TIMED - 1]) / (STEPS - NOT_TIMED), seconds * share)


def steps_of(protocol: Protocol, data: Data) -> int:
    """Return the steps of an epoch."""
    return len(data.train) // protocol.batch_size


class Ticks(Callback):
    """The time at the end of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Wait for the device, and note the time."""
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
