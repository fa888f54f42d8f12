"""The result of a run as JSON: what was trained, on what, where, and how it was judged; whole at any moment."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphacl_solo_learn.methods import ADDRESS
from provenance import environment, write_json
from recipe.devices import resolved_precision
from recipe.protocol import SPLITS
from recipe.settings import Settings

if TYPE_CHECKING:
    from recipe.evaluation import ProbeAccuracy

FILE = "result.json"
HARMLESS = ("epochs", "eval_epochs", "knn_every", "data_format", "device", "compile")
"""Options that a resumed run may change: they do not change what is trained (epochs: by the paper's schedule)."""
KEPT = ("evaluations", "host_linear", "curve", "times", "environments")
"""What a resumed run adds to."""
ALWAYS = ("host", "dataset", "backbone", "strategy", "settings", "data")
"""What every result says beside that."""


class Result:
    """The file of one run, in its folder.

    Args:
        folder: of the run.
        host: the library whose loop trains: "lightly" or "solo-learn".
        dataset: name of the data set.
        settings: of the run.
        data: what was read, as `recipe.data.Data.as_dict`.
        host_commit: of the host, where it is no package with a version.

    Raises: ValueError if the folder has a run already and ``settings.resume`` is not set, or a run of other settings
        or data.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        dataset: str,
        settings: Settings,
        data: dict[str, Any],
        host_commit: str | None = None,
    ) -> None:
        self.path = folder / FILE
        content: dict[str, Any] = {
            "host": host,
            "host_commit": host_commit,
            "dataset": dataset,
            "backbone": settings.backbone,
            "loss": settings.label,
            "strategy": repr(settings.build_strategy()),
            "seed": settings.seed,
            "settings": settings.as_dict() | {"precision": resolved_precision(settings)},
            "data": data,
            "evaluations": {},
            "host_linear": {},
            "curve": [],
            "times": {},
            "environments": [],
        }
        if not self.path.exists() and any(folder.glob("*.ckpt")):
            raise ValueError(f"output: expected checkpoints with their {FILE}, got some without it in {folder}")
        if self.path.exists():
            earlier = read_result(self.path)
            _check_same_run(earlier, content, folder, settings.resume)
            for kept in KEPT:
                content[kept] = earlier[kept]
        here = environment()
        if content["environments"][-1:] != [here]:
            content["environments"].append(here)
        self.content = content

    def has(self, epochs: int) -> bool:
        """Whether the network was evaluated after this many epochs."""
        return str(epochs) in self.content["evaluations"]

    def add_evaluation(self, epochs: int, probe: "ProbeAccuracy", knn: float, seconds: float) -> None:
        """Add the accuracies after this many epochs, in %."""
        self.content["evaluations"][str(epochs)] = {
            "probe_best": probe.best,
            "probe_last": probe.last,
            "probe_curve": probe.curve,
            "knn": knn,
            "seconds": round(seconds, 2),
        }

    def add_host_linear(self, epochs: int, evaluation: dict[str, Any]) -> None:
        """Add what the host's own linear evaluation, if it has one, says after this many epochs."""
        self.content["host_linear"][str(epochs)] = evaluation

    def set_curve(self, curve: list[dict[str, Any]], images_per_epoch: int) -> None:
        """Set the epochs, and what follows from them: the time, and the images that an epoch of median length saw."""
        self.content["curve"] = curve
        seconds = sorted(row["seconds"] for row in curve)
        if seconds:
            self.content["times"] = {
                "pretraining_seconds": round(sum(seconds), 2),
                "images_per_second": round(images_per_epoch / seconds[len(seconds) // 2], 1),
            }

    def save(self) -> None:
        """Write the file."""
        write_json(self.path, self.content)


def read_result(path: Path) -> dict[str, Any]:
    """Return the content of a result.

    Raises: ValueError if the file is not a result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"results: expected JSON in {path}, got something else: {error}") from error
    if not isinstance(content, dict) or not {*KEPT, *ALWAYS} <= content.keys():
        raise ValueError(f"results: expected the result of a recipe in {path}, got another JSON")
    return content


def _check_same_run(earlier: dict[str, Any], content: dict[str, Any], folder: Path, resume: bool) -> None:
    if not resume:
        raise ValueError(
            f"output: expected a folder without a run, got {folder}; --resume goes on with it, --output puts this "
            "one elsewhere"
        )
    old, new = {"schedule": "paper"} | _options(earlier), _options(content)  # which early results do not name
    harmless = [name for name in HARMLESS if name != "epochs" or new["schedule"] == "paper"]
    other = [
        f"{name}={old.get(name)} (now {value})"
        for name, value in new.items()
        if name not in harmless and old.get(name) != value
    ]
    other += other_images(earlier["data"], content["data"])
    if other:
        raise ValueError(f"resume: expected the settings of the run in {folder}, got others: {', '.join(other)}")


def _options(content: dict[str, Any]) -> dict[str, Any]:
    """Return all that makes a run: its settings, the library that trains, and what the options mean as pair weights."""
    weights = re.sub(ADDRESS, "", content["strategy"])
    return {**content["settings"], "host": content["host"], "weights": weights}


def counts_of(data: dict[str, Any]) -> str:
    """Say how many images there are.

    >>> counts_of({"train": 50000, "test": 10000, "unlabeled": 0})
    '50,000 train + 10,000 test'
    """
    return " + ".join(f"{data[split]:,} {split}" for split in SPLITS if data[split])


def other_images(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say how the images of a run differ from those that it had; nothing if their pixels and labels are the same."""
    same = earlier["sha256"] == now["sha256"]
    return [] if same else [f"other images ({_images(earlier)}; now {_images(now)})"]


def _images(data: dict[str, Any]) -> str:
    return f"{data['source']}, {counts_of(data)}, sha256 of the pixels {data['sha256'][:10]}"
