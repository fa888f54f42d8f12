"""Images for the quickstart, held in memory as one uint8 tensor: scikit-learn's digits, or any image folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sklearn.datasets
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

HELD_OUT = 0.2
SPLIT_SEED = 0

Labels = npt.NDArray[np.int64]


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
        limit: at most so many training and so many held-out images; None for all.

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
        limit: at most so many training and so many held-out images, every class in its proportion; None for all.

    Raises: FileNotFoundError if a folder or its images are missing; ValueError for fewer than two classes, a class
        unknown to ``train``, a file that is no image, or a ``limit`` less than the number of classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data_root: expected a folder, got {root}")
    if (root / "train").is_dir():
        classes, train_files, train_labels = _list_images(root / "train")
        test_classes, test_files, test_labels = _list_images(root / "test")
        if test_classes != classes:
            raise ValueError(f"data_root: expected the classes of train in test, got {classes} and {test_classes}")
        train, test = np.sort(_take(train_labels, limit)), _take(test_labels, limit)
    else:
        classes, train_files, train_labels = _list_images(root)
        test_files, test_labels = train_files, train_labels
        train, test = _split(train_labels, limit)
    return Images(
        train=_decode([train_files[i] for i in train], image_size),
        train_labels=train_labels[train],
        test=_decode([test_files[i] for i in test], image_size),
        test_labels=test_labels[test],
        classes=classes,
        source=root.resolve().name,
        photos=True,
    )


def _list_images(folder: Path) -> tuple[tuple[str, ...], list[Path], Labels]:
    """The class folders, their image files in order, and the files' labels."""
    if not folder.is_dir():
        raise FileNotFoundError(f"data_root: expected a folder {folder.name}/ beside train/, got none at {folder}")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"data_root: expected at least 2 class folders in {folder}, got {len(classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in IMG_EXTENSIONS)
        if not found:
            kinds = ", ".join(IMG_EXTENSIONS)
            raise FileNotFoundError(f"data_root: expected images ({kinds}), got none in {folder / name}")
        files += found
        labels += [label] * len(found)
    return tuple(classes), files, np.array(labels)


def _split(labels: Labels, limit: int | None) -> tuple[Labels, Labels]:
    """Indices for training and held-out images, every class in its proportion."""
    order = _stratified_order(labels)
    held_out = round(HELD_OUT * len(labels))
    train, test = order[:-held_out], order[-held_out:]
    return np.sort(train[_take(labels[train], limit)]), test[_take(labels[test], limit)]


def _take(labels: Labels, limit: int | None) -> Labels:
    """Indices of at most ``limit`` images, in an order whose every beginning has the classes in proportion."""
    n_classes = len(np.unique(labels))
    if limit is not None and limit < n_classes:
        raise ValueError(f"limit: expected at least one image for each of the {n_classes} classes, got {limit}")
    return _stratified_order(labels)[:limit]


def _stratified_order(labels: Labels) -> Labels:
    """A shuffled order whose every beginning has the classes in proportion, each at least once from the start."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    place = np.empty(len(labels))  # of an image within its class: 0, 1/n, 2/n, ...
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def _decode(files: list[Path], image_size: int) -> Tensor:
    """Read the files into one tensor."""
    to_square = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])
    images = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)
    for index, file in enumerate(files):
        try:
            with Image.open(file) as image:
                images[index] = to_square(image.convert("RGB"))
        except (OSError, SyntaxError, UnidentifiedImageError) as error:  # what Pillow raises for a broken file
            raise ValueError(f"data_root: expected an image, got a file that cannot be decoded: {file}") from error
    return images
