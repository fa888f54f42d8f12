"""The α-CL paper's Tables 1 and 2: run their cells, and write ours beside the paper's.

    python examples/reproduce.py --table 1 --dataset cifar10 --data-root DIR      five seeds of each row, 100 epochs
    python examples/reproduce.py --table 1 --row infonce direct --epochs 500      two rows, to the end
    python examples/reproduce.py --table 2 --dry-run                              what is done and what is to do
    python examples/reproduce.py --table 1 --host solo-learn                      by solo-learn, from a clone of it
    python examples/reproduce.py --table 1 --dataset cifar10 --jobs 8 --minutes 60    eight runs at once, for an hour
    python examples/reproduce.py --report                                         write the report anew, run nothing

Each run is a process of its own (python examples/<data set>_<backbone>.py), so one that fails leaves the others. After
Ctrl-C, SIGTERM or a failure the same command goes on where it stopped; a run of 500 epochs is judged after 100 and 300
as well. Results are kept as JSON in results/; results/README.md and its pictures are made of them alone. A run with
other images, --limit, or another batch size or backbone than the paper's is no cell of its tables: it is kept in
results/tries/ and listed apart, with what differs.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from command_line import grouped, in_one_line

from option_help import default
from provenance import check_writable
from recipe import protocol
from recipe.options import Data
from recipe.settings import Settings
from tables.cells import Cell, Host
from tables.estimate import Speeds, in_words
from tables.kept import load
from tables.paper import ROWS, TABLES
from tables.solo_settings import SoloLearn

BACKBONES = ("resnet18", "resnet50")


@dataclass(frozen=True)
class Cells:
    """Which cells of the paper's tables to run."""

    table: Literal[1, 2] = 1
    """Table of the paper."""
    dataset: Literal["cifar10", "cifar100", "stl10"] | None = None
    """Only this data set. None: all data sets of the table."""
    backbone: str | None = None
    """Only resnet18, or only resnet50. Any other timm model replaces it, for a trial run."""
    row: Annotated[
        tuple[Literal["quadratic", "infonce", "backprop", "entropy", "inverse", "square", "direct"], ...],
        default("all that the table has"),
    ] = ()
    """These rows alone."""
    seeds: int = 5
    """Repetitions: seeds first_seed, first_seed + 1, ..."""
    first_seed: int = 0
    """The first of these seeds."""


@dataclass(frozen=True)
class Work:
    """What to do with them."""

    host: Host = "lightly"
    """The library whose training is used."""
    dry_run: bool = False
    """Only list the cells, and how long they may take."""
    report: bool = False
    """Only write the report and its pictures from the present results."""
    jobs: int = 1
    """Number of runs at once on one GPU; a single ResNet-18 does not fill it."""
    minutes: float | None = None
    """Stop after this many minutes; the same command continues later. A cell that cannot end in time, by the speed of
    earlier runs on this hardware, is not started but listed. None: run all."""
    results: Path = Path("results")
    """Folder of the results."""
    runs: Path = Path(".runs/reproduce")
    """Folder in which the recipes work, with their checkpoints and logs."""


@dataclass(frozen=True)
class Recipe:
    """Options of the recipes."""

    epochs: int = 100
    """Passes over the training images."""
    eval_epochs: tuple[int, ...] = protocol.EPOCHS
    """Epochs after which to evaluate, besides the last one."""
    batch_size: int = protocol.BATCH_SIZE
    """Images in a batch. With another number than the paper's the run is no cell of the table."""
    knn_every: int = 10
    """Number of epochs between two kNN evaluations; only with lightly."""


