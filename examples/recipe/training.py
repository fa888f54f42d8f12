"""Lightning's Trainer for a recipe: checkpoints, logs, devices, precision."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from launched import without_requeue
from recipe.devices import device_of, precision_of
from recipe.pretraining import Pretraining
from recipe.stopping import AtomicCheckpointIO, StopAfterStep

LAST = "last.ckpt"


class Progress(RichProgressBar):
    """Lightning's bar, which counts epochs from 1 up to those of the run, and shows what is of use here."""

    def __init__(self, epochs: int) -> None:
        super().__init__(refresh_rate=20, leave=False)
        self.epochs = epochs

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.epochs}"

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        """The loss, without the name of the logger's folder."""
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}


def train(module: Pretraining, folder: Path, epochs: int, loggers: list[Logger]) -> L.Trainer:
    """Train up to an epoch, from the last checkpoint in the folder if there is one.

    Args:
        module: is trained in place.
        folder: of the run; holds last.ckpt after each epoch, and after a signal.
        epochs: how many in all, earlier ones included.
        loggers: Lightning's.

    Raises: Stopped after SIGTERM or Ctrl-C; ValueError if the checkpoint is beyond that epoch.
    """
    settings, last = module.settings, folder / LAST
    _check_not_beyond(last, epochs)
    gpu = device_of(settings).type == "cuda"
    callbacks: list[Callback] = [
        StopAfterStep(last),
        ModelCheckpoint(folder, last.stem, enable_version_counter=False, save_on_train_epoch_end=True),
    ]
    if sys.stdout.isatty():
        callbacks.append(Progress(settings.epochs))
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cuda" if gpu else "cpu",
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy="ddp" if settings.world_size > 1 else "auto",
        precision=precision_of(settings),
        benchmark=gpu,
        sync_batchnorm=gpu and settings.world_size > 1,
        use_distributed_sampler=False,  # each process takes its own part of a batch
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *without_requeue()],
        default_root_dir=folder,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
    )
    trainer.fit(module.train(), ckpt_path=last if last.exists() else None)
    return trainer


def _check_not_beyond(last: Path, epochs: int) -> None:
    if not last.exists():
        return
    saved = read_checkpoint(last)["recipe"]
    whole, begun = len(saved["curve"]), bool(saved["sums"])
    if whole + begun > epochs:
        where = f"in epoch {whole + 1}" if begun else f"after epoch {whole}"
        raise ValueError(
            f"eval_epochs: expected epochs that are still to come, got {epochs}; the run is {where}, and earlier "
            "weights were not kept"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of a recipe, on the CPU.

    Raises: ValueError if the file is not a checkpoint of a recipe, or is incomplete.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # PyTorch raises errors of many kinds for such a file
        raise ValueError(f"resume: expected a checkpoint, got a file that cannot be read as one: {path}") from error
    if not isinstance(saved, dict) or "recipe" not in saved:
        raise ValueError(f"resume: expected a checkpoint of a recipe, got another one: {path}")
    return saved


def check_finite(saved: dict[str, Any], path: Path) -> None:
    """Raise ValueError if a weight in the content of a checkpoint is not finite: the training diverged."""
    if not all(value.isfinite().all() for value in saved["state_dict"].values()):
        raise ValueError(f"weights: expected finite numbers, got others in {path}; the training has diverged")


def loggers(folder: Path) -> list[Logger]:
    """Return the logs of a run: TensorBoard's, and a CSV file for each time that it was started."""
    return [TensorBoardLogger(folder, name="", version="tensorboard"), CSVLogger(folder, name="csv")]
