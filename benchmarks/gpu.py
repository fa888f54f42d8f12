"""Everything that needs a GPU, most valuable first, within some minutes: errors, speed, sweeps, paired trainings.

    python benchmarks/gpu.py --minutes 10 --data-root DIR --output OUT               DIR: CIFAR-10, as for the recipes
    python benchmarks/gpu.py --minutes 3 --data-root DIR --output OUT --device cpu   a try at tiny sizes

Each step has its share of the time, and leaves what it does not need to the steps after it. Every row is written when
it is known, so a run that is cut off loses only the measurement in hand. Failures are recorded, and what there was no
time for is listed. OUT gets six files: gpu.json (every step and its state), loss.{json,md,png} (as `benchmarks/loss.py`
writes them), trainings.json, and gpu.log (what the processes printed). Checkpoints stay in a temporary folder.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

BEGAN = time.monotonic()  # imports take seconds
ROOT = Path(__file__).resolve().parents[1]  # this runs from a checkout, installed or not
sys.path += [str(ROOT / part) for part in ("", "integrations", "examples")]

from command_line import in_one_line  # noqa: E402

import torch  # noqa: E402
import tyro  # noqa: E402

from gpu_steps.cells import OutOfTime, measured  # noqa: E402
from gpu_steps.report import Report  # noqa: E402
from gpu_steps.worker import one_line  # noqa: E402
from provenance import check_writable  # noqa: E402

GRACE = 4.0
"""Seconds at the end for what is written last."""


@dataclass(frozen=True)
class Step:
    """A module of `gpu_steps`, with its share of the time of all steps."""

    share: float
    least: float
    """Seconds; it is left out if there are fewer."""
    parallel: bool = False
    """Whether several processes measure at once, as many as there are cores: for errors, not for times."""


StepName = Literal["ceilings", "errors", "launches", "losses", "blocks", "tiles", "recipe_speed", "trainings"]
STEPS: dict[StepName, Step] = {
    "ceilings": Step(0.03, 12),
    "errors": Step(0.12, 20, parallel=True),
    "launches": Step(0.08, 20),
    "losses": Step(0.22, 20),
    "blocks": Step(0.05, 12),
    "tiles": Step(0.08, 25),
    "recipe_speed": Step(0.07, 30),
    "trainings": Step(0.35, 50),
}


@dataclass(frozen=True)
class Settings:
    """What to measure, for how long, and where the results go."""

    minutes: float = 10.0
    """Time for all steps together, from the start of this program."""
    data_root: Path = Path(".data")
    """Where CIFAR-10 is: torchvision's files or an image folder, as for the recipes."""
    output: Path = Path(".runs/gpu")
    """Folder of the results; those of an earlier run are replaced."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu: a trial run at tiny sizes."""
    jobs: int | None = None
    """Number of trainings at once. None: 8 on a GPU, 2 on a CPU."""
    steps: tuple[StepName, ...] = get_args(StepName)
    """Which steps, in their own order."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"minutes: expected a finite number > 0, got {self.minutes}")
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs: expected an int >= 1, got {self.jobs}")


def main(settings: Settings, began: float) -> None:
    """Run the steps.

    Args:
        settings: what to run.
        began: `time.monotonic` at the start of the program.

    Raises: ValueError, OSError before any step, if the device or the data are not as expected; SystemExit on SIGTERM.
    """
    end = began + 60 * settings.minutes - GRACE
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a GPU that PyTorch can use, got none; --device cpu is a try without one")
    if "trainings" in settings.steps:
        importlib.import_module("gpu_steps.trainings").check_data(settings.data_root)
    check_writable(settings.output)
    settings.output.mkdir(parents=True, exist_ok=True)
    told = asdict(settings) | {"data_root": settings.data_root.name, "output": settings.output.name}
    with terminated_in_order(), (settings.output / "gpu.log").open("w", encoding="utf-8") as log:
        report = Report(settings.output, told)
        names = [name for name in STEPS if name in settings.steps]
        for place, name in enumerate(names):
            left, step, shares = end - time.monotonic(), STEPS[name], sum(STEPS[later].share for later in names[place:])
            run_step(name, min(left, max(step.least, left * step.share / shares)), settings, report, log)
            print(f"{report.in_words(name)}; {max(0, end - time.monotonic()):.0f} s left", flush=True)


def run_step(name: StepName, seconds: float, settings: Settings, report: Report, log: IO[str]) -> None:
    """Run a step and record how it ended; no error is passed on but the end of this program."""
    module, least = importlib.import_module(f"gpu_steps.{name}"), STEPS[name].least
    what = " ".join(str(module.__doc__).split())
    if seconds < least:
        report.leave_out(name, what, f"seconds: expected at least {least:.0f}, got {max(0, seconds):.0f}")
        return
    if name != "trainings" and not module.cells(settings.device):
        report.leave_out(name, what, "device: expected a GPU, got cpu")
        return
    report.begin(name, what, seconds)
    try:
        if name == "trainings":
            found = module.run(settings.data_root, settings.device, settings.jobs, seconds, settings.output, log)
            report.end(name, **found)
        else:
            measure_cells(name, module, seconds, settings.device, report, log)
            report.end(name, "finished")
    except OutOfTime as error:
        report.end(name, "cut off", left_out=error.cells)
    except Exception as error:  # a step that fails is a result
        report.end(name, "failed", failed=one_line(error))
    except BaseException:
        report.end(name, "cut off")
        raise
    finally:
        if name == "losses":
            report.save_losses()


def measure_cells(name: StepName, module: Any, seconds: float, device: str, report: Report, log: IO[str]) -> None:
    """Measure the cells of a step, after those that fill a compiler's cache, if it has some."""
    end = time.monotonic() + seconds
    command = [sys.executable, "-m", "gpu_steps.worker", name, device]
    many = max(1, min(8, (os.cpu_count() or 1) - 1)) if device == "cuda" else 1
    if hasattr(module, "compiling"):
        compiling = measured(command, module.compiling(device), workers=many, seconds=0.6 * seconds, log=log)
        with suppress(OutOfTime), closing(compiling):
            list(compiling)
    workers = many if STEPS[name].parallel else 1
    found = measured(command, module.cells(device), workers=workers, seconds=end - time.monotonic(), log=log)
    with closing(found):
        for cell, rows in found:
            report.add(name, cell, rows)


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """Make SIGTERM an exception, so that processes are ended and results are written."""

    def end(which: int, frame: object) -> None:
        sys.exit(128 + which)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    options = tyro.cli(Settings, description=__doc__)
    with in_one_line():
        main(options, BEGAN)
