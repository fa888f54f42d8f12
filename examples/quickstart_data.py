"""Images for the quickstart, held in memory as one uint8 tensor: scikit-learn's digits, or any image folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn.datasets
import torch
from torch import Tensor
from torchvision.transforms import v2

from image_folder import Labels, decode, list_images, stratified_order, take

HELD_OUT = 0.2


@dataclass(frozen=True)
class Images:
    """A training and a held-out set; any first part of the latter has the classes in proportion.

    Shape: images ``[N, 3, size, size]`` uint8, labels ``[N]``, indices into ``classes``.
    """

    train: Tensor
    train_labels: Labels
    test: Tensor
    test_labels: Labels
    classes: tuple[str, ...]
    source: str
    photos: bool
    """Photographs may be mirrored and recoloured, digits may not."""

    @property
    def size(self) -> int:
        """Side of an image, in pixels."""
        return self.train.shape[-1]

    @property
    def description(self) -> str:
        """One line for the report."""
        return (
            f"{self.source}: {len(self.train)} training and {len(self.test)} held-out images, "
            f"{len(self.classes)} classes, {self.size}x{self.size} px"
        )


def load_digits(image_size: int = 8, limit: int | None = None) -> Images:
    """Return scikit-learn's 1797 handwritten digits (8x8 px, part of the UCI set), a fifth of each class held out.

    Args:
        image_size: side in pixels; other than 8, the digits are interpolated.
        limit: at most this many training and this many held-out images; None for all.

    Raises: ValueError if ``limit`` is less than the number of classes.
    """
    digits = sklearn.datasets.load_digits()
    grey = torch.tensor(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    images = v2.functional.resize(grey, [image_size, image_size], antialias=True).expand(-1, 3, -1, -1).contiguous()
    train, test = _split(digits.target, limit)
    return Images(
        train=images[train],
        train_labels=digits.target[train],
        test=images[test],
        test_labels=digits.target[test],
        classes=tuple(str(name) for name in digits.target_names),
        source="scikit-learn digits",
        photos=False,
    )


def load_folder(root: Path, image_size: int = 32, limit: int | None = None) -> Images:
    """Return the images of a folder, resized and centre-cropped to a square; only those that are used are decoded.

    Args:
        root: holds ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*``, of which a fifth is then held out.
        image_size: side in pixels.
        limit: at most this many training and this many held-out images; classes keep their proportions. None for all.

    Raises: FileNotFoundError if a folder or its images are missing; ValueError for fewer than two classes, a class
        unknown to ``train``, a file that is no image, or a ``limit`` less than the number of classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data_root: expected a folder, got {root}")
    if (root / "train").is_dir():
        classes, train_files, train_labels = list_images(root / "train")
        test_classes, test_files, test_labels = list_images(root / "test")
        if test_classes != classes:
            raise ValueError(f"data_root: expected the classes of train in test, got {classes} and {test_classes}")
        train, test = np.sort(take(train_labels, limit)), take(test_labels, limit)
    else:
        classes, train_files, train_labels = list_images(root)
        test_files, test_labels = train_files, train_labels
        train, test = _split(train_labels, limit)
    return Images(
        train=decode([train_files[i] for i in train], image_size),
        train_labels=train_labels[train],
        test=decode([test_files[i] for i in test], image_size),
        test_labels=test_labels[test],
        classes=classes,
        source=root.resolve().name,
        photos=True,
    )


def _split(labels: Labels, limit: int | None) -> tuple[Labels, Labels]:
    """Indices for training and held-out images, every class in its proportion."""
    order = stratified_order(labels)
    held_out = round(HELD_OUT * len(labels))
    train, test = order[:-held_out], order[-held_out:]
    return np.sort(train[take(labels[train], limit)]), test[take(labels[test], limit)]
