"""What solo-learn alone has to be told."""

from dataclasses import dataclass

from recipe import protocol


@dataclass(frozen=True)
class SoloLearn:
    """Options of solo-learn."""

    linear_epochs: int = protocol.PROBE.epochs
    """Epochs of solo-learn's own linear evaluation, beside the probe of the recipe; 0: none. Images from a folder it
    takes at 224 px, normalised as ImageNet: slow, and another evaluation."""
    workers: int = 4
    """Processes that load images for it."""

    def __post_init__(self) -> None:
        for name in ("linear_epochs", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected an int >= 0, got {getattr(self, name)}")
