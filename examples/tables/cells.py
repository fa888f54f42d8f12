"""The cells of the paper's tables as runs: their settings, commands and files, and what tells a cell from a try."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from provenance import replace_file
from recipe import protocol
from recipe.results import FILE, other_images, read_result
from recipe.settings import Settings
from tables.paper import ROWS, TABLES, reported
from tables.solo_settings import SoloLearn

EXAMPLES = Path(__file__).resolve().parents[1]
TRIES = "tries"
SAME = ("backbone", "batch_size", "learning_rate", "schedule", "limit", "classes", "devices", "num_nodes")
"""Settings that the cells of the paper's tables have in common; the loss has a label, the rest changes no result."""
COUNTS = ("train", "test", "unlabeled", "classes", "image_size")

Host = Literal["lightly", "solo-learn"]
Content = dict[str, Any]
"""Of a result's JSON, as `recipe.results.Result` writes it."""


@dataclass(frozen=True)
class Cell:
    """One run that a table asks for: a row, a data set, a backbone and a seed, by one host."""

    host: Host
    dataset: str
    backbone: str
    """Of the table; the settings may have another one, for a try."""
    settings: Settings
    solo_learn: SoloLearn
    runs: Path
    """Folder in which the recipes work."""
    results: Path
    """Folder of what is kept."""

    @property
    def name(self) -> str:
        """The name of the cell in messages."""
        return f"{self.host} {self.dataset} {self.settings.backbone} {self.settings.label} seed {self.settings.seed}"

    @cached_property
    def changes(self) -> list[str]:
        """What makes it a try rather than a cell of the table, as far as the settings tell."""
        return changed_settings(self.dataset, self.backbone, self.settings.as_dict())

    @property
    def output(self) -> Path:
        """Where the recipe works."""
        return self.runs / self.host

    @property
    def result(self) -> Path:
        """The file that the recipe writes."""
        return replace(self.settings, output=self.output).folder(self.dataset) / FILE

    @property
    def kept(self) -> Path:
        """The file that is kept of it; before its result tells which images it has, as if they are the data set's."""
        content = read(self.result)
        changes = differences(content) if content else self.changes
        return kept_path(self.results, self.host, self.dataset, self.settings, changes)

    @property
    def command(self) -> list[str]:
        """What runs it, and goes on with it."""
        if self.host == "lightly":
            start = [str(EXAMPLES / f"{self.dataset}_{self.backbone}.py")]
            default = Settings(backbone=self.backbone)
        else:
            start, default = ["-m", "tables.solo_host", "--dataset", self.dataset], Settings()
        options = [*arguments(self.settings, default), "--output", str(self.output), "--resume"]
        if self.host == "solo-learn":
            options += arguments(self.solo_learn, SoloLearn())
        return [sys.executable, *start, *options]

    def done(self) -> list[int]:
        """Return the milestones, of those asked for, that are in the kept file."""
        judged = {int(epochs) for epochs in read(self.kept).get("evaluations", {})}
        return sorted(judged.intersection(self.settings.milestones))

    def images(self) -> int | None:
        """Return how many images an epoch has, by this run or else others in the same folder; None if there is none."""
        others = sorted(self.result.parents[1].glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
        for content in map(read, [self.result, *others]):
            if content and content["settings"]["limit"] == self.settings.limit:
                return int(content["data"]["train"] + content["data"]["unlabeled"])
        return None

    def keep(self) -> Path:
        """Copy the result to where it is kept, whole or not at all; return that place.

        Raises: ValueError if a result of other images is kept there.
        """
        kept = self.kept
        if kept.exists() and (other := other_images(read(kept)["data"], read(self.result)["data"])):
            raise ValueError(f"results: expected the images of {kept}, got {other[0]}; --results keeps them elsewhere")
        replace_file(kept, lambda part: shutil.copyfile(self.result, part))
        return kept


def kept_path(results: Path, host: str, dataset: str, settings: Settings, changes: list[str]) -> Path:
    """Return where a result is kept: cells of the tables and tries are apart."""
    folder = results / TRIES if changes else results
    name = "-".join([settings.label, *changes, f"seed{settings.seed}"]).replace(" ", "_")
    return folder / host / f"{dataset}_{settings.backbone}" / f"{name}.json"


def read(path: Path) -> Content:
    """Return the content of a result, or nothing if there is none.

    Raises: ValueError if the file is no result.
    """
    return read_result(path) if path.exists() else {}


def differences(content: Content) -> list[str]:
    """Return how a result differs from the cell of the paper's tables that it could be; empty if it is that cell."""
    dataset, backbone = content["dataset"], content["backbone"]
    if not any((dataset, backbone) in table for table in TABLES.values()):
        backbone = "resnet18"  # which another model stands in for
    changes = changed_settings(dataset, backbone, content["settings"])
    row = row_of(content)
    if row is None:
        changes.append("another loss")
    elif not changes and not reported(dataset, backbone, row):
        changes.append("no cell of the tables")
    if (content["host"], dataset) == ("solo-learn", "stl10"):
        changes.append("solo-learn's views")  # normalised, and blurred by another kernel
    if content["settings"]["limit"] is None:
        expected = protocol.DATASETS[dataset]
        changes += [
            f"{count}={content['data'][count]}"
            for count in COUNTS
            if content["data"][count] != getattr(expected, count)
        ]
    return changes


def changed_settings(dataset: str, backbone: str, settings: Content) -> list[str]:
    """Return which of the settings are not those of the paper, each as ``name=value``."""
    paper = Settings(backbone=backbone, schedule="paper").as_dict() | {
        "learning_rate": protocol.learning_rate(backbone)
    }
    asked = settings | {
        "learning_rate": settings["learning_rate"] or protocol.learning_rate(settings["backbone"]),
        "schedule": settings.get("schedule") or "paper",  # early results do not name it
    }
    if asked["classes"] == protocol.DATASETS[dataset].classes:
        asked["classes"] = None
    return [f"{name}={asked[name]}" for name in SAME if asked[name] != paper[name]]


def row_of(content: Content) -> str | None:
    """Return the row of the paper's tables whose loss a result has, by name and by pair weights, if there is one."""
    rows = ((row.name, Settings(**row.options)) for row in ROWS.values())
    loss = content["loss"], content["strategy"]
    return next((name for name, settings in rows if (settings.label, repr(settings.build_strategy())) == loss), None)


def arguments(settings: Any, default: Any) -> Iterator[str]:
    """Yield the command line of a settings object, as tyro reads it; what is as in the default is left out."""
    for field in fields(settings):
        value, option = getattr(settings, field.name), field.name.replace("_", "-")
        if value == getattr(default, field.name):
            continue
        if field.type is bool:
            yield f"--{option}" if value else f"--no-{option}"
        elif isinstance(value, tuple):
            yield from (f"--{option}", *map(str, value))
        else:
            yield from (f"--{option}", str(value))
