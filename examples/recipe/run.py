"""One recipe from the command line to its result: data, pretraining, evaluation at each milestone."""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
import tyro
from lightning.pytorch.utilities import rank_zero_only

from provenance import replace_file
from recipe import data as data_sets
from recipe import protocol
from recipe.evaluation import extract, knn_accuracy, probe
from recipe.pretraining import Pretraining
from recipe.results import Result
from recipe.settings import Settings
from recipe.training import LAST, device_of, loggers, quiet, train


def main(dataset: str, backbone: str, description: str) -> None:
    """Run a recipe with the options of the command line; an error of the user's is one line."""
    settings = tyro.cli(Settings, default=Settings(backbone=backbone), description=description)
    try:
        run(protocol.DATASETS[dataset], settings)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # between the trainings, each of which has its own answer
        sys.exit("interrupted; --resume goes on")


def run(dataset: protocol.Dataset, settings: Settings) -> Path:
    """Pretrain and evaluate; return the path of the result.

    Args:
        dataset: the data set and its augmentation.
        settings: all the rest.

    Raises: ValueError, FileNotFoundError before anything is trained, if the data or the folder of the run are not as
        expected; Stopped after SIGTERM or Ctrl-C.
    """
    quiet()
    first = _is_first_process()
    folder = folder_of(dataset.name, settings)
    data = data_sets.load(
        dataset,
        settings.data_root,
        settings.data_format,
        download=settings.download and first,
        classes=settings.classes,
        limit=settings.limit,
    )
    described = data.as_dict()
    if not first:  # its run exists already: the first process has made it
        settings = replace(settings, resume=True)
    result = Result(folder, "lightly", dataset.name, settings, described)
    if first:
        _say_what_is_missing(dataset, described)
        result.save()
    L.seed_everything(settings.seed, verbose=False)
    module = Pretraining(settings, dataset, data)
    if settings.compile:
        module.network.compile()
    logs = loggers(folder)
    for epochs in settings.milestones:
        if result.has(epochs):
            continue
        checkpoint = folder / f"epoch-{epochs}.ckpt"
        if not checkpoint.exists():
            trainer = train(module, folder, epochs, logs)
            if trainer.is_global_zero:
                replace_file(checkpoint, lambda part: shutil.copyfile(folder / LAST, part))
        if first:
            evaluate(module, checkpoint, result, epochs)
    return result.path


def folder_of(dataset: str, settings: Settings) -> Path:
    """Return the folder of one run: data set and backbone, loss and seed."""
    output = settings.output or Path(".runs") / f"{dataset}_{settings.backbone}"
    return output / f"{settings.label}-seed{settings.seed}"


def evaluate(module: Pretraining, checkpoint: Path, result: Result, epochs: int) -> None:
    """Judge the weights of a checkpoint, and write the result so far."""
    started = time.perf_counter()
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    device = device_of(module.settings)
    features = extract(module.network.to(device), module.data, device)
    accuracy, knn = probe(features, module.settings.seed), knn_accuracy(features)
    seconds = time.perf_counter() - started
    result.add_evaluation(epochs, accuracy, knn, seconds)
    result.set_curve(saved["recipe"]["curve"], len(module.steps) * module.settings.batch_size)
    result.save()
    print(
        f"after {epochs} epochs: linear probe {accuracy.best:.2f} % (best of {protocol.PROBE.epochs} epochs), "
        f"{accuracy.last:.2f} % (last), kNN {knn:.2f} %, in {seconds:.0f} s\nresult: {result.path}",
        flush=True,
    )


def _is_first_process() -> bool:
    """Whether this is process 0 of machine 0: the one that writes and evaluates."""
    machine = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return not getattr(rank_zero_only, "rank", 0) and int(machine) == 0


def _say_what_is_missing(dataset: protocol.Dataset, described: dict[str, object]) -> None:
    counts = ", ".join(f"{described[split]:,} {split}" for split in data_sets.SPLITS if described[split])
    print(f"{dataset.name} ({described['source']}): {counts} images", flush=True)
    short = [
        f"{described[split]:,} of {getattr(dataset, split):,} {split}"
        for split in data_sets.SPLITS
        if described[split] != getattr(dataset, split)
    ]
    if short:
        print(f"note: not the whole of {dataset.name}: {', '.join(short)} images", flush=True)
