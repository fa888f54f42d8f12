"""One loss against tuned InfoNCE in several studies: a line of a Markdown table for each study, and a picture.

python examples/across_studies.py --studies results/study results/study_cifar100 --row square --output square.png
"""

from dataclasses import dataclass
from pathlib import Path

from command_line import in_one_line

import tyro


@dataclass(frozen=True)
class Settings:
    """Which studies, and which of their rows."""

    studies: tuple[Path, ...]
    """Folders that examples/study.py wrote."""
    row: str = "square"
    """Row of their tables to compare with tuned InfoNCE."""
    output: Path | None = None
    """PNG file for the picture. None: no picture."""


def command_line() -> None:
    """Read the options, and compare."""
    with in_one_line():
        settings = tyro.cli(Settings, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
        from paired.across import main  # after the options: --help is quick

        main(settings.studies, settings.row, settings.output)


if __name__ == "__main__":
    command_line()
