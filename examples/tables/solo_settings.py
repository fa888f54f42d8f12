"""What solo-learn alone has to be told, and where it is."""

import os
from dataclasses import dataclass
from pathlib import Path

from recipe import protocol


@dataclass(frozen=True)
class SoloLearn:
    """Options of solo-learn alone."""

    linear_epochs: int = protocol.PROBE.epochs
    """solo-learn: epochs of its own linear evaluation, besides the recipe's; 0: none. It resizes images from a folder
    to 224 px and normalises them as ImageNet, which is slow and a different evaluation."""
    workers: int = 4
    """solo-learn: processes that load images."""

    def __post_init__(self) -> None:
        for name in ("linear_epochs", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected an int >= 0, got {getattr(self, name)}")


def solo_learn_home() -> Path:
    """Return the clone of solo-learn.

    Raises: FileNotFoundError if there is none.
    """
    home = Path(os.environ.get("SOLO_LEARN_HOME", "~/solo-learn")).expanduser().resolve()
    if not (home / "main_pretrain.py").exists():
        raise FileNotFoundError(
            f"SOLO_LEARN_HOME: expected a clone of https://github.com/vturrisi/solo-learn, got none at {home}"
        )
    return home
