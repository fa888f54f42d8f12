"""What the three experiments share: their options, their result files, the look of their pictures."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

from provenance import environment, replace_file

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
INK = "#333333"


@dataclass(frozen=True)
class Settings:
    """How large, and where to."""

    problems: int = 300
    """Random problems of each claim, at least so many."""
    seed: int = 0
    """Of problems and starts."""
    output: Path = Path(".runs/theory")
    """Folder of the JSON file and the picture."""

    def __post_init__(self) -> None:
        if self.problems < 1:
            raise ValueError(f"problems: expected an int >= 1, got {self.problems}")


def save(settings: Settings, name: str, report: dict[str, Any], figure: Figure) -> None:
    """Write every number as JSON and the picture as PNG, each whole or not at all."""
    report = {"problems": settings.problems, "seed": settings.seed, **report, "environment": environment()}
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    path = settings.output / f"{name}.json"
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    replace_file(path.with_suffix(".png"), lambda part: figure.savefig(part, format="png", dpi=130))
    print(f"every number: {path}; picture: {path.with_suffix('.png')}")


def tidy(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title, labels, no frame above and to the right."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
