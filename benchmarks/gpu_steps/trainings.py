"""Paired trainings by the CIFAR-10 recipe, several at once, with as many epochs as end in a linear probe in time.

Each seed has the same first weights, batches and views for every loss. All runs train one epoch and are judged after
it; what that took decides how many more epochs fit, as a run may be resumed with more of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

from gpu_steps.report import about
from gpu_steps.training_runs import Costs, Run
from provenance import write_json
from recipe import data as data_sets
from recipe import protocol
from recipe.settings import Settings

LOSSES: dict[str, dict[str, Any]] = {
    "infonce, tau 0.5": {"strategy": "infonce", "tau": 0.5},
    "direct": {"strategy": "direct"},
    "infonce, tau 0.1": {"strategy": "infonce", "tau": 0.1},
    "square, tau 1": {"strategy": "square", "tau": 1.0},
}
"""The paper's baseline and its winner, and what was ahead of both on a CPU."""
TINY: dict[str, Any] = {"backbone": "test_resnet", "limit": 64, "batch_size": 32, "device": "cpu"}
SAVE_EVERY = 5.0
"""Seconds."""
MOST_EPOCHS = 100
"""A run with more time trains further seeds."""
DATASET = protocol.DATASETS["cifar10"]


def check_data(root: Path) -> None:
    """Raise FileNotFoundError where there is no data set, before anything is measured."""
    places = (root / "train", root / DATASET.name / "train", root / "cifar-10-batches-py")
    if not any(place.is_dir() for place in places):
        raise FileNotFoundError(f"data_root: expected CIFAR-10, torchvision's files or an image folder, got {root}")


def run(root: Path, device: str, jobs: int | None, seconds: float, output: Path, log: IO[str]) -> dict[str, Any]:
    """Train, and write trainings.json; return the state of the step and its rows."""
    end = time.monotonic() + seconds
    if jobs is None:
        jobs = 2 if device == "cpu" else 8 if seconds > 150 else 4
    report: dict[str, Any] = {"what": " ".join(str(__doc__).split()), "environment": about(), "jobs": jobs}
    report |= {"costs": None, "epochs": 1, "runs": []}
    data_sets.load(DATASET, root)  # decodes an image folder once, for all runs
    with tempfile.TemporaryDirectory(prefix="gpu-trainings-") as folder:
        settings = Settings(data_root=root.resolve(), output=Path(folder), resume=True)
        pairs = _pairs(replace(settings, **TINY) if device == "cpu" else settings)
        runs: list[Run] = []

        def save() -> None:
            report["runs"] = [each.as_dict() for each in runs]
            write_json(output / "trainings.json", report)

        runs += (wave := list(islice(pairs, jobs)))
        at_once(wave, 1, (1,), 1, end, save, log)
        costs = Costs.of(wave)
        while costs is not None:
            epochs = costs.epochs(end - time.monotonic(), MOST_EPOCHS)
            report |= {"costs": asdict(costs), "epochs": max(epochs, report["epochs"])}
            if epochs > 1:
                at_once(wave, epochs, costs.milestones(epochs), costs.knn_every(epochs), end, save, log)
            if epochs < MOST_EPOCHS or costs.epochs(end - time.monotonic(), MOST_EPOCHS) < MOST_EPOCHS:
                break
            runs += (wave := list(islice(pairs, jobs)))
        save()
        rows = [each.summary() for each in runs]
    states = [row["state"] for row in rows]
    state = next((state for state in ("cut off", "failed") if state in states), "finished")
    return {"state": state, "epochs": report["epochs"], "rows": rows}


def _pairs(settings: Settings) -> Iterator[Run]:
    """Yield the runs, one seed of all losses after another."""
    for seed in count():
        for name, options in LOSSES.items():
            yield Run(name, replace(settings, **options, seed=seed))


def at_once(
    runs: list[Run],
    epochs: int,
    milestones: tuple[int, ...],
    knn_every: int,
    end: float,
    save: Callable[[], None],
    log: IO[str],
) -> None:
    """Train several runs up to an epoch, until the end of the time; save what is known every few seconds."""
    threads = max(1, (os.cpu_count() or 1) // len(runs))
    started: list[Run] = []
    try:
        for each in runs:
            each.start(epochs, milestones, knn_every, threads)
            started.append(each)
        saved = time.monotonic()
        while [each for each in runs if each.goes_on()] and time.monotonic() < end:
            if time.monotonic() > saved + SAVE_EVERY:
                save()
                saved = time.monotonic()
            time.sleep(0.1)
    finally:
        for each in started:
            each.terminate()
        stop = time.monotonic() + 3
        for each in started:
            each.wait_or_kill(max(0.1, stop - time.monotonic()))
            each.finish(log)
        save()
