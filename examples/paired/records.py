"""The folder of a study: study.json says what its runs have in common, runs/*/*.json has one run each."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paired.budget import Costs
from paired.images import Parts
from paired.losses import Loss
from paired.run import Kind, Protocol, Run, settings_of
from provenance import write_json
from recipe.results import other_images

STUDY = "study.json"
RUNS = "runs"
Content = dict[str, Any]


class Records:
    """What is kept of a study.

    Args:
        folder: of the study.

    Raises: ValueError if a file in it is not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study: Content = read(folder / STUDY) if (folder / STUDY).exists() else {}
        paths = sorted((folder / RUNS).glob("*/*.json"))
        self.runs: dict[str, Content] = {f"{path.parent.name}/{path.stem}": read_run(path) for path in paths}
        if self.runs and not self.study:
            raise ValueError(f"output: expected {STUDY} beside {RUNS}/, got none in {folder}")

    def begin(self, asked: Protocol, data: dict[str, Any]) -> None:
        """Check that a study may go on here.

        Raises: ValueError if the folder has a study of other settings or other images.
        """
        if not self.study:
            self.study = {"asked": asdict(asked), "data": data, "plans": []}
            return
        other = [
            f"{name}={self.study['asked'].get(name)} (now {value})"
            for name, value in asdict(asked).items()
            if self.study["asked"].get(name) != value
        ]
        for part in ("judging", "tuning"):
            other += other_images(self.study["data"][part], data[part])
        if other:
            raise ValueError(
                f"output: expected the settings of the study in {self.folder}, got others: {', '.join(other)}; "
                "--output DIR begins another study"
            )

    @property
    def protocol(self) -> Protocol | None:
        """What the runs have in common; None before it was planned."""
        return Protocol(**self.study["protocol"]) if "protocol" in self.study else None

    @property
    def costs(self) -> Costs:
        """The times that were measured."""
        return Costs(**self.study["costs"])

    def set_protocol(self, protocol: Protocol, costs: Costs) -> None:
        """Note what the runs have in common, and the times that were measured."""
        self.study |= {"protocol": asdict(protocol), "costs": costs._asdict()}

    def planned_seeds(self, request: Content) -> int | None:
        """Return the seeds that were planned when the same was asked for; None if it was not."""
        return next((plan["seeds"] for plan in self.study["plans"] if plan["request"] == request), None)

    def add_plan(self, request: Content, seeds: int) -> None:
        """Note a plan, and write study.json."""
        if self.planned_seeds(request) is None:
            self.study["plans"].append({"request": request, "seeds": seeds})
        write_json(self.folder / STUDY, self.study)

    def has(self, run: Run) -> bool:
        """Whether a run is done."""
        return run.name in self.runs

    def save(self, run: Run, content: Content) -> None:
        """Write the JSON of a run, whole or not at all."""
        path = self.folder / RUNS / f"{run.name}.json"
        shown = Path("OUTPUT", RUNS, f"{run.name}.json") if path.is_absolute() else path
        command = f"python examples/study.py --data-root DIR --run {shown.as_posix()}"
        content = {"command": command, **content}
        write_json(path, content)
        self.runs[run.name] = content

    def check(self, run: Run, protocol: Protocol) -> None:
        """Raise ValueError if the run of this name was another one."""
        if self.has(run) and any(self.runs[run.name][key] != value for key, value in _plain(run, protocol).items()):
            raise ValueError(f"output: expected {run.name}.json of this study, got another run")

    def probes(self) -> dict[tuple[Loss, int], float]:
        """Return the accuracy of the probe in each tuning run."""
        return {(Loss.of(content), content["seed"]): content["probe"] for content in self.of("tuning")}

    def of(self, *kinds: Kind) -> list[Content]:
        """Return the runs of these kinds."""
        return [content for content in self.runs.values() if content["kind"] in kinds]


def describe(parts: Parts) -> dict[str, Any]:
    """Return what a study says of its images."""
    return {"tuning": parts.tuning.as_dict(), "judging": parts.judging.as_dict()}


def read_run(path: Path) -> Content:
    """Return the content of a run.

    Raises: ValueError if the file is not the JSON of a run.
    """
    content = read(path)
    if not {"kind", "row", "loss", "seed", "protocol", "data", "pairing", "probe", "knn", "curve"} <= content.keys():
        raise ValueError(f"run: expected the JSON of a run of study.py, got another one: {path}")
    return content


def read(path: Path) -> Content:
    """Return the content of a JSON file.

    Raises: ValueError if the file does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"output: expected JSON in {path}, got something else: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"output: expected a JSON object in {path}, got another one")
    return content


def _plain(run: Run, protocol: Protocol) -> Content:
    """Return the settings as JSON gives them back."""
    plain: Content = json.loads(json.dumps(settings_of(run, protocol)))
    return plain
