"""The ways of images to a network that `recipe_speed.py` compares: the recipe's own, lightly's, solo-learn's, none."""

import importlib.util
import io
import itertools
import os
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import torch
from lightly.transforms.simclr_transform import SimCLRTransform
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from launched import one_process
from recipe import protocol
from recipe.devices import precision_of
from recipe.pretraining import Pretraining
from recipe.settings import Settings

SOLO_LEARN = Path(os.environ.get("SOLO_LEARN_HOME", "~/solo-learn")).expanduser() / "solo/data/pretrain_dataloader.py"
NOT_NORMALISED = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
"""The network normalises."""
BatchSeconds = Callable[[int, int], float]
"""From how many batches to warm up with, and to time: the seconds of a batch."""


class InMemory(Dataset[Any]):
    """Decoded images, as torchvision's CIFAR10 gives them: faster for a loader than files."""

    def __init__(self, pixels: Tensor, transform: Callable[[Image.Image], Any]) -> None:
        self.pixels = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), 0


class Step:
    """What all have in common: the same network, loss, precision and Adam."""

    def __init__(self, module: Pretraining, device: torch.device) -> None:
        self.network, self.criterion, self.device = module.network.to(device).train(), module.criterion, device
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.bf16 = precision_of(module.settings) == "bf16-mixed"

    def __call__(self, views: Iterable[Tensor]) -> None:
        """Take a step."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.criterion(*(self.network(view.to(self.device, non_blocking=True)) for view in views))
        loss.backward()
        self.optimizer.step()

    def seconds(self, batches: Iterable[Iterable[Tensor]], warm_up: int, n: int) -> float:
        """Return the seconds of a batch, over ``n`` of them after the warm-up."""
        started = 0.0
        for index, views in enumerate(itertools.islice(batches, warm_up + n)):
            if index == warm_up:
                started = now(self.device)
            self(views)
        return (now(self.device) - started) / n


def now(device: torch.device) -> float:
    """Return the time, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Timer(L.Callback):
    """The seconds of a batch in Lightning's loop."""

    def __init__(self, warm_up: int, n: int) -> None:
        self.warm_up, self.n, self.started, self.seconds = warm_up, n, 0.0, 0.0

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count."""
        if batch_idx == self.warm_up:
            self.started = now(module.device)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """End."""
        if trainer.global_step == self.warm_up + self.n:
            self.seconds = (now(module.device) - self.started) / self.n


def network_alone(step: Step, views: Tensor) -> BatchSeconds:
    """Return what times the same two views, on the device, over and over."""
    fixed = views.to(step.device)
    return lambda warm_up, n: step.seconds(itertools.repeat(fixed), warm_up, n)


def recipe(module: Pretraining, device: torch.device) -> BatchSeconds:
    """Return what times the recipe as it is, Lightning's loop included, without logs and checkpoints."""

    def seconds(warm_up: int, n: int) -> float:
        timer = Timer(warm_up, n)
        trainer = L.Trainer(
            max_steps=warm_up + n,
            max_epochs=-1,
            accelerator="cuda" if device.type == "cuda" else "cpu",
            precision=precision_of(module.settings),
            benchmark=device.type == "cuda",
            callbacks=[timer],
            enable_progress_bar=False,
            **one_process(),
        )
        with redirect_stdout(io.StringIO()):  # the line of the epoch
            trainer.fit(module)
        module.to(device)  # Lightning leaves it on the CPU
        return timer.seconds

    return seconds


def lightly(step: Step, pixels: Tensor, dataset: protocol.Dataset, settings: Settings, workers: int) -> BatchSeconds:
    """Return what times lightly's transform in the workers of a DataLoader."""
    ours, jitter = dataset.augmentation, dataset.augmentation.jitter
    transform = SimCLRTransform(
        input_size=pixels.shape[-1],
        cj_prob=ours.jitter_probability,
        cj_bright=jitter.brightness,
        cj_contrast=jitter.contrast,
        cj_sat=jitter.saturation,
        cj_hue=jitter.hue,
        min_scale=ours.crop_scale[0],
        random_gray_scale=ours.grayscale,
        gaussian_blur=ours.blur,
        sigmas=ours.blur_sigma,
        normalize=NOT_NORMALISED,
    )
    loader = DataLoader(
        InMemory(pixels, transform),
        batch_size=settings.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=step.device.type == "cuda",
    )
    return lambda warm_up, n: step.seconds((views for views, _ in loader), warm_up, n)


def solo_learn(step: Step, pixels: Tensor, dataset: protocol.Dataset, settings: Settings, workers: int) -> BatchSeconds:
    """Return what times solo-learn's transform, data set and loader, from the clone.

    Raises: FileNotFoundError if there is no clone.
    """
    from omegaconf import OmegaConf

    solo = _solo_learn_loaders()
    ours, jitter = dataset.augmentation, dataset.augmentation.jitter
    config = {
        "crop_size": pixels.shape[-1],
        "rrc": {"enabled": True, "crop_min_scale": ours.crop_scale[0], "crop_max_scale": ours.crop_scale[1]},
        "color_jitter": {
            "prob": ours.jitter_probability,
            "brightness": jitter.brightness,
            "contrast": jitter.contrast,
            "saturation": jitter.saturation,
            "hue": jitter.hue,
        },
        "grayscale": {"prob": ours.grayscale},
        "gaussian_blur": {"prob": ours.blur},
        "solarization": {"prob": 0.0},
        "equalization": {"prob": 0.0},
        "horizontal_flip": {"prob": ours.flip},
        **NOT_NORMALISED,
    }
    one_view = solo.build_transform_pipeline("custom", OmegaConf.create(config))
    two_views = solo.prepare_n_crop_transform([one_view], num_crops_per_aug=[2])
    loader = solo.prepare_dataloader(
        solo.dataset_with_index(InMemory)(pixels, two_views), settings.batch_size, num_workers=workers
    )
    return lambda warm_up, n: step.seconds((views for _, views, _ in loader), warm_up, n)


def _solo_learn_loaders() -> ModuleType:
    """The one file of solo-learn that is needed; the package itself would bring all its methods."""
    spec = importlib.util.spec_from_file_location("solo_learn_loaders", SOLO_LEARN)
    if not SOLO_LEARN.exists() or spec is None or spec.loader is None:
        raise FileNotFoundError("SOLO_LEARN_HOME: expected a clone of solo-learn, got none")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