@dataclass(frozen=True)
class Hardware:
    """Where it runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: a GPU if there is one."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """Precision of the network in training. auto: bf16 on a GPU, else 32."""
    compile: bool = False
    """Compile the network; only with lightly."""


@dataclass(frozen=True)
class Reproduction(SoloLearn, Hardware, Data, Recipe, Work, Cells):  # the last base has the first fields
    """Which cells to run, and how."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("seeds", 1), ("first_seed", 0), ("jobs", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected an int >= {low}, got {getattr(self, name)}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes: expected a finite number > 0, got {self.minutes}")
        if not list(self.cells()):
            rows = ", ".join(self.row) or "any row"
            raise ValueError(
                f"dataset: expected one that table {self.table} has with {self.backbone or 'any backbone'} and {rows}, "
                f"got {self.dataset or 'none'}"
            )

    def cells(self) -> Iterator[Cell]:
        """Yield the runs, one seed of all rows after another."""
        parts = {
            (dataset, backbone): rows
            for (dataset, backbone), rows in TABLES[self.table].items()
            if self.dataset in (None, dataset) and self._table_backbone in (None, backbone)
        }
        for seed in range(self.first_seed, self.first_seed + self.seeds):
            for (dataset, backbone), rows in parts.items():
                for row in rows:
                    if not self.row or row in self.row:
                        yield self._cell(dataset, backbone, row, seed)

    @property
    def _table_backbone(self) -> str | None:
        """The backbone of the table's cells: another model takes the place of the ResNet-18."""
        return self.backbone if self.backbone is None or self.backbone in BACKBONES else "resnet18"

    def _cell(self, dataset: str, backbone: str, row: str, seed: int) -> Cell:
        settings = Settings(
            **ROWS[row].options,
            seed=seed,
            backbone=self.backbone or backbone,
            epochs=self.epochs,
            schedule="paper",
            eval_epochs=self.eval_epochs,
            batch_size=self.batch_size,
            data_root=self.data_root,
            data_format=self.data_format,
            download=self.download,
            classes=self.classes,
            limit=self.limit,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            knn_every=self.knn_every,
        )
        solo_learn = SoloLearn(self.linear_epochs, self.workers)
        return Cell(self.host, dataset, backbone, settings, solo_learn, self.runs, self.results)


def main(reproduction: Reproduction) -> None:
    """List, report or run.

    Raises: SystemExit with code 1 if a run has failed; Stopped after Ctrl-C or SIGTERM.
    """
    from tables.running import run_cells, write_report  # after the options: --help is quick

    if reproduction.report:
        write_report(reproduction.results)
    elif reproduction.dry_run:
        list_cells(list(reproduction.cells()), reproduction.results)
    else:
        check_writable(reproduction.results)
        minutes = math.inf if reproduction.minutes is None else reproduction.minutes
        outcome = run_cells(list(reproduction.cells()), jobs=reproduction.jobs, minutes=minutes)
        left_out, failed = outcome.left_out, outcome.failed
        if left_out:
            print("\n".join(["", f"left out: {len(left_out)}; the same command goes on with them", *left_out]))
        if failed:
            sys.exit("\n".join(["", f"failed: {len(failed)}; the same command tries them again", *failed]))


def list_cells(cells: list[Cell], results: Path) -> None:
    """Print what is done and what is to do, and for how long."""
    speeds = Speeds(load(results))
    total, unknown = 0.0, 0
    for cell in cells:
        done, asked = cell.done(), cell.settings.milestones
        state = "done" if len(done) == len(asked) else f"partly ({', '.join(map(str, done))})" if done else "to do"
        line = f"{state:<10}  {cell.name}, {cell.settings.epochs} epochs"
        if len(done) < len(asked):
            seconds = speeds.seconds(cell)
            total, unknown = total + (seconds or 0), unknown + (seconds is None)
            line += f"  {in_words(seconds)}"
        print(line + (f"  try: {', '.join(cell.changes)}" if cell.changes else ""))
    if total:
        print(f"all that is measured: {in_words(total)}")
    if unknown:
        print(f"no measurement yet of this backbone, image size and hardware: {unknown} of {len(cells)} cells")


if __name__ == "__main__":
    with in_one_line(goes_on="the same command goes on"):  # between two runs; within one, `run_child` answers
        main(grouped(Reproduction, __doc__))
