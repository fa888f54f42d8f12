"""What the paper's experiments share: their options, their tables, their result files, the look of their pictures."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import in_one_line

import tyro
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from provenance import environment, held, replace_file, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#333333"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """Options of every experiment; each adds its sizes, which are ints >= 1."""

    seed: int = 0
    """Random seed of problems and starts."""
    output: Path = Path(".runs/theory")
    """Folder of the JSON file and the picture; those of an earlier run are replaced."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.type is int and field.name != "seed"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected an int >= 1, got {getattr(self, name)}")


Options = TypeVar("Options", bound=Settings)


def command_line(settings: type[Options], main: Callable[[Options], object], description: str | None) -> None:
    """Run an experiment with the options of the command line; a mistake in them, or Ctrl-C, is one line."""
    with in_one_line(goes_on="nothing was written"):
        options = tyro.cli(settings, description=description)
        with held(options.output):
            main(options)


def progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Show how many of the items are done, on a line that goes when they are; on a terminal only."""
    console = Console(stderr=True)
    return track(items, f"{what} ...", console=console, transient=True, disable=not console.is_terminal)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table, a row for each dictionary, with its keys as headings."""
    print(title)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "), justify="left" if isinstance(rows[0][heading], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.2g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


def save(settings: Settings, name: str, report: dict[str, Any], figure: "Figure") -> None:
    """Write every number as JSON and the picture as PNG, each whole or not at all."""
    sizes = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "output"}
    path = settings.output / f"{name}.json"
    write_json(path, {**sizes, **report, "environment": environment()})
    replace_file(path.with_suffix(".png"), lambda part: figure.savefig(part, format="png", dpi=130))
    print(f"every number: {path}; picture: {path.with_suffix('.png')}")


def tidy(axes: "Axes", title: str, x: str = "", y: str = "") -> None:
    """Title, labels, no frame above and to the right."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
