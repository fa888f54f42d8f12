"""One training as a process of the recipe, and what its parts cost."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from gpu_steps.with_parent import start
from recipe.results import FILE
from recipe.settings import Settings
from tables.cells import arguments

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "cifar10_resnet18.py"
MARGIN = 0.1
"""Of the time, for what takes longer than it did in the first epoch."""


class Run:
    """A training, which may be started again with more epochs.

    Attributes:
        state: "running", "finished" (judged after its last epoch), "cut off" or "failed".
        loaded, seconds: of the latest start: until its data were read, and until it ended.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings, self.state = name, settings, "waiting"
        self.loaded: float | None = None
        self.seconds = 0.0
        self.why: str | None = None
        self.folder = settings.folder("cifar10")

    def start(self, epochs: int, milestones: tuple[int, ...], knn_every: int, threads: int) -> None:
        """Start the recipe, or go on with it."""
        self.settings = replace(self.settings, epochs=epochs, eval_epochs=milestones, knn_every=knn_every)
        options = arguments(self.settings, Settings(backbone="resnet18"))
        command = [sys.executable, "-W", "ignore", str(SCRIPT), *options]
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  # `finish` closes it
        self.state, self.loaded, self.seconds, self._began = "running", None, 0.0, time.monotonic()
        self.process = start(command, threads, stdout=self.output, stderr=subprocess.STDOUT)

    def goes_on(self) -> bool:
        """Return whether it runs; note when it has read its data, of which its first line tells."""
        passed = time.monotonic() - self._began
        if self.loaded is None and self.output.seek(0, 2):
            self.loaded = passed
        if self.process.poll() is not None:
            self.seconds = self.seconds or passed
        return self.process.returncode is None

    def terminate(self) -> None:
        """Ask it to end; a training ends after its step."""
        self.process.terminate()

    def wait_or_kill(self, seconds: float) -> None:
        """Give it some seconds to end."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def finish(self, log: IO[str]) -> None:
        """Note how it ended."""
        self.output.seek(0)
        said = self.output.read().decode(errors="replace").strip()
        self.output.close()
        log.write(f"{self.name}, seed {self.settings.seed}:\n{said[-4000:]}\n")
        log.flush()
        code = self.process.returncode
        if str(self.settings.epochs) in self.result().get("evaluations", {}):
            self.state = "finished"
        else:
            self.state = "cut off" if code in (-9, -15, 143, 137) else "failed"
            self.why = f"exit code {code}: {said.splitlines()[-1][:300] if said else 'nothing said'}"

    def result(self) -> dict[str, Any]:
        """Return what the recipe has written so far."""
        path = self.folder / FILE
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def summary(self) -> dict[str, Any]:
        """Return its state and the accuracies by which it was judged last."""
        known: dict[str, Any] = {"loss": self.name, "seed": self.settings.seed, "state": self.state}
        judged = self.result().get("evaluations", {})
        if judged:
            epochs = max(judged, key=int)
            known |= {"epochs": int(epochs), "probe_best": judged[epochs]["probe_best"], "knn": judged[epochs]["knn"]}
        return known if self.why is None else known | {"failed": self.why}

    def as_dict(self) -> dict[str, Any]:
        """Return all that is known; the curve has every epoch, judged or not."""
        return self.summary() | {"curve": logged_curve(self.folder), "result": self.result()}


def logged_curve(folder: Path) -> list[dict[str, float]]:
    """Return the epochs that a run has logged, in all its starts, which each end with a whole epoch."""
    logs = sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    curve: list[dict[str, float]] = []
    for path in logs:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = {k.partition("/")[2]: v for k, v in row.items() if k and k.startswith("epoch/") and v}
                if "lr" in values:
                    curve.append({"epoch": len(curve) + 1, **{name: float(value) for name, value in values.items()}})
    return curve


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a run take beside the others, the slowest run's."""

    start: float
    """Until the first epoch."""
    epoch: float
    knn: float
    """Of the nearest neighbours between two epochs, with what else the first start needs: an upper bound."""
    evaluation: float

    @staticmethod
    def of(runs: Sequence[Run]) -> Costs | None:
        """Return the costs of runs that have trained one epoch and were judged after it; None if one was not."""
        found = []
        for run in runs:
            evaluation, curve = run.result().get("evaluations", {}).get("1"), run.result().get("curve")
            if evaluation is None or not curve or run.loaded is None:
                return None
            epoch, judged = curve[0]["seconds"], evaluation["seconds"]
            found.append((run.loaded, epoch, max(0.0, run.seconds - run.loaded - epoch - judged), judged))
        return Costs(*(round(max(values), 3) for values in zip(*found, strict=True)))

    def milestones(self, epochs: int) -> tuple[int, ...]:
        """Return when to evaluate: after half of the epochs too, so that a run that is late has been judged."""
        return (epochs // 2, epochs) if epochs >= 4 else (epochs,)

    def knn_every(self, epochs: int) -> int:
        """Return between how many epochs the nearest neighbours are asked: at most ten times, a tenth of the time."""
        times = min(10, int(0.1 * self.epoch * epochs / self.knn)) if self.knn else 10
        return -(-epochs // times) if times else 0

    def seconds(self, epochs: int) -> float:
        """Return what a run of so many epochs takes that has trained one."""
        every = self.knn_every(epochs)
        asked = epochs // every if every else 0
        trained = (epochs - 1) * self.epoch + asked * self.knn
        return self.start + self.knn + trained + len(self.milestones(epochs)) * self.evaluation

    def epochs(self, seconds: float, most: int) -> int:
        """Return the most epochs that end in time, those of the first start included; 1: no other fits."""
        fit = [epochs for epochs in range(2, most + 1) if self.seconds(epochs) <= (1 - MARGIN) * seconds]
        return max(fit, default=1)
