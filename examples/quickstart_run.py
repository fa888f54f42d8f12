"""The quickstart from its options to the report: check, train for each seed, judge."""

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning import seed_everything
from rich.console import Console
from threadpoolctl import threadpool_limits

from alphacl_lightly import AlphaCLLoss
from launched import ONE_PROCESS, check_launched
from provenance import check_writable
from quickstart_data import Images, load_digits, load_folder
from quickstart_evaluation import evaluate
from quickstart_picture import draw_embeddings, draw_picture
from quickstart_report import UNTRAINED, Run, print_table, save_json
from quickstart_settings import Settings
from quickstart_training import Network, Training, augmentation, fingerprint, fit


def main(settings: Settings) -> list[Run]:
    """Train, judge, report; returns the runs, seed by seed: untrained, InfoNCE, α-CL."""
    return run(settings, prepare(settings))


def prepare(settings: Settings) -> Images:
    """Load the images, and refuse settings that cannot work before anything is trained.

    Raises: ValueError, TypeError, OSError that name the setting and what was expected of it.
    """
    for name in ("epochs", "seeds", "image_size", "limit", "threads"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected an int >= 1, got {value}")
    if settings.batch_size < 2:
        raise ValueError(f"batch_size: expected an int >= 2, got {settings.batch_size}")
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"learning_rate: expected a finite number > 0, got {settings.learning_rate}")
    losses(settings)
    if settings.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"accelerator: expected cpu, mps or auto where there is no GPU, got {settings.accelerator}")
    check_launched(1, ONE_PROCESS)
    check_writable(settings.output)
    if settings.data_root is None:
        images = load_digits(settings.image_size or 8, settings.limit)
    else:
        images = load_folder(settings.data_root, settings.image_size or 32, settings.limit)
    Network(settings.backbone, images)
    return images


def effective(settings: Settings, images: Images) -> Settings:
    """Fill in what depends on the images: the batch is at most all of them, and digits take one thread."""
    threads = settings.threads or (None if images.photos else 1)
    return replace(settings, batch_size=min(settings.batch_size, len(images.train)), threads=threads)


def losses(settings: Settings) -> dict[str, AlphaCLLoss]:
    """Return the two losses that are compared, by the name of their row."""
    options: dict[str, Any] = {} if settings.tau is None else {"tau": settings.tau}
    return {
        "InfoNCE": AlphaCLLoss("infonce", tau=settings.infonce_tau),
        f"α-CL {settings.strategy}": AlphaCLLoss(settings.strategy, **options),
    }


def run(settings: Settings, images: Images) -> list[Run]:
    """Train and judge for each seed, then write the report."""
    started = time.perf_counter()
    console = Console(width=None if sys.stdout.isatty() else 100)
    settings = effective(settings, images)
    console.print(f"{images.description}\n{settings.backbone}, {settings.epochs} epochs, batch {settings.batch_size}")
    runs: list[Run] = []
    with threadpool_limits(settings.threads):
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            for result in run_seed(settings, images, seed):
                runs.append(result)
                console.print(progress_line(result), highlight=False)
        print_table(console, runs)
        save_json(
            settings.output / "quickstart.json",
            runs,
            settings=asdict(settings),
            data=images.description,
            seconds=time.perf_counter() - started,
        )
        draw_picture(settings.output / "quickstart.png", runs, settings.batch_size)
        draw_embeddings(settings.output / "embeddings.png", runs, images)
    console.print(
        f"Pictures and numbers: {settings.output}/quickstart.png, embeddings.png, quickstart.json", highlight=False
    )
    return runs


def progress_line(result: Run) -> str:
    """Return the line that is printed when one network is done."""
    trained = f", trained in {result.train_seconds:.0f} s" if result.curves else ""
    return f"seed {result.seed}  {result.method}: linear probe {result.scores.probe_all:.1f} %{trained}"


def run_seed(settings: Settings, images: Images, seed: int) -> Iterator[Run]:
    """Judge one untrained network, then train a copy of it with each loss."""
    seed_everything(seed, verbose=False)
    start = Network(settings.backbone, images)
    augment = augmentation(images)
    scores, features = evaluate(start, images, augment, seed)
    yield Run(UNTRAINED, seed, fingerprint(start), 0.0, scores, [], features)
    for method, loss in losses(settings).items():
        network = copy.deepcopy(start).train()
        initial = fingerprint(network)
        training = Training(network, loss, augment, settings.learning_rate)
        began = time.perf_counter()
        history = fit(training, images, settings.epochs, settings.batch_size, seed, settings.accelerator)
        seconds = time.perf_counter() - began
        scores, features = evaluate(network.cpu(), images, augment, seed)
        yield Run(method, seed, initial, seconds, scores, training.curves, features, history)
