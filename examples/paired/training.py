"""One training as a Lightning module. All that is random follows from the seed alone, so that losses are paired."""

import hashlib
import math
import time
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from alphacl_lightly import AlphaCLLoss
from paired.images import colours
from paired.network import build_network
from recipe.augmentation import augmentation
from recipe.data import Data
from recipe.pretraining import Steps
from recipe.protocol import Augmentation

LOOK_EVERY = 10
"""Steps between two looks at the statistics of the loss, each a pass of its own; an epoch begins with one."""
WARM_UP = 0.1
"""Part of the steps in which the learning rate rises."""


class Training(L.LightningModule):
    """Two views of each image, each through the network by itself, and the loss.

    First weights, order of the images and views depend on the seed, the epoch and the step, never on the loss.

    Args:
        criterion: the loss.
        data: its training images are used.
        views: how views are made.
        backbone: of the network.
        seed: of everything random.
        epochs, batch_size, learning_rate: of the training.

    Raises: ValueError if there are fewer images than one batch needs.
    """

    def __init__(
        self,
        criterion: AlphaCLLoss,
        data: Data,
        views: Augmentation,
        *,
        backbone: str,
        seed: int,
        epochs: int,
        batch_size: int,
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.images = data.train.pixels
        self.criterion, self.seed, self.epochs = criterion, seed, epochs
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.steps = Steps(len(self.images), batch_size)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed("weights"))
            self.network = build_network(backbone, data.size, *colours(data))
        self.augment = augmentation(views, data.size)
        self.curve: list[dict[str, float | None]] = []
        self._sums: dict[str, Tensor] = {}
        self._began = 0.0

    def order(self, epoch: int) -> Tensor:
        """Return the images of an epoch, ``[steps, batch]``, indices."""
        generator = torch.Generator().manual_seed(self._seed("order", epoch))
        order = torch.randperm(len(self.images), generator=generator)
        return order[: len(self.steps) * self.batch_size].view(len(self.steps), self.batch_size)

    @torch.no_grad()
    def views(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the two views of a step, each ``[batch, 3, H, W]`` in [0, 1]; sets PyTorch's global generator."""
        pixels = self.images[self.order(epoch)[step].to(self.images.device)].to(self.device).float() / 255
        torch.manual_seed(self._seed("views", epoch, step))
        with torch.autocast(self.device.type, enabled=False):
            return self.augment(pixels), self.augment(pixels)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted over all epochs: warm-up, then a cosine to 0."""
        total = self.epochs * len(self.steps)
        warm_up = max(1, round(WARM_UP * total))
        rising = min(1.0, (step + 1) / warm_up)
        done = max(0, step + 1 - warm_up) / max(1, total - warm_up)
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * done))

    def train_dataloader(self) -> Steps:
        """Return the steps of an epoch, by number."""
        return self.steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, over the network and what the loss may learn."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def on_train_start(self) -> None:
        """Move the images to a GPU that has room for them."""
        if self.device.type == "cuda" and self.images.nbytes <= torch.cuda.mem_get_info(self.device)[0] / 8:
            self.images = self.images.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Note the time."""
        self._sums, self._began = {}, time.perf_counter()

    def on_train_batch_start(self, batch: int, batch_index: int) -> None:
        """Set the learning rate."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(self.global_step)

    def training_step(self, batch: int, batch_index: int) -> Tensor:
        """Compute the loss of one batch."""
        view, view_aug = self.views(self.current_epoch, batch_index)
        loss: Tensor = self.criterion(self.network(view), self.network(view_aug))
        logged = {"loss": loss.detach()}
        if batch_index % LOOK_EVERY == 0:
            logged |= self.criterion.last_stats
        for name, value in logged.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self.device)) + value
        return loss

    def on_train_epoch_end(self) -> None:
        """Add the epoch's means to the curve; None where a number is not finite."""
        looks = len(range(0, len(self.steps), LOOK_EVERY))
        row: dict[str, float | None] = {"epoch": self.current_epoch + 1}
        for name, total in self._sums.items():
            mean = total.item() / (len(self.steps) if name == "loss" else looks)
            row[name] = mean if math.isfinite(mean) else None
        row["seconds"] = round(time.perf_counter() - self._began, 3)
        self.curve.append(row)

    def _seed(self, purpose: str, *numbers: int) -> int:
        entropy = [self.seed, *numbers, *purpose.encode()]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def pairing(training: Training) -> dict[str, str]:
    """Return SHA-256 hashes of what paired runs share: first weights, batches of all epochs, first two views.

    Args:
        training: before its first step.
    """
    generator = torch.get_rng_state()
    hashes = {
        "weights": _digest(*training.network.state_dict().values()),
        "order": _digest(*(training.order(epoch) for epoch in range(training.epochs))),
        "views": _digest(*training.views(0, 0)),
    }
    torch.set_rng_state(generator)
    return hashes


def _digest(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(str(tuple(value.shape)).encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
