"""How many copies of images inspect_pairs finds: some images copied under other names, the first pairs counted.

    python benchmarks/copies.py --data-root DIR --checkpoint RUN/last.ckpt      DIR/<class>/*

The checkpoint is one of a recipe; docs/monitor.md says which, and shows the table.
"""

import random
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from command_line import in_one_line

import tyro

from inspected.settings import Settings as PairSettings
from provenance import environment, write_json
from recipe.results import FILE, read_result

if TYPE_CHECKING:
    from inspected.pairs import Pair


@dataclass(frozen=True)
class Settings:
    """Which images are copied, and which strategies look for the copies."""

    data_root: Path
    """Image folder: DIR/<class>/*."""
    checkpoint: Path
    """last.ckpt of a recipe."""
    images: int = 5000
    """How many images, evenly taken."""
    copies: int = 50
    """How many of them are copied, into their own class."""
    pairs: int = 100
    """How many of the first pairs are counted."""
    strategies: tuple[str, ...] = (
        "direct:normalize=False", "triplet", "inverse", "hardness", "infonce:tau=0.1", "tsallis", "square", "kl_ball",
        "dhel", "infonce", "direct",
    )  # fmt: skip
    """Names, with options as in infonce:tau=0.1."""
    seed: int = 0
    """Seed of which images are copied, and of the views."""
    output: Path = Path("results/copies.json")
    """Where the numbers go."""


def main(settings: Settings) -> None:
    """Copy, embed, count."""
    from alphacl_plugins.sharpness import strategy_from_text
    from inspected import run
    from inspected.pairs import heaviest_pairs

    with tempfile.TemporaryDirectory() as folder:
        copied = copy_images(settings, Path(folder))
        asked = PairSettings(Path(folder), settings.checkpoint, seed=settings.seed)
        network, size, data = run.build(asked)
        _, files, classes = run.images_of(asked)
        z, z_aug = run.embed(asked, network, size, data, files, iter)
    found = {}
    for name in settings.strategies:
        pairs = heaviest_pairs(z, z_aug, strategy_from_text(name), settings.pairs)
        found[name] = {
            "copies": sum(is_copy(pair, files, copied) for pair in pairs),
            "one_class": sum(classes[pair.a] == classes[pair.b] for pair in pairs),
        }
        print(f"| {name} | {found[name]['copies']} | {found[name]['one_class']} |")
    made = read_result(settings.checkpoint.parent / FILE)
    options = {name: value for name, value in asdict(settings).items() if not isinstance(value, Path)}
    content = {
        "settings": options,
        "checkpoint": {name: made[name] for name in ("dataset", "backbone", "strategy", "settings", "evaluations")},
        "found": found,
        "environment": environment(),
    }
    write_json(settings.output, content)


def copy_images(settings: Settings, folder: Path) -> dict[str, str]:
    """Write the images and the copies into a folder; return the name of each copy with that of its original."""
    files = sorted(settings.data_root.glob("*/*"))
    count = min(settings.images, len(files))
    files = [files[i * len(files) // count] for i in range(count)]
    for file in files:
        (folder / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, folder / file.parent.name / file.name)
    copied = {}
    for number, file in enumerate(random.Random(settings.seed).sample(files, settings.copies)):
        name = f"{file.parent.name}/copy-{number}{file.suffix}"
        shutil.copy(file, folder / name)
        copied[name] = f"{file.parent.name}/{file.name}"
    return copied


def is_copy(pair: "Pair", files: list[Path], copied: dict[str, str]) -> bool:
    """Whether a pair is a copy and its original."""
    a, b = (f"{files[i].parent.name}/{files[i].name}" for i in (pair.a, pair.b))
    return copied.get(a) == b or copied.get(b) == a


if __name__ == "__main__":
    with in_one_line():
        main(tyro.cli(Settings, description=__doc__))
