"""Run cells, one after another or several at once, within some minutes; keep what they leave, and report it."""

import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from provenance import write_text
from tables.cells import EXAMPLES, Cell
from tables.children import Task, run_children
from tables.estimate import Speeds, in_words
from tables.kept import load
from tables.plots import draw
from tables.report import markdown
from tables.solo_settings import solo_learn_home


@dataclass
class Outcome:
    """The cells that ended without a result, as lines for the terminal."""

    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """There was no time for them, or not enough."""


def run_cells(cells: list[Cell], *, jobs: int = 1, minutes: float = float("inf")) -> Outcome:
    """Run what is not done.

    Args:
        cells: what to run, in this order.
        jobs: how many at once; more than one print to a log each.
        minutes: after which all are stopped, with a checkpoint; a cell that would take longer than what is left of
            them, by the speed of runs that are done, is not begun.

    Raises: Stopped after Ctrl-C or SIGTERM.
    """
    end = time.monotonic() + 60 * minutes
    if cells[0].host == "solo-learn":
        solo_learn_home()
    outcome, by_name = Outcome(), {cell.name: cell for cell in cells}
    path = os.pathsep.join([str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])])  # for -m tables...
    tasks = _tasks(cells, jobs, end, outcome)
    for name, code in run_children(tasks, jobs=jobs, environment={"PYTHONPATH": path}, end=end):
        cell = by_name[name]
        if not code:
            print(f"kept: {cell.keep()}", flush=True)
            write_report(cell.results)
        elif time.monotonic() >= end:
            outcome.left_out.append(f"  {name}: stopped")
        else:
            outcome.failed.append(f"  {name}: exit code {code}")
            print(f"failed with exit code {code}" + (f": {name}, {_log(cell)}" if jobs > 1 else ""), flush=True)
    outcome.left_out += [f"  {task.name}: not begun" for task in tasks]
    return outcome


def _tasks(cells: list[Cell], jobs: int, end: float, outcome: Outcome) -> Iterator[Task]:
    """Yield the cells that are to be run and may fit into the time, as it is when the next one is asked for."""
    for number, cell in enumerate(cells, start=1):
        print(f"\n[{number}/{len(cells)}] {cell.name}", flush=True)
        if len(cell.done()) == len(cell.settings.milestones):
            print(f"done already: {cell.kept}")
            continue
        left = end - time.monotonic()
        seconds = None if left == float("inf") else Speeds(load(cell.results)).seconds(cell)
        if left <= 0 or (seconds is not None and seconds > left):
            print("left out: " + ("no time left" if left <= 0 else in_words(seconds)), flush=True)
            outcome.left_out.append(f"  {cell.name}: not begun")
            continue
        print(shlex.join(cell.command), flush=True)
        yield Task(cell.name, cell.command, _log(cell) if jobs > 1 else None)


def _log(cell: Cell) -> Path:
    return cell.result.parent.with_name(f"{cell.result.parent.name}.log")


def write_report(results: Path) -> None:
    """Write README.md and the pictures from the JSON files in the folder."""
    runs = load(results)
    pictures = draw(runs, results)
    path = results / "README.md"
    write_text(path, markdown(runs, pictures))
    print(f"report: {path}", flush=True)
