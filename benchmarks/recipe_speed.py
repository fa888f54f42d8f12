"""Images per second of the recipes, of lightly's pipeline, of solo-learn's, and of the network alone, in one run.

    python benchmarks/recipe_speed.py --data-root DIR
    python benchmarks/recipe_speed.py --data-root DIR --backbone resnet50 --compile

The same network, batch, precision, loss and Adam for all; the repetitions take turns, and the median counts. The recipe
runs in Lightning's loop, the others in a loop without anything. solo-learn: a clone in SOLO_LEARN_HOME (~/solo-learn).
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from command_line import grouped, in_one_line

import torch
from rich.console import Console
from rich.table import Table

from provenance import check_writable, environment, write_json, write_text
from recipe import protocol
from recipe.devices import device_of
from recipe.settings import Settings as RecipeSettings

if TYPE_CHECKING:
    from recipe_pipelines import BatchSeconds

ALONE = "network alone"


@dataclass(frozen=True)
class Data:
    """The images."""

    dataset: Literal["cifar10", "cifar100", "stl10"] = "cifar10"
    """Size and augmentation of the images."""
    data_root: Path = Path(".data")
    """Where the data set is, or a folder that holds it."""
    data_format: Literal["auto", "torchvision", "folder"] = "auto"
    """torchvision's own files, or an image folder."""
    limit: int | None = None
    """Use at most this many images, for a trial run."""


