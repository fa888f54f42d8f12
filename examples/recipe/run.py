"""One recipe from its options to its result: data, pretraining, evaluation at each milestone."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from launched import quiet
from provenance import held, replace_file
from recipe import data as data_sets
from recipe import protocol
from recipe.devices import check_device, device_of
from recipe.evaluation import extract, knn_accuracy, probe
from recipe.pretraining import Pretraining
from recipe.results import Result, counts_of
from recipe.settings import Settings
from recipe.training import LAST, check_finite, loggers, read_checkpoint, train


def run(dataset: protocol.Dataset, settings: Settings) -> Path:
    """Pretrain and evaluate; return the path of the result.

    Args:
        dataset: the data set and its augmentation.
        settings: all the rest.

    Raises: ValueError, OSError before anything is trained, if the data, the device or the folder of the run are not as
        expected; OSError if a file cannot be written; Stopped after SIGTERM or Ctrl-C.
    """
    quiet()
    check_device(settings)
    folder = settings.folder(dataset.name)
    if not _is_first_process():  # of several; the first holds the folder, and has made the run
        return _pretrain_and_evaluate(dataset, replace(settings, resume=True, download=False), folder, first=False)
    with held(folder):
        return _pretrain_and_evaluate(dataset, settings, folder, first=True)


def _pretrain_and_evaluate(dataset: protocol.Dataset, settings: Settings, folder: Path, *, first: bool) -> Path:
    data = data_sets.load(dataset, **settings.reading)
    settings = replace(settings, schedule=settings.schedule_for(own=data.own))
    described = data.as_dict()
    result = Result(folder, "lightly", dataset.name, settings, described)
    L.seed_everything(settings.seed, verbose=False)
    module = Pretraining(settings, dataset, data)
    if settings.compile:
        module.network.compile()
    if first:
        _describe(dataset, described, own=settings.classes is not None or not data.labelled)
        if module.warning is not None:
            print(f"note: {module.warning}", flush=True)
        result.save()
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


def evaluate(module: Pretraining, checkpoint: Path, result: Result, epochs: int) -> None:
    """Judge the weights of a checkpoint, if there are labels, and write the result so far."""
    started = time.perf_counter()
    saved = read_checkpoint(checkpoint)
    result.set_curve(saved["recipe"]["curve"], len(module.steps) * module.settings.batch_size)
    if not module.data.labelled:
        check_finite(saved, checkpoint)
        result.save()
        print(f"after {_epochs(epochs)}: no evaluation, as there are no labels\nresult: {result.path}", flush=True)
        return
    print(f"after {_epochs(epochs)}: features, linear probe, kNN ...", flush=True)
    module.load_state_dict(saved["state_dict"])
    device = device_of(module.settings)
    features = extract(module.network.to(device), module.data, device)
    accuracy, knn = probe(features, module.settings.seed), knn_accuracy(features)
    seconds = time.perf_counter() - started
    result.add_evaluation(epochs, accuracy, knn, seconds)
    result.save()
    print(
        f"after {_epochs(epochs)}: linear probe {accuracy.best:.2f} % (best of {protocol.PROBE.epochs} epochs), "
        f"{accuracy.last:.2f} % (last), kNN {knn:.2f} %, in {seconds:.0f} s\nresult: {result.path}",
        flush=True,
    )


def _is_first_process() -> bool:
    """Whether this is process 0 of machine 0: the one that writes and evaluates."""
    machine = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return not getattr(rank_zero_only, "rank", 0) and int(machine) == 0


def _epochs(n: int) -> str:
    return "1 epoch" if n == 1 else f"{n} epochs"


def _describe(dataset: protocol.Dataset, described: dict[str, object], *, own: bool) -> None:
    """Print what was read and, for a data set of the paper, how many of its images are missing."""
    name = f"data of your own, as {dataset.name}" if own else dataset.name
    print(f"{name} ({described['source']}): {counts_of(described)} images", flush=True)
    short = [
        f"{described[split]:,} of {getattr(dataset, split):,} {split}"
        for split in protocol.SPLITS
        if described[split] != getattr(dataset, split)
    ]
    if short and not own:
        print(f"note: not the whole of {dataset.name}: {', '.join(short)} images", flush=True)
