"""Which images tune and which judge: held-out training images for the one, the test images for the other."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from image_folder import class_folders, stratified_order, take
from recipe import data as data_sets
from recipe import protocol
from recipe.data import Data

SMALL_SIZE = 32
LARGE = 64
"""Images with longer sides are augmented as STL-10, others as CIFAR."""
HELD_OUT = 5
"""At least one in so many images is held out for the tuning."""
SHARE_HELD_OUT = 2
"""At most one for so many training images."""


@dataclass(frozen=True)
class Parts:
    """The images of a study. Test images are in ``judging`` alone: what tunes is given the other part only.

    Args:
        tuning: training images, and as its ``test`` held-out training images.
        judging: training images, and the test images.
        augmentation: how views are made.
    """

    tuning: Data
    judging: Data
    augmentation: protocol.Augmentation


def load(dataset: str | None, root: Path, image_size: int | None, limit: int | None) -> Parts:
    """Read the images of a study into memory.

    Args:
        dataset: one of torchvision's data sets, or None for an image folder.
        root: where it is.
        image_size: side that the images of a folder are brought to; None: 32, or that of the data set.
        limit: at most this many training and this many test images.

    Raises: FileNotFoundError if images are missing; ValueError for broken images, images without labels, or a limit
        below the number of classes.
    """
    described = _folder(root, image_size or SMALL_SIZE) if dataset is None else protocol.DATASETS[dataset]
    if dataset is not None and image_size not in (None, described.image_size):
        raise ValueError(f"image_size: expected {described.image_size} for {dataset}, got {image_size}")
    whole = data_sets.load(described, root, "folder" if dataset is None else "auto")
    whole.check_labelled()
    return split(replace(whole, unlabeled=whole.unlabeled.pick(slice(0))), limit, described.augmentation)


def split(data: Data, limit: int | None, augmentation: protocol.Augmentation) -> Parts:
    """Split off the images for the tuning: always the same ones, every class in its proportion.

    They are training images that the limit leaves unused, half as many as it allows; where these are less than a fifth
    of the training images, a fifth of the training images is held out instead, and the tuning trains on the rest.

    Args:
        data: all images.
        limit: at most this many training and this many test images; None for all.
        augmentation: is passed on.

    Raises: ValueError if the limit is below the number of classes.
    """
    labels = data.train.labels.numpy()
    n = len(take(labels, limit))
    order = stratified_order(labels)
    chosen, spare = order[:n], order[n:][: n // SHARE_HELD_OUT]
    if len(spare) >= n // HELD_OUT:
        fitted, held_out = chosen, spare
    else:
        fitted, held_out = chosen[n // HELD_OUT :], chosen[: n // HELD_OUT]
    train, nothing = data.train, data.train.pick(slice(0))
    test = data.test.pick(np.sort(take(data.test.labels.numpy(), limit)))
    return Parts(
        Data(train.pick(fitted), train.pick(held_out), nothing, data.classes, f"{data.source}, train only"),
        Data(train.pick(chosen), test, nothing, data.classes, data.source),
        augmentation,
    )


def colours(data: Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the channels of the training images, in [0, 1]."""
    channels = [channel.float() / 255 for channel in data.train.pixels.unbind(dim=1)]
    stds = [max(channel.std().item(), 1e-3) for channel in channels]
    return tuple(channel.mean().item() for channel in channels), tuple(stds)


def _folder(root: Path, image_size: int) -> protocol.Dataset:
    """Describe an image folder as the recipes describe a data set."""
    train = root / "train"
    if not train.is_dir():
        raise FileNotFoundError(f"data_root: expected train/<class>/* and test/<class>/* in a folder, got {root}")
    classes = len(class_folders(train))
    usual = protocol.STL if image_size > LARGE else protocol.CIFAR
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return protocol.Dataset(root.resolve().name, classes, 0, 0, 0, image_size, zeros, ones, usual)
