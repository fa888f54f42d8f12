"""Runs that lose nothing: checkpoints that are whole or absent, and a signal that ends a run after its step."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from provenance import replace_file

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""SIGUSR1 is what SLURM is usually told to send before a job's time is over."""


class Stopped(SystemExit):
    """A signal has ended the run; its code is the shell's for that signal."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside their final name, then renamed: a crash leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to a local path."""
        path = Path(path)
        replace_file(path, lambda part: _save(checkpoint, part))


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's own writer hides the system's answer
        cause = error if isinstance(error, OSError) else error.__context__
        why = cause.strerror if isinstance(cause, OSError) else error
        raise OSError(f"output: expected room for a checkpoint in {path.parent}: {why}") from error


class StopAfterStep(Callback):
    """On SIGTERM, SIGUSR1 or Ctrl-C, on whichever process, end all of them after the current step, with a checkpoint.

    Args:
        checkpoint: where to write it.

    Raises: Stopped, from the training loop.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.received: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take the signals from Lightning, which would end the step in its middle or without a checkpoint."""
        self.previous = {which: signal.signal(which, self._note) for which in SIGNALS}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop, if told to; the last step of an epoch is followed by the end of that epoch first."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._stop_if_told(trainer, save=True)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop between two epochs: the checkpoint of the one before is there."""
        self._stop_if_told(trainer, save=False)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop before what follows the training; the checkpoint of its last epoch is there."""
        self._give_back()
        self._stop_if_told(trainer, save=False)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for which, handler in self.previous.items():
            signal.signal(which, handler)
        self.previous = {}

    def _note(self, received: int, frame: FrameType | None) -> None:
        if self.received is None:
            print(f"\n{signal.Signals(received).name}: stopping after this step ...", flush=True)
        self.received = received

    def _stop_if_told(self, trainer: L.Trainer, *, save: bool) -> None:
        told = self.received is not None
        if trainer.world_size > 1:  # the processes agree, at the cost of one number each step
            told = trainer.strategy.reduce_boolean_decision(told, all=False)
        if not told:
            return
        if save:
            trainer.save_checkpoint(self.checkpoint)
        if trainer.is_global_zero:
            print(f"stopped in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}; --resume goes on")
        raise Stopped(128 + (self.received or signal.SIGTERM))
