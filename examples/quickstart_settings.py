"""The options of the quickstart in groups, each a box in the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from option_help import LR, StrategyName, default


@dataclass(frozen=True)
class Images:
    """The images."""

    data_root: Path | None = None
    """Image folder: DIR/train/<class>/* and DIR/test/<class>/*, or DIR/<class>/*, of which a fifth is held out.
    Without it: the handwritten digits of scikit-learn."""
    limit: int | None = None
    """Use at most this many training images, and as many test images; classes keep their proportions."""
    image_size: Annotated[int | None, default("8 for the digits, 32 for a folder")] = None
    """Side in pixels to which images are resized."""


@dataclass(frozen=True)
class Training:
    """The network, the losses and how they are trained."""

    backbone: str = "test_resnet"
    """Any timm model: test_resnet (tiny), resnet18, resnet50d, ..."""
    strategy: StrategyName = "direct"
    """Which pair weights α-CL uses: a registered name, or an import path, my_module.MyAlpha."""
    tau: Annotated[float | None, default("the strategy's own; 0.5 for direct")] = None
    """Temperature τ of the strategy, > 0."""
    infonce_tau: float = 0.5
    """Temperature τ of InfoNCE, > 0. One τ means another sharpness to each loss."""
    epochs: int = 25
    """Passes over the training images."""
    batch_size: int = 256
    """Images in a batch, each with two views. With fewer images the batch is smaller."""
    learning_rate: Annotated[float, LR] = 0.01
    """Largest learning rate (AdamW, warm-up and cosine)."""


@dataclass(frozen=True)
class Run:
    """How often, on what, and where to."""

    seeds: int = 3
    """How many repetitions; the table shows their mean ± standard error."""
    first_seed: int = 0
    """Seeds are first_seed, first_seed + 1, ..."""
    accelerator: str = "cpu"
    """What Lightning trains on: cpu (the same numbers each time, for one number of threads), gpu, mps or auto."""
    threads: Annotated[int | None, default("1 for the digits; for a folder, what the libraries take")] = None
    """CPU threads. For the digits more gain little, and are slow beside other work."""
    output: Path = Path(".runs/quickstart")
    """Folder for quickstart.png, embeddings.png and quickstart.json, which replace those of an earlier run."""


@dataclass(frozen=True)
class Settings(Run, Training, Images):  # the last base has the first fields
    """What to train, on which images, and how often."""
