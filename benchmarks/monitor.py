"""What a RepresentationMonitor costs, as a share of training: SimCLR of lightly on an image folder.

    python benchmarks/monitor.py --data-root DIR

DIR/<class>/* holds the images; five epochs, one look at their end.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from command_line import in_one_line

import tyro

from provenance import environment, write_json


@dataclass(frozen=True)
class Settings:
    """What is trained."""

    data_root: Path
    """Image folder: DIR/<class>/*."""
    images: int = 10_000
    """How many of them, evenly taken."""
    backbone: str = "test_resnet"
    """Any timm model."""
    epochs: int = 5
    """How many; the monitor looks every five, its default."""
    batch_size: int = 256
    """Images in a batch."""
    output: Path = Path("results/monitor.json")
    """Where the figures go."""


def main(settings: Settings) -> None:
    """Train, and say what part of the time the monitor took."""
    from monitored_training import train  # after the options: --help is quick

    monitor, total = train(settings.data_root, settings.images, settings.backbone, settings.epochs, settings.batch_size)
    look = monitor.seconds / len(monitor.history)
    epoch = (total - monitor.seconds) / settings.epochs
    share = look / (monitor.every_n_epochs * epoch)
    print(f"an epoch {epoch:.1f} s, a look {look:.2f} s: {100 * share:.2f} % of training, with a look every 5 epochs")
    content = {
        "settings": asdict(settings) | {"data_root": settings.data_root.name, "output": settings.output.name},
        "epoch_seconds": epoch,
        "look_seconds": look,
        "share": share,
        "environment": environment(),
    }
    write_json(settings.output, content)


if __name__ == "__main__":
    with in_one_line():
        main(tyro.cli(Settings, description=__doc__))
