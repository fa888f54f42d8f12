"""The options of a study, as the command line shows them."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from option_help import LR, StrategyNames
from paired.losses import Loss, Row, paper_rows, parse_rows
from recipe import protocol

Step = Literal["tuning", "paper", "tuned"]


@dataclass(frozen=True)
class Losses:
    """Which losses to compare, and how often."""

    strategies: StrategyNames = ("infonce", "entropy", "direct", "square")
    """Rows to tune: registered strategies or import paths, my_module.MyAlpha (one in the current folder: with
    PYTHONPATH=.). direct:p=6 fixes an option, "direct:tau=0.5/0.2/0.1" says which values to try; values of a second
    option are combined with these. InfoNCE is always among the rows; the others are compared with it."""
    steps: tuple[Step, ...] = ("tuning", "tuned")
    """tuning: try values of each row on held-out training images. tuned: judge each row at its best value (which
    includes the tuning). paper: judge the seven rows of the paper's Table 1 with the paper's own options."""
    seeds: int = 5
    """Seeds on which a row is judged: within one, every row has the same first weights, batches and views."""
    first_seed: int = 1
    """First seed; seeds below --tuning-seeds belong to the tuning."""
    trials: int = 5
    """Number of values to try for each row that is tuned; if the best is the first or last, one more beyond it."""
    tuning_seeds: int = 1
    """Runs for each value, with seeds 0, 1, ..."""
    tuned_in: Path | None = None
    """Folder of another study, a shorter one, say: each row is judged at the value that its tuning runs found best, and
    --trials and --tuning-seeds do nothing. None: the values are tried here."""


@dataclass(frozen=True)
class Data:
    """The images."""

    data_root: Path = Path(".data")
    """Image folder, DIR/train/<class>/* and DIR/test/<class>/*; with --dataset, also torchvision's files."""
    dataset: Literal["cifar10", "cifar100", "stl10"] | None = None
    """One of torchvision's data sets in the data root. None: an image folder."""
    image_size: int | None = None
    """Side in pixels to which the images of a folder are resized. None: 32, or that of the data set."""
    limit: int | None = 10_000
    """Use at most this many training and this many test images; classes keep their proportions."""


@dataclass(frozen=True)
class Training:
    """The network and how it is trained."""

    backbone: str = "small"
    """small: a CNN of six layers and 0.4 M parameters; or any timm model."""
    epochs: int = 10
    """Passes over the training images, at most."""
    batch_size: int = protocol.BATCH_SIZE
    """Images in a batch, each with two views."""
    learning_rate: Annotated[float, LR] = 3e-3
    """Largest learning rate of Adam: it rises for a tenth of the steps, then falls along a cosine to 0."""


@dataclass(frozen=True)
class Hardware:
    """Where to train, and for how long."""

    minutes: float = 60.0
    """Time for the whole study. If it does not fit, there are fewer epochs, then fewer seeds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: a GPU if there is one."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Precision of the network in training: float32, or bfloat16 autocast. auto: the faster one here."""
    jobs: int | None = None
    """Number of runs at once. None: one for each CPU core, with one thread each; on a GPU, 3."""


@dataclass(frozen=True)
class Output:
    """Where the results go, and what to do instead of a study."""

    output: Path = Path(".runs/study")
    """Folder of the study: runs/*/*.json, and the two pictures. The same command continues a study."""
    report: bool = False
    """Only print the table and draw the pictures of the runs in the folder."""
    run: Path | None = None
    """Only train the run of this JSON once more, on the images in --data-root, and compare its numbers."""


@dataclass(frozen=True)
class Settings(Output, Hardware, Training, Data, Losses):  # the last base has the first fields
    """Which losses to compare, on which images, and for how long."""

    def __post_init__(self) -> None:
        least = {"seeds": 1, "trials": 2, "tuning_seeds": 1, "epochs": 1, "batch_size": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected an int >= {low}, got {getattr(self, name)}")
        for name, low in {"jobs": 1, "image_size": 8, "limit": 2}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name}: expected an int >= {low}, got {value}")
        for name in ("minutes", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {getattr(self, name)}")
        if self.first_seed < self.tuning_seeds:
            raise ValueError(
                f"first_seed: expected a seed that the tuning has not seen, >= {self.tuning_seeds}, "
                f"got {self.first_seed}"
            )
        if not self.steps:
            raise ValueError("steps: expected at least one of tuning, paper and tuned, got none")
        if self.tuned_in is not None and ("tuning" in self.steps or "tuned" not in self.steps):
            raise ValueError(f"steps: expected tuned, without tuning, with --tuned-in, got {' '.join(self.steps)}")
        to_try = [row for row in self.strategies if "/" in row]
        if self.tuned_in is not None and to_try:
            raise ValueError(f"strategies: expected no values to try with --tuned-in, got {', '.join(to_try)}")

    @property
    def rows(self) -> list[Row]:
        """The rows that are tuned, InfoNCE first; empty if no step needs them."""
        return parse_rows(self.strategies, self.trials) if self.tunes else []

    @property
    def paper(self) -> list[Row]:
        """The rows as in the paper; empty if "paper" is not among the steps."""
        return paper_rows() if "paper" in self.steps else []

    @property
    def any_loss(self) -> Loss:
        """One of the losses, to try what they have in common."""
        return (self.rows + self.paper)[0].trials[0]

    @property
    def tunes(self) -> bool:
        """Whether values are tried."""
        return "tuning" in self.steps or "tuned" in self.steps

    @property
    def judged_seeds(self) -> range:
        """The seeds of the judged runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def parallel(self, device: str) -> int:
        """Return how many runs go at once."""
        if self.jobs is not None:
            return self.jobs
        affinity = getattr(os, "sched_getaffinity", None)
        return 3 if device == "cuda" else len(affinity(0)) if affinity else os.cpu_count() or 1
