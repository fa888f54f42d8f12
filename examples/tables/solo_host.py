"""One cell of the paper's tables by solo-learn: its scripts with the config of this package, then this recipe's probe.

    python -m tables.solo_host --dataset cifar10 --data-root DIR [options of a recipe]     in the folder examples/

`examples/reproduce.py --host solo-learn` starts this. The result has the form of a lightly run. The scripts come from a
clone of solo-learn in the folder SOLO_LEARN_HOME (default: ~/solo-learn).
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from command_line import in_one_line

import numpy as np
import torch
import tyro

from alphacl_solo_learn.backbones import CUSTOM_SIZE
from provenance import commit, held
from recipe import data as data_sets
from recipe import protocol
from recipe.data import Data
from recipe.devices import check_device, device_of, precision_of
from recipe.evaluation import extract, knn_accuracy, probe
from recipe.network import Network
from recipe.pretraining import Steps
from recipe.results import Result
from recipe.settings import LOSSES, Settings
from tables.children import run_child
from tables.solo_images import ImageFolders, write_images
from tables.solo_logs import accuracies, curve, latest_checkpoint
from tables.solo_settings import SoloLearn, solo_learn_home

NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4914, 0.4823, 0.4466), (0.2470, 0.2430, 0.2610)),
}
"""Mean and standard deviation of the channels, as solo-learn pretrains on these data sets; images from a folder too."""


@dataclass(frozen=True)
class CommandLine:
    """One cell, by solo-learn."""

    dataset: Literal["cifar10", "cifar100", "stl10"]
    settings: Settings
    solo_learn: SoloLearn


def main() -> None:
    """Run a cell with the options of the command line."""
    line = tyro.cli(CommandLine, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    with in_one_line(goes_on="--resume goes on"):
        run(protocol.DATASETS[line.dataset], line.settings, line.solo_learn)


def run(dataset: protocol.Dataset, settings: Settings, host: SoloLearn) -> Path:
    """Pretrain and evaluate by solo-learn, then judge its checkpoint by the recipe's probe; return the result's path.

    Args:
        dataset: the data set.
        settings: of the recipe.
        host: the rest.

    Raises: ValueError, FileNotFoundError before anything is trained, if solo-learn, the settings, the data or the
        folder of the run are not as expected; ChildProcessError if a script fails; Stopped after SIGTERM or Ctrl-C.
    """
    home = solo_learn_home()
    _check_possible(settings)
    check_device(settings)
    folder = replace(settings, output=settings.output or Path(".runs/solo-learn")).folder(dataset.name)
    with held(folder):
        return _run_in(folder, home, dataset, settings, host)


def _run_in(folder: Path, home: Path, dataset: protocol.Dataset, settings: Settings, host: SoloLearn) -> Path:
    data = data_sets.load(dataset, **settings.reading)
    data.check_labelled()
    settings = replace(settings, schedule=settings.schedule_for(own=data.own))
    described = data.as_dict()
    steps = Steps(len(data.pretraining()), settings.batch_size)
    result = Result(folder, "solo-learn", dataset.name, settings, described, host_commit=commit(home))
    result.save()
    images = None
    if settings.limit is not None or not data.source.startswith("torchvision"):
        images = write_images(data, folder.parent / f"images-{described['sha256'][:12]}")
    cell = _Cell(home, folder, dataset, settings, host, images)
    for epochs in settings.milestones:
        if result.has(epochs):
            continue
        checkpoint = cell.pretrained(epochs)
        if host.linear_epochs and str(epochs) not in result.content["host_linear"]:
            batch_size = min(protocol.PROBE.batch_size, len(data.train))
            result.add_host_linear(epochs, cell.linear(checkpoint, batch_size))
            result.save()
        _judge(cell, checkpoint, data, len(steps), result, epochs)
    return result.path


def _check_possible(settings: Settings) -> None:
    for name, only in (("devices", 1), ("num_nodes", 1), ("compile", False), ("memory_bank_size", 0)):
        if getattr(settings, name) != only:
            raise ValueError(f"{name}: expected {only} with solo-learn, got {getattr(settings, name)}")


@dataclass(frozen=True)
class _Cell:
    """The scripts of solo-learn for one run, each in a process of its own."""

    home: Path
    folder: Path
    dataset: protocol.Dataset
    settings: Settings
    host: SoloLearn
    images: ImageFolders | None
    """None: solo-learn reads torchvision's files."""

    @property
    def logs(self) -> Path:
        return self.folder / "solo-learn"

    @property
    def checkpoints(self) -> Path:
        return self.logs / "checkpoints"

    @property
    def config(self) -> str:
        """The name of the shipped config; the backbone is then set."""
        width = "resnet50" if self.settings.backbone.startswith("resnet50") else "resnet18"
        return f"alphacl_{self.dataset.name}_{width}"

    def pretrained(self, epochs: int) -> Path:
        """Return the checkpoint after this many epochs; train up to there first if need be."""
        checkpoint = self.folder / f"epoch-{epochs}.ckpt"
        if checkpoint.exists():
            return checkpoint
        trained, last = latest_checkpoint(self.folder) or (0, None)
        if trained > epochs:
            raise ValueError(
                f"eval_epochs: expected epochs after {trained}, where the run is, got {epochs}; its weights were not "
                "kept"
            )
        if trained < epochs:
            if last is not None:
                print(f"resumed in epoch {trained + 1}", flush=True)
            self._run("main_pretrain.py", self.config, self.pretraining_options(epochs, trained, last))
            trained, last = latest_checkpoint(self.folder) or (0, None)
        if trained != epochs or last is None:
            raise ChildProcessError(
                f"main_pretrain.py: expected a checkpoint after {epochs} epochs, got one after {trained}"
            )
        os.replace(last, checkpoint)
        return checkpoint

    def pretraining_options(self, epochs: int, trained: int, last: Path | None) -> dict[str, Any]:
        """Return the options of main_pretrain.py: the row's loss, and everything that is not as in the config."""
        settings = self.settings
        options = {
            "name": "cell",
            "backbone.name": f"timm/{settings.backbone}",
            "max_epochs": epochs,
            "scheduler.schedule": settings.schedule,
            "scheduler.epochs": settings.epochs,
            "+seed": _seed(settings.seed, trained),
            "optimizer.batch_size": settings.batch_size,
            "optimizer.lr": settings.first_rate * 256 / settings.batch_size,  # solo-learn multiplies by batch / 256
            "checkpoint.dir": self.checkpoints,
            **self._loss(),
            **self._common(self.logs),
        }
        if last is not None:
            options["+resume_from_checkpoint"] = last
        if self.images is not None:
            mean, std = NORMALIZATION[self.dataset.name]
            options |= {
                "data.dataset": "custom",
                "data.train_path": self.images.pretraining,
                "data.val_path": None,  # it would be at 224 px
                "+augmentations.0.mean": mean,
                "+augmentations.0.std": std,
            }
        return options

    def linear(self, checkpoint: Path, batch_size: int) -> dict[str, Any]:
        """Run solo-learn's own linear evaluation; return its test accuracies in %."""
        folder = self.logs / f"linear-{checkpoint.stem}"
        shutil.rmtree(folder, ignore_errors=True)  # cut off
        options = {
            "name": "linear",
            "backbone.name": f"timm/{self.settings.backbone}",
            "pretrained_feature_extractor": checkpoint.resolve(),
            "max_epochs": self.host.linear_epochs,
            "+seed": self.settings.seed,
            "optimizer.batch_size": batch_size,
            "optimizer.lr": protocol.PROBE.learning_rate * 256 / batch_size,
            "checkpoint.enabled": False,
            "+num_sanity_val_steps": 0,
            **self._common(folder),
        }
        if self.images is not None:
            options |= {
                "data.dataset": "custom",
                "data.train_path": self.images.train,
                "data.val_path": self.images.test,
            }
        started = time.perf_counter()
        self._run("main_linear.py", f"{self.config}_linear", options)
        values = accuracies(folder)
        return {
            "best": max(values),
            "last": values[-1],
            "curve": values,
            "epochs": self.host.linear_epochs,
            "image_size": CUSTOM_SIZE if self.images is not None else self.dataset.image_size,
            "seconds": round(time.perf_counter() - started, 2),
        }

    def _loss(self) -> dict[str, Any]:
        settings = self.settings
        strategy, loss_options = (settings.strategy, {}) if settings.loss is None else LOSSES[settings.loss]
        values = {"strategy": strategy, **settings.strategy_options, **settings.comparison, **loss_options}
        return {f"loss.{name}": value for name, value in values.items()}

    def _common(self, logs: Path) -> dict[str, Any]:
        return {
            "data_root": self.settings.data_root.resolve(),
            "data.num_workers": self.host.workers,
            "accelerator": "gpu" if device_of(self.settings).type == "cuda" else "cpu",
            "+precision": precision_of(self.settings),
            "run_folder": logs,
            "+default_root_dir": logs,
            "+enable_model_summary": False,
            "+enable_progress_bar": sys.stdout.isatty(),
        }

    def _run(self, script: str, config: str, options: dict[str, Any]) -> None:
        overrides = list(_overrides(options))
        print(f"solo-learn: {script} --config-name {config} {' '.join(overrides)}", flush=True)
        command = [sys.executable, str(self.home / script), "--config-name", config, *overrides]
        code = run_child(command, {"PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore")})
        if code:
            raise ChildProcessError(f"{script}: expected exit code 0, got {code}; its messages are above")


