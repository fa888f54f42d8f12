"""Image folders, ``ROOT/<class>/*``, read into memory: what the quickstart and the recipes share."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

SPLIT_SEED = 0

Labels = npt.NDArray[np.int64]


def list_images(folder: Path) -> tuple[tuple[str, ...], list[Path], Labels]:
    """Return the class folders, their image files in order, and the files' labels.

    Raises: FileNotFoundError if the folder or the images of a class are missing; ValueError for fewer than two classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"data_root: expected a folder {folder.name}/ beside train/, got none at {folder}")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"data_root: expected at least 2 class folders in {folder}, got {len(classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = images_in(folder / name)
        files += found
        labels += [label] * len(found)
    return tuple(classes), files, np.array(labels)


def images_in(folder: Path) -> list[Path]:
    """Return the image files of one folder, in order.

    Raises: FileNotFoundError if there are none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMG_EXTENSIONS)
    if not found:
        raise FileNotFoundError(f"data_root: expected images ({', '.join(IMG_EXTENSIONS)}), got none in {folder}")
    return found


def decode(files: Sequence[Path], image_size: int) -> Tensor:
    """Read the files into one tensor, each resized and centre-cropped to a square.

    Args:
        files: of any size and colour mode.
        image_size: side in pixels.

    Shape: ``[N, 3, image_size, image_size]`` uint8.
    Raises: ValueError that names the first file that is no image, or is cut off.
    """
    to_square = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])
    images = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)

    def read(index: int) -> None:
        try:
            with Image.open(files[index]) as image:
                images[index] = to_square(image.convert("RGB"))
        except (
            OSError,
            SyntaxError,
            UnidentifiedImageError,
            Image.DecompressionBombError,
        ) as error:  # what Pillow raises for a broken file
            message = f"data_root: expected an image, got a file that cannot be decoded: {files[index]} ({error})"
            raise ValueError(message) from error

    with ThreadPoolExecutor() as threads:  # Pillow decodes outside the interpreter's lock
        for _ in threads.map(read, range(len(files))):
            pass
    return images


def take(labels: Labels, limit: int | None) -> Labels:
    """Return indices of at most ``limit`` images, in an order whose every beginning has the classes in proportion.

    Raises: ValueError if ``limit`` is less than the number of classes.
    """
    n_classes = len(np.unique(labels))
    if limit is not None and limit < n_classes:
        raise ValueError(f"limit: expected at least one image for each of the {n_classes} classes, got {limit}")
    return stratified_order(labels)[:limit]


def stratified_order(labels: Labels) -> Labels:
    """Return a shuffled order whose every beginning has the classes in proportion, each at least once."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    place = np.empty(len(labels))  # of an image within its class: 0, 1/n, 2/n, ...
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(place[shuffled], kind="stable")]
