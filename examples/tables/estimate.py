"""How long a cell may take, from the speed of runs that are done; an estimate, which goes to the terminal alone."""

from collections import defaultdict
from datetime import timedelta
from statistics import median

from provenance import environment
from recipe import protocol
from recipe.devices import device_of
from tables.cells import Cell, Content, read
from tables.kept import Run

Key = tuple[str, str, int, str]
"""Host, backbone, image size, hardware."""


class Speeds:
    """Images per second in pretraining, by host, backbone, image size and hardware.

    Args:
        runs: what is kept.
    """

    def __init__(self, runs: list[Run]) -> None:
        self.measured: dict[Key, list[float]] = defaultdict(list)
        for run in (run.content for run in runs):
            if run["times"]:
                key = (run["host"], run["backbone"], run["data"]["image_size"], hardware(run))
                self.measured[key].append(run["times"]["images_per_second"])

    def seconds(self, cell: Cell) -> float | None:
        """Return the seconds of the epochs that are left, without evaluations; None if there is no measurement."""
        dataset, settings = protocol.DATASETS[cell.dataset], cell.settings
        here = environment()
        device = here["gpu"] if device_of(settings).type == "cuda" else here["processor"]
        speeds = self.measured.get((cell.host, settings.backbone, dataset.image_size, device))
        if not speeds:
            return None
        limit = settings.limit or dataset.train + dataset.unlabeled
        images = cell.images() or min(dataset.train, limit) + min(dataset.unlabeled, limit)
        batches = images // settings.batch_size
        judged = read(cell.result).get("evaluations", {})
        epochs = max(0, settings.epochs - max([0, *cell.done(), *map(int, judged)]))
        return epochs * batches * settings.batch_size / median(speeds)


def hardware(run: Content) -> str:
    """Return where a run was trained, last: the name of the GPU or of the processor."""
    return str(run["environments"][-1]["gpu" if on_gpu(run) else "processor"])


def on_gpu(run: Content) -> bool:
    """Return whether a run was trained on a GPU."""
    return run["environments"][-1]["gpu"] is not None and run["settings"]["device"] != "cpu"


def in_words(seconds: float | None) -> str:
    """Return a time for the terminal.

    >>> in_words(4000)
    'estimate: 1:07:00'
    """
    return "no measurement yet" if seconds is None else f"estimate: {timedelta(minutes=max(1, round(seconds / 60)))}"
