"""Images per second of the recipe for CIFAR: its network alone, its augmentation, and its whole loop."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import recipe_pipelines as pipelines
from gpu_steps.cells import Cell, Row
from gpu_steps.timing import milliseconds
from launched import quiet
from recipe import protocol
from recipe.augmentation import augmentation
from recipe.data import Data, Images
from recipe.pretraining import Pretraining
from recipe.settings import Settings

DATASET = protocol.DATASETS["cifar10"]


def cells(device: str) -> list[Cell]:
    """Return batch sizes, eager and compiled, of the network and of the loop; the augmentation."""
    batches, backbone = ((128, 512), "resnet18") if device == "cuda" else ((8,), "test_resnet")
    found = [("network", batch, False) for batch in batches]
    found += [("augmentation", 8 * batches[0], False), ("recipe", batches[0], False)]
    if device == "cuda":  # on a CPU, to compile takes longer than a try
        found += [("network", batch, True) for batch in batches] + [("recipe", 128, True)]
    return [{"what": what, "batch": batch, "compiled": way, "backbone": backbone} for what, batch, way in found]


def measure(device: str, what: str, batch: int, compiled: bool, backbone: str) -> Iterator[Row]:
    """Measure two views of each image: forward, backward and Adam ("network"), with Lightning's loop ("recipe")."""
    quiet()
    row: Row = {"what": what, "batch": batch, "compiled": compiled, "backbone": backbone}
    if what == "augmentation":
        augment = augmentation(DATASET.augmentation, DATASET.image_size).to(device)
        pixels = torch.rand(batch, 3, DATASET.image_size, DATASET.image_size, device=device)
        yield row | {"views_per_second": round(1e3 * batch / milliseconds(lambda: augment(pixels), device, seconds=1))}
        return
    warm_up, n = (16, 80) if device == "cuda" else (1, 2)
    module = _module(device, batch, backbone, steps=warm_up + n)
    if compiled:
        module.network.compile()
    where = torch.device(device)
    if what == "recipe":
        spent = pipelines.recipe(module, where)(warm_up, n)
    else:
        views = torch.rand(2, batch, 3, DATASET.image_size, DATASET.image_size)
        spent = pipelines.network_alone(pipelines.Step(module, where), views)(warm_up, n)
    yield row | {"seconds_of_a_batch": spent, "views_per_second": round(2 * batch / spent, 1)}


def _module(device: str, batch: int, backbone: str, steps: int) -> Pretraining:
    """A recipe on random images, which are as fast as any."""
    side = DATASET.image_size
    pixels = torch.randint(0, 256, (batch * steps, 3, side, side), dtype=torch.uint8)
    train, test, none = (
        Images(part, torch.arange(len(part)) % DATASET.classes) for part in (pixels, pixels[:batch], pixels[:0])
    )
    names = tuple(str(label) for label in range(DATASET.classes))
    data = Data(train, test, none, names, "random pixels")
    settings = Settings(backbone=backbone, batch_size=batch, device="cuda" if device == "cuda" else "cpu", knn_every=0)
    return Pretraining(settings, DATASET, data)