@dataclass(frozen=True)
class Training:
    """The network and how it is trained, the same for all."""

    backbone: str = "resnet18"
    """Any timm model."""
    batch_size: int = protocol.BATCH_SIZE
    """Images in a batch."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Precision of the network; auto: bf16 on a GPU, else 32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""


@dataclass(frozen=True)
class Pipelines:
    """The ways of the images to the network."""

    workers: tuple[int, ...] = (4, 16)
    """Worker processes of lightly's and solo-learn's loaders."""
    augment_ahead: tuple[int, ...] = (1, 8)
    """Numbers of batches that the recipe augments at once; the goals refer to the last one."""


@dataclass(frozen=True)
class Measurement:
    """How long to measure, and where the results go."""

    batches: int = 200
    """Batches to time, in each repetition."""
    warm_up: int = 50
    """Batches before the timing; at least twice the workers, which fetch that many ahead."""
    repeats: int = 5
    """Number of repetitions."""
    output: Path = Path(".runs/recipe_speed")
    """Folder of recipe_speed.json and recipe_speed.md."""


@dataclass(frozen=True)
class Settings(Measurement, Pipelines, Training, Data):  # the last base has the first fields
    """Images per second of a recipe beside lightly, solo-learn and the network alone."""

    def __post_init__(self) -> None:
        for name in ("batches", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected an int >= 1, got {getattr(self, name)}")
        if not self.augment_ahead or any(ahead < 1 or self.batches % ahead for ahead in self.augment_ahead):
            raise ValueError(
                f"augment_ahead: expected divisors of the {self.batches} batches, so that each is paid for, "
                f"got {self.augment_ahead}"
            )
        if self.warm_up < 2 * max(self.workers, default=0):
            raise ValueError(f"warm_up: expected at least twice the workers {self.workers}, got {self.warm_up}")

    def recipe(self, ahead: int) -> RecipeSettings:
        """Return the options of the recipe."""
        shared = ("backbone", "batch_size", "precision", "compile", "device")
        return RecipeSettings(augment_ahead=ahead, knn_every=0, **{name: getattr(self, name) for name in shared})


def build(settings: Settings) -> tuple[dict[str, "BatchSeconds"], list[str]]:
    """Return what times each pipeline, by name, and what cannot be timed here."""
    import recipe_pipelines as pipelines  # here, after the options: --help is quick
    from recipe import data as data_sets
    from recipe.pretraining import Pretraining

    dataset = protocol.DATASETS[settings.dataset]
    data = data_sets.load(dataset, settings.data_root, settings.data_format, limit=settings.limit)
    modules = {ahead: Pretraining(settings.recipe(ahead), dataset, data) for ahead in settings.augment_ahead}
    last = modules[settings.augment_ahead[-1]]
    needed = settings.warm_up + settings.batches
    if needed > len(last.steps):
        raise ValueError(
            f"batches: expected, with warm_up, at most the {len(last.steps)} batches of an epoch, got {needed}"
        )
    if settings.compile:
        last.network.compile()
    device, pixels = device_of(last.settings), data.pretraining()
    step = pipelines.Step(last, device)
    views = last._make_views(range(1), 0)
    timers = {ALONE: pipelines.network_alone(step, views)}
    for ahead, module in modules.items():
        module.network = last.network
        timers[ours(ahead)] = pipelines.recipe(module, device)
    missing = []
    for workers in settings.workers:
        for host, pipeline in HOSTS.items():
            try:
                timers[theirs(host, workers)] = getattr(pipelines, pipeline)(
                    step, pixels, dataset, last.settings, workers
                )
            except (FileNotFoundError, ImportError) as error:
                missing.append(f"{theirs(host, workers)}: not measured ({error})")
    return timers, missing


HOSTS = {"lightly": "lightly", "solo-learn": "solo_learn"}
"""Name in the table -> name in recipe_pipelines.py."""


def ours(ahead: int) -> str:
    """Return the name of a row."""
    return f"recipe, {ahead} {'batch' if ahead == 1 else 'batches'} augmented at once"


def theirs(host: str, workers: int) -> str:
    """Return the name of a row."""
    return f"{host}, {workers} worker{'' if workers == 1 else 's'}"


def measure(settings: Settings) -> dict[str, Any]:
    """Measure every pipeline in turn, several times; return the report."""
    timers, missing = build(settings)
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(settings.repeats):
        for name, timer in timers.items():
            seconds[name].append(timer(settings.warm_up, settings.batches))
    rates = {name: settings.batch_size / median(values) for name, values in seconds.items()}
    device = device_of(settings.recipe(1)).type
    return {
        "settings": {**asdict(settings), "data_root": settings.data_root.name, "output": settings.output.name},
        "device": device,
        "environment": environment(),
        "pipelines": {
            name: {
                "images_per_second": round(rate, 1),
                "of_network_alone": round(rate / rates[ALONE], 3),
                "seconds_of_a_batch": seconds[name],
            }
            for name, rate in rates.items()
        },
        "missing": missing,
        "goals": goals(settings, rates, judged=device == "cuda" and (os.cpu_count() or 1) >= 16),
    }


def goals(settings: Settings, rates: dict[str, float], *, judged: bool) -> list[dict[str, Any]]:
    """Compare the recipe with what it should reach on one H100-class GPU with 16 cores."""
    rate = rates[ours(settings.augment_ahead[-1])]
    found = [("share of the network-alone rate", rate / rates[ALONE], 0.85)]
    for host in HOSTS:
        for workers, least in ((4, 3.0), (16, 1.3)):
            if theirs(host, workers) in rates:
                found.append((f"times {theirs(host, workers)}", rate / rates[theirs(host, workers)], least))
    if (settings.backbone, settings.dataset, settings.batch_size) == ("resnet18", "cifar10", protocol.BATCH_SIZE):
        images = 100 * (50_000 // settings.batch_size) * settings.batch_size
        found.append(("times the rate of 100 epochs in 6 minutes", rate / (images / 360), 1.0))
    return [
        {
            "goal": goal,
            "least": least,
            "measured": round(value, 3),
            "verdict": ("pass" if value >= least else "miss") if judged else "not judged here",
        }
        for goal, value, least in found
    ]


def rows(report: dict[str, Any]) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
    """Return the rows of the two tables: pipelines and goals."""
    speeds = [
        (name, f"{entry['images_per_second']:,.0f}", f"{entry['of_network_alone']:.0%}")
        for name, entry in report["pipelines"].items()
    ]
    judged = [
        (entry["goal"], f"{entry['least']:g}", f"{entry['measured']:.2f}", entry["verdict"])
        for entry in report["goals"]
    ]
    return [("pipeline", "images/s", "of the network alone"), *speeds], [("goal", "least", "here", ""), *judged]


def main(settings: Settings) -> dict[str, Any]:
    """Measure, print the table, and write them, with the goals of this project, as JSON and Markdown."""
    from launched import quiet

    check_writable(settings.output)
    quiet()
    warnings.filterwarnings("ignore", ".*pin_memory.* no accelerator")  # solo-learn pins in any case
    torch.manual_seed(0)
    report = measure(settings)
    tables = rows(report)
    header, *lines = tables[0]
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    for line in report["missing"]:
        print(line)
    text = "\n".join([*(markdown(table) for table in tables), *report["missing"]])
    write_text(settings.output / "recipe_speed.md", text + "\n")
    write_json(settings.output / "recipe_speed.json", report)
    return report


def markdown(table: list[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    header, *lines = ("| " + " | ".join(cells) + " |" for cells in table)
    return "\n".join([header, "|---" * len(table[0]) + "|", *lines, ""])


if __name__ == "__main__":
    with in_one_line():
        main(grouped(Settings, __doc__))
