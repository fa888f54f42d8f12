"""The options of inspect_pairs.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from option_help import StrategyNames, default


@dataclass(frozen=True)
class Settings:
    """Which network, which images, which strategies."""

    data_root: Path
    """Image folder: DIR/<class>/*, or DIR/train/<class>/*; or images without classes."""
    checkpoint: Path | None = None
    """last.ckpt or epoch-<n>.ckpt of a recipe; its embeddings are compared, as the loss did. With --backbone: weights
    of that timm model, as from export.py."""
    backbone: str | None = None
    """Any timm model, whose features are compared."""
    pretrained: bool = False
    """Take timm's own weights of the backbone, which are downloaded."""
    image_size: Annotated[int | None, default("that of the checkpoint; 32 with --backbone")] = None
    """Side in pixels to which images are resized."""
    strategies: StrategyNames = ("infonce", "direct", "square", "direct:normalize=False")
    """Names or import paths, with options as in infonce:tau=0.1."""
    pairs: int = 100
    """Number of pairs to show for each strategy."""
    limit: int | None = None
    """Use at most this many images, taken evenly."""
    seed: int = 0
    """Seed of the second view of each image, which is its positive."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
    output: Path = Path(".runs/inspect_pairs")
    """Folder of the pages; files of the same name are replaced."""