def _overrides(options: dict[str, Any]) -> Iterator[str]:
    """Options as Hydra reads them."""
    for name, value in options.items():
        if value is None or isinstance(value, bool):
            text = {None: "null", True: "true", False: "false"}[value]
        elif isinstance(value, tuple):
            text = f"[{','.join(map(str, value))}]"
        elif isinstance(value, Path):
            escaped = str(value.absolute()).replace("'", r"\'")
            text = f"'{escaped}'"
        else:
            text = str(value)
        yield f"{name}={text}"


def _seed(seed: int, trained: int) -> int:
    """Another seed after each resumption: solo-learn would draw the views of its first epochs again."""
    return seed if trained == 0 else int(np.random.SeedSequence([seed, trained]).generate_state(1)[0])


def _judge(cell: _Cell, checkpoint: Path, data: Data, steps: int, result: Result, epochs: int) -> None:
    """Judge a checkpoint of solo-learn by the recipe's probe, and write the result so far."""
    started = time.perf_counter()
    device = device_of(cell.settings)
    features = extract(trained_network(checkpoint, cell.dataset, cell.settings, data.size).to(device), data, device)
    accuracy, knn = probe(features, cell.settings.seed), knn_accuracy(features)
    seconds = time.perf_counter() - started
    result.add_evaluation(epochs, accuracy, knn, seconds)
    result.set_curve(curve(cell.logs, cell.checkpoints), steps * cell.settings.batch_size)
    result.save()
    print(
        f"after {epochs} epochs of solo-learn: linear probe {accuracy.best:.2f} % (best of {protocol.PROBE.epochs} "
        f"epochs), {accuracy.last:.2f} % (last), kNN {knn:.2f} %, in {seconds:.0f} s\nresult: {result.path}",
        flush=True,
    )


def trained_network(checkpoint: Path, dataset: protocol.Dataset, settings: Settings, image_size: int) -> Network:
    """Return the backbone of a checkpoint of solo-learn, behind the normalisation that it was trained with."""
    network = Network(settings.backbone, image_size, *NORMALIZATION[dataset.name])
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "backbone."
    weights = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
    weights.pop("built_for")  # what the adapter notes for solo-learn's other scripts
    network.backbone.load_state_dict(weights)
    return network


if __name__ == "__main__":
    main()
