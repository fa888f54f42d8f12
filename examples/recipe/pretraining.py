"""Contrastive pretraining as a Lightning module: lightly's loss, kornia's views on the device, the paper's rate."""

import time
from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from alphacl_solo_learn.schedule import early_zero, relative_rate
from recipe import protocol
from recipe.augmentation import augmentation
from recipe.data import Data
from recipe.evaluation import extract, knn_accuracy
from recipe.network import Network
from recipe.settings import Settings

LOG_EVERY = 10
"""Steps between two values in the progress bar; to log each of them would take a good part of a GPU's step."""
LOOK_EVERY = 50
"""Steps between two looks at the statistics of the loss, each a pass of its own; an epoch begins with one."""


class Steps:
    """The steps of an epoch, by number: which images a step sees follows from seed, epoch and number (`Pretraining`).

    So there is no state to save, and Lightning may begin anywhere.

    Args:
        images: of the training set; those that do not fill a batch are left out.
        batch_size: over all processes.

    Raises: ValueError if there are fewer images than one batch needs.
    """

    def __init__(self, images: int, batch_size: int) -> None:
        if images < batch_size:
            raise ValueError(f"batch_size: expected at most the number of training images, {images}, got {batch_size}")
        self.n = images // batch_size

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))

    def state_dict(self) -> dict[str, Any]:
        """Return no state. Lightning resumes within an epoch only if this method exists."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class Pretraining(L.LightningModule):
    """Two views of each image, each through the network by itself (so with batch statistics of its own), and the loss.

    All that is random in a step is drawn from a seed made of the run's seed, the epoch, the step and the process, so a
    run that is resumed anywhere goes on as if it had not stopped. The learning rate is a function of the epoch.

    Args:
        settings: the run.
        dataset: how images are normalised and augmented.
        data: images, as uint8 on the device if at most half of its free memory goes for that, else sent as needed.

    Raises: ValueError if there are fewer images than one batch needs.
    """

    def __init__(self, settings: Settings, dataset: protocol.Dataset, data: Data) -> None:
        super().__init__()
        self.settings = settings
        self.schedule = settings.schedule_for(own=data.own)
        self.data = data
        self.images = data.pretraining()
        self.steps = Steps(len(self.images), settings.batch_size)
        self.network = Network(settings.backbone, data.size, dataset.mean, dataset.std)
        self.criterion = settings.criterion()
        self.augment = augmentation(dataset.augmentation, data.size)
        self.curve: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}  # of what is logged, over the steps of this epoch that were looked at
        self._seconds = 0.0  # spent in this epoch before the run was resumed
        self._began = 0.0
        self._ahead: tuple[tuple[int, int], Tensor] | None = None  # (epoch, chunk) and its views

    def train_dataloader(self) -> Steps:
        """Return the steps of an epoch."""
        return self.steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as the paper."""
        return torch.optim.Adam(self.parameters(), lr=self.settings.first_rate)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        relative = relative_rate(self.schedule, epoch, batches=len(self.steps), epochs=self.settings.epochs)
        return self.settings.first_rate * relative

    @property
    def warning(self) -> str | None:
        """What to tell before the training starts, if its learning rate reaches 0 too early."""
        return early_zero(self.schedule, batches=len(self.steps), epochs=self.settings.epochs)

    def on_train_start(self) -> None:
        """Put the images where the steps find them quickly."""
        if self.global_step:
            self.print(f"resumed in epoch {self.current_epoch + 1}, after step {self.global_step}")
        self._began = time.perf_counter()
        if self.device.type == "cuda" and self.images.nbytes <= torch.cuda.mem_get_info(self.device)[0] / 2:
            self.images = self.images.to(self.device)

    def on_train_batch_start(self, batch: int, batch_index: int) -> None:
        """Set the learning rate."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(self.current_epoch)

    def training_step(self, batch: int, batch_index: int) -> Tensor:
        """Compute the loss of one batch."""
        view, view_aug = self._views(batch_index)
        self._draw_from(self._seed("step", batch_index, self.global_rank))  # for dropout and the like
        loss: Tensor = self.criterion(self.network(view), self.network(view_aug))
        logged = {"loss": loss.detach()}
        if batch_index % LOOK_EVERY == 0:
            logged |= self.criterion.last_stats
        for name, value in logged.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.double()
        if (self.global_step + 1) % LOG_EVERY == 0:
            self.log("loss", loss.detach(), prog_bar=True, batch_size=len(view))
        return loss

    def on_train_epoch_end(self) -> None:
        """Add the epoch to the curve."""
        looks = len(range(0, len(self.steps), LOOK_EVERY))
        means = {
            name: self._reduced(total / (len(self.steps) if name == "loss" else looks))
            for name, total in self._sums.items()
        }
        row = {
            "epoch": self.current_epoch + 1,
            **means,
            "lr": self.rate(self.current_epoch),
            "seconds": self._elapsed(),
        }
        every = self.settings.knn_every
        judged = every and (self.current_epoch + 1) % every == 0 and self.data.labelled
        if judged and self.trainer.is_global_zero:
            row["knn"] = self._knn()
        self.curve.append(row)
        for logger in self.loggers:
            logger.log_metrics(
                {f"epoch/{name}": value for name, value in row.items() if name != "epoch"}, step=self.global_step
            )
            logger.save()
        self.print(self._line(row))
        self._sums, self._seconds, self._began = {}, 0.0, time.perf_counter()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know: the curve, and the unfinished epoch."""
        sums = {name: self._reduced(total) for name, total in self._sums.items()}
        checkpoint["recipe"] = {"curve": self.curve, "sums": sums, "seconds": self._elapsed() if sums else 0.0}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back."""
        saved = checkpoint["recipe"]
        self.curve = saved["curve"]
        self._sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in saved["sums"].items()}
        self._seconds = saved["seconds"]

    def _views(self, step: int) -> Tensor:
        """Return the two views of a step, ``[2, batch, 3, H, W]``; they are made for several steps at once."""
        ahead, batch = self.settings.augment_ahead, self.settings.batch_size // self.settings.world_size
        chunk = step // ahead
        key = (self.current_epoch, chunk)
        if self._ahead is None or self._ahead[0] != key:
            self._ahead = key, self._make_views(range(chunk * ahead, min((chunk + 1) * ahead, len(self.steps))), chunk)
        start = (step - chunk * ahead) * batch
        return self._ahead[1][:, start : start + batch]

    @torch.no_grad()
    def _make_views(self, steps: range, chunk: int) -> Tensor:
        pixels = self._pixels(steps).float() / 255
        self._draw_from(self._seed("views", chunk, self.global_rank))
        with torch.autocast(self.device.type, enabled=False):
            return torch.stack([self.augment(pixels) for _ in range(2)])

    def _pixels(self, steps: range) -> Tensor:
        """Return the images of this process in these steps, ``[len(steps) * batch, 3, H, W]`` uint8."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self._seed("order")))
        batches = order[steps.start * self.settings.batch_size : steps.stop * self.settings.batch_size]
        mine = batches.view(len(steps), self.settings.world_size, -1)[:, self.global_rank].flatten()
        pixels = self.images[mine.to(self.images.device)]
        if pixels.device == self.device:
            return pixels
        return pixels.pin_memory().to(self.device, non_blocking=True)  # while the GPU is busy with earlier steps

    def _seed(self, purpose: str, *numbers: int) -> int:
        entropy = [self.settings.seed, self.current_epoch, *numbers, *purpose.encode()]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    def _draw_from(self, seed: int) -> None:
        """As `torch.manual_seed`, which takes a millisecond or two for the kinds of devices that are not there."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._began

    def _reduced(self, value: Tensor) -> float:
        return float(self.trainer.strategy.reduce(value.to(self.device), reduce_op="mean"))

    def _knn(self) -> float:
        features = extract(self.network, self.data, self.device)
        self.network.train()
        return knn_accuracy(features)

    def _line(self, row: dict[str, float]) -> str:
        """The epoch in words: loss, accuracy, speed, and the time that is left at this speed."""
        epochs = self.settings.epochs
        rate = len(self.steps) * self.settings.batch_size / row["seconds"]
        usual = median(each["seconds"] for each in self.curve[-10:])
        left = timedelta(seconds=round((epochs - row["epoch"]) * usual))
        knn = f"  kNN {row['knn']:.2f} %" if "knn" in row else ""
        return (
            f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}{knn}  {rate:,.0f} images/s  {left} of training left"
        )
