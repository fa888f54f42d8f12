"""A study from its plan to its last run: measure, announce, tune, judge; what is done already is not done again."""

import time
from dataclasses import asdict, replace
from functools import partial
from statistics import mean
from typing import Any

from rich.console import Console

from paired.budget import FEWEST_EPOCHS, Costs, Left, Plan, make_plan, steps_of
from paired.images import Parts
from paired.losses import Loss, Row
from paired.progress import Bar, clock
from paired.records import Records
from paired.run import Protocol, Run
from paired.settings import Settings
from paired.tuning import best_in, best_of, extension, scores_of, tuning_runs
from paired.workers import Workers

REQUEST = ("strategies", "steps", "seeds", "first_seed", "trials", "tuning_seeds", "minutes")


class Study:
    """The study that was asked for, and its runs that are done.

    Args:
        settings: of the command line.
        asked: the protocol before it was fitted into the time.
        parts: the images.
        records: the folder, begun.
        console: for what is told.
    """

    def __init__(self, settings: Settings, asked: Protocol, parts: Parts, records: Records, console: Console) -> None:
        self.settings, self.asked, self.parts = settings, asked, parts
        self.records, self.console = records, console
        self.rows, self.paper = settings.rows, settings.paper
        self.chosen: dict[str, Loss] = {}
        if settings.tuned_in is not None:
            tuning = Records(settings.tuned_in).of("tuning")
            self.chosen = {
                row.name: best_in(tuning, row.name, settings.first_seed) if row.grid else row.trials[0]
                for row in self.rows
            }

    def run(self, began: float) -> None:
        """Do what is left.

        Args:
            began: when the program began, by `time.perf_counter`.

        Raises: ValueError if the least does not fit into the time, or a run fails.
        """
        jobs = self._jobs()
        with Workers(jobs, self.parts) as workers:
            protocol, costs = self._protocol(workers)
            plan = self._plan(protocol, costs, jobs, time.perf_counter() - began)
            self._announce(plan, jobs)
            protocol = replace(protocol, epochs=plan.epochs)
            self.records.set_protocol(protocol, costs)
            self.records.add_plan(self._request(), plan.seeds)
            if sum(plan.left):
                with Bar(self.console, self.records, protocol, plan, self._run_seconds(costs, plan.epochs)) as bar:
                    self._phases(workers, protocol, plan, bar)

    def _phases(self, workers: Workers, protocol: Protocol, plan: Plan, bar: Bar) -> None:
        for phase in (self._grid, self._extensions, partial(self._judged, plan.seeds)):
            bar.expect(sum(self._left(plan.seeds)))
            runs = phase()
            for run in runs:
                self.records.check(run, protocol)
            left = workers.run(self._missing(runs), protocol, bar.done, bar.may_begin, bar.tick)
            if left:
                self.console.print(
                    f"the time is up, this machine was slower than measured: {len(left)} runs are left out of "
                    f"{len(runs)}; the same command goes on with them"
                )
                return

    def _protocol(self, workers: Workers) -> tuple[Protocol, Costs]:
        """Return what the runs have in common, but for the epochs if they are not planned yet, and the costs."""
        if self.records.protocol is not None:
            return self.records.protocol, self.records.costs
        choices: tuple[str, ...] = (self.asked.precision,)
        if self.asked.precision == "auto":
            choices = ("bf16",) if self.asked.device == "cuda" else ("32", "bf16")
        self.console.print("measuring the speed ...")
        measured = workers.measure(self.asked, choices, [row.trials[0] for row in self.rows + self.paper])
        precision = min(choices, key=lambda each: measured[each].step)
        return replace(self.asked, precision=precision), measured[precision]

    def _plan(self, protocol: Protocol, costs: Costs, jobs: int, spent: float) -> Plan:
        """Return what is run: as planned if the same was asked for before, else what fits into the time."""
        epochs, seeds, minutes = self.settings.epochs, self.settings.seeds, self.settings.minutes
        fewest = min(FEWEST_EPOCHS, epochs)
        if self.records.protocol is not None:
            fewest = epochs = protocol.epochs
        known = self.records.planned_seeds(self._request())
        if known is not None:
            seeds, minutes = known, float("inf")
        return make_plan(
            self._left,
            lambda n: self._run_seconds(costs, n),
            jobs,
            epochs=range(fewest, epochs + 1),
            seeds=seeds,
            minutes=minutes,
            spent=spent,
        )

    def _run_seconds(self, costs: Costs, epochs: int) -> float:
        """Return the time of a run: that of the runs in the folder, which have the same epochs, or else as measured."""
        if self.records.runs:
            return mean(float(sum(content["seconds"].values())) for content in self.records.runs.values())
        return costs.run(steps_of(self.asked, self.parts.judging), epochs)

    def _announce(self, plan: Plan, jobs: int) -> None:
        data, settings = self.parts.judging, self.settings
        rows = [row.name for row in self.rows] + [f"{row.name} (paper)" for row in self.paper]
        seeds = settings.judged_seeds[: plan.seeds]
        tell = [
            f"{data.source}: {len(data.train):,} training and {len(data.test):,} test images, {data.size} px; "
            f"tuned on {len(self.parts.tuning.test):,} held-out training images",
            f"rows: {', '.join(rows)}",
        ]
        if plan.epochs < settings.epochs or plan.seeds < settings.seeds:
            tell.append(
                f"to fit into the time: {plan.epochs} epochs (of {settings.epochs}), {plan.seeds} seeds "
                f"(of {settings.seeds})"
            )
        left = plan.left
        parts = [f"{left.tuning} tuning runs"] if left.tuning else []
        parts += [f"up to {left.extension} more where the best value is at an end"] if left.extension else []
        parts += [f"{left.judged} judged runs (seeds {seeds[0]} to {seeds[-1]})"] if left.judged else []
        tell.append(
            f"to do: {', '.join(parts)}; {plan.epochs} epochs each, {jobs} at once: at most {clock(plan.seconds)}"
            if parts
            else "everything is done already"
        )
        for line in tell:
            self.console.print(line, highlight=False)

    def _left(self, seeds: int) -> Left:
        tuning = len(self._missing(self._grid()))
        if tuning:
            further = self.settings.tuning_seeds * sum(bool(row.grid) for row in self.rows)
            tuned = seeds * len(self.rows) if "tuned" in self.settings.steps else 0
            return Left(tuning, further, tuned + len(self._missing(self._paper_runs(seeds))))
        further = len(self._missing(self._extensions()))
        return Left(0, further, len(self._missing(self._judged(seeds))))

    def _grid(self) -> list[Run]:
        """Return the runs that try the values of each row."""
        return [run for row in self._tuned_here() for run in tuning_runs(row, row.trials, self.settings.tuning_seeds)]

    def _extensions(self) -> list[Run]:
        """Return the runs beyond the ends of the grids; the grids are done."""
        runs = []
        for row in self._tuned_here():
            further = extension(row, self._scores(row.trials))
            if further is not None:
                runs += tuning_runs(row, [further], self.settings.tuning_seeds)
        return runs

    def _judged(self, seeds: int) -> list[Run]:
        """Return the judged runs, seed by seed; the tuning is done, but for what extends it if that is still to do."""
        tuned = self.rows if "tuned" in self.settings.steps else []
        best = {row.name: self._best(row) for row in tuned}
        runs = self._paper_runs(seeds) + [
            Run("tuned", row.name, best[row.name], seed) for seed in self.settings.judged_seeds[:seeds] for row in tuned
        ]
        return sorted(runs, key=lambda run: run.seed)

    def _paper_runs(self, seeds: int) -> list[Run]:
        judged = self.settings.judged_seeds[:seeds]
        return [Run("paper", row.name, row.trials[0], seed) for seed in judged for row in self.paper]

    def _tuned_here(self) -> list[Row]:
        return [row for row in self.rows if row.name not in self.chosen]

    def _best(self, row: Row) -> Loss:
        if row.name in self.chosen:
            return self.chosen[row.name]
        further = extension(row, self._scores(row.trials))
        return best_of(self._scores(row.trials + ([further] if further else [])))

    def _scores(self, losses: list[Loss]) -> dict[Loss, float]:
        return scores_of(losses, self.settings.tuning_seeds, self.records.probes())

    def _missing(self, runs: list[Run]) -> list[Run]:
        return [run for run in runs if not self.records.has(run)]

    def _jobs(self) -> int:
        left = self._left(self.settings.seeds)
        return max(1, min(self.settings.parallel(self.asked.device), max(left)))

    def _request(self) -> dict[str, Any]:
        values = asdict(self.settings)
        request = {name: list(value) if isinstance(value := values[name], tuple) else value for name in REQUEST}
        return request | {f"value of {name}": loss.label for name, loss in self.chosen.items()}
