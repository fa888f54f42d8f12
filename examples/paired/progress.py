"""What a study shows while it works: a line for each run, a bar with the time that is left; and its clock."""

import time
from datetime import timedelta
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from paired.budget import GRACE, Plan
from paired.records import Records
from paired.run import Protocol, Run, has_diverged


class Bar:
    """What is done, on the terminal: a line for each run and a bar with the time that is left; and the clock.

    Args:
        console: where to.
        records: get each run.
        protocol: of the study.
        plan: what is announced.
        run_seconds: expected of a run.
    """

    def __init__(self, console: Console, records: Records, protocol: Protocol, plan: Plan, run_seconds: float) -> None:
        self.console, self.records, self.protocol, self.plan = console, records, protocol, plan
        self.total, self.finished = sum(plan.left), 0
        self.expected, self.seen = run_seconds, list[float]()
        self.began = time.perf_counter()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TextColumn("{task.fields[left]}"))
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task: TaskID = self.progress.add_task("", total=self.total * protocol.epochs, left="")

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def expect(self, left: int) -> None:
        """Count on so many more runs: a phase that has ended says how many the next one has."""
        self.total = self.finished + left
        self.progress.update(self.task, total=self.total * self.protocol.epochs)

    def may_begin(self) -> bool:
        """Whether another run would end within the announced time and a tenth."""
        usual = max(self.expected, mean(self.seen) if self.seen else 0.0)
        return time.perf_counter() + usual <= self.began + GRACE * self.plan.seconds

    def tick(self, epochs: int) -> None:
        """Show the epochs that are done, and the time that is left at the speed so far."""
        elapsed, total = time.perf_counter() - self.began, self.total * self.protocol.epochs
        left = self.plan.seconds - elapsed if epochs == 0 else elapsed * (total - epochs) / epochs
        self.progress.update(self.task, completed=epochs, left=f"{clock(max(0.0, left))} left")

    def done(self, run: Run, content: dict[str, Any]) -> None:
        """Add a run that has ended, and print its line."""
        self.records.save(run, content)
        self.finished += 1
        self.seen.append(sum(content["seconds"].values()))
        number = content["effective_negatives"]
        what = "diverged" if has_diverged(content) else f"{number:.0f} effective negatives"
        elapsed = time.perf_counter() - self.began
        self.console.print(
            f"[{self.finished}/{self.total}] {run.name}: probe {content['probe']:.1f} %, kNN {content['knn']:.1f} %, "
            f"{what}; {clock(elapsed)} of at most {clock(self.plan.seconds)}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


def clock(seconds: float) -> str:
    """Return a time for the terminal.

    >>> clock(75.4)
    '0:01:15'
    """
    return str(timedelta(seconds=round(seconds)))
