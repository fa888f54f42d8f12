"""The options of contrastive_pca_table.py in groups, each a box in the help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphacl_plugins.strategies import AnyStrategy, build_strategy
from option_help import StrategyName


@dataclass(frozen=True)
class Data:
    """Which data."""

    data_root: Path | None = None
    """Where CIFAR-10 is, in one of the forms that the recipes read. None: only the digits."""
    download: bool = False
    """Let torchvision download CIFAR-10 (170 MB) into the data root."""
    checkpoint: Path | None = None
    """Weights of a recipe's network on CIFAR-10. None: no features of a network."""
    backbone: str = "test_resnet"
    """The checkpoint's timm model."""
    digits: bool = True
    """Whether to use the digits."""
    pixels: int = 50_000
    """Largest number of training images of CIFAR-10 whose pixels are used; classes keep their proportions. 0: none."""
    features: int = 10_000
    """Largest number of training images whose features are used; likewise."""


@dataclass(frozen=True)
class Embedding:
    """ContrastivePCA."""

    strategy: StrategyName = "infonce"
    """α of ContrastivePCA."""
    tau: float | None = None
    """Temperature of the strategy. None: its own default, if it has one (infonce and direct: 0.5)."""
    components: tuple[int, ...] = (2, 9, 36)
    """Widths of the embeddings."""
    turns: tuple[int, ...] = (1, 100)
    """Largest numbers of turns of ContrastivePCA between α and the components; a row for each."""


@dataclass(frozen=True)
class Run:
    """Where the results go."""

    seed: int = 0
    """Random seed of the second views."""
    output: Path = Path(".runs/theory")
    """Folder of the results; those of an earlier run are replaced."""


@dataclass(frozen=True)
class Settings(Run, Embedding, Data):  # the last base has the first fields
    """What to compare, and on which data."""

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.data_root is None:
            raise ValueError(
                "data_root: expected a folder with CIFAR-10, whose features the checkpoint gives, got None"
            )
        if self.download and self.data_root is None:
            raise ValueError("data_root: expected a folder to download to, got None")
        self.build_strategy()

    def build_strategy(self) -> AnyStrategy:
        """Return α's strategy at its temperature."""
        options: dict[str, Any] = {} if self.tau is None else {"tau": self.tau}
        return build_strategy(self.strategy, **options)
