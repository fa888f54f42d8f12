"""Image folders, ``ROOT/<class>/**``, read into memory: what the quickstart and the recipes share."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from pixel_depth import to_rgb, used_range

SPLIT_SEED = 0

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""What macOS, Synology, Windows and Linux put beside one's files; the first two hold copies of images."""

OTHER_IMAGES = (
    ".avif", ".dcm", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jxl", ".tga"
)  # fmt: skip
"""Endings of images that are not read; a folder that has some is refused, as a part of it would be left out."""

LEAST_USED = 1 / 4
"""Of the range of 16 bits, by the brightest pixel of all: less are 14, 12 or 8 bits stored in 16."""

Labels = npt.NDArray[np.int64]


def list_images(folder: Path) -> tuple[tuple[str, ...], list[Path], Labels]:
    """Return the class folders, their image files in order, and the files' labels.

    Raises: FileNotFoundError if the folder or the images of a class are missing; ValueError for fewer than two classes,
        or images beside the class folders.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"data_root: expected a folder {folder.name}/ beside train/, got none at {folder}")
    classes = class_folders(folder)
    if len(classes) < 2:
        raise ValueError(f"data_root: expected at least 2 class folders in {folder}, got {len(classes)}")
    for path in folder.iterdir():
        if _is_image(path.name) and path.is_file():
            raise ValueError(f"data_root: expected images in the class folders alone, got one beside them: {path}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = images_in(folder / name)
        files += found
        labels += [label] * len(found)
    return tuple(classes), files, np.array(labels)


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order; hidden and system folders are left out."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def is_flat(folder: Path) -> bool:
    """Whether there are images in the folder itself, and no folders: images without labels."""
    inside = [path for path in folder.iterdir() if not _is_hidden(path.name)] if folder.is_dir() else []
    return any(_is_image(path.name) for path in inside) and not any(path.is_dir() for path in inside)


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder and of all folders in it, in order; hidden and system files are left out.

    Raises: FileNotFoundError if there are none; OSError if a folder cannot be read; ValueError for images of a kind
        that is not read, or if links lead to one folder twice.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        if (place := os.path.realpath(parent)) in seen:
            raise ValueError(f"data_root: expected every folder once, got a link to one that was read: {parent}")
        seen.add(place)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        shown = [name for name in sorted(names) if not _is_hidden(name)]
        if other := [name for name in shown if name.lower().endswith(OTHER_IMAGES)]:
            kinds = ", ".join(IMG_EXTENSIONS)
            raise ValueError(
                f"data_root: expected images of kinds that are read ({kinds}), got {Path(parent, other[0])}"
            )
        found += [Path(parent, name) for name in shown if _is_image(name)]
    if not found:
        raise FileNotFoundError(f"data_root: expected images ({', '.join(IMG_EXTENSIONS)}), got none in {folder}")
    return found


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS) and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _raise(error: OSError) -> None:
    raise error


def decode(files: Sequence[Path], image_size: int) -> Tensor:
    """Read the files into one tensor, each resized and centre-cropped to a square.

    Args:
        files: of any size; colour, grey, palette or CMYK, of 8 bits, or of 16, which are scaled to 8 by the range of
            their type. Transparency is dropped, as by torchvision.
        image_size: side in pixels.

    Shape: ``[N, 3, image_size, image_size]`` uint8.
    Raises: ValueError that names the first file that is no image, is cut off or has pixels without a known range
        (float, 32-bit), or the brightest file if 16-bit files use less than a quarter of their range.
    """
    to_square = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])
    images = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)

    def read(index: int) -> float | None:
        try:
            with Image.open(files[index]) as image:
                images[index] = to_square(to_rgb(image))
                return used_range(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # what Pillow raises for a broken file, and `to_rgb`
            message = f"data_root: expected an image, got a file that cannot be decoded: {files[index]} ({error})"
            raise ValueError(message) from error

    with ThreadPoolExecutor() as threads:  # Pillow decodes outside the interpreter's lock
        used = list(threads.map(read, range(len(files))))
    _check_used(files, used)
    return images


def _check_used(files: Sequence[Path], used: Sequence[float | None]) -> None:
    """Refuse 16-bit files that hold numbers of fewer bits and would be dark."""
    share, file = max(((share, file) for share, file in zip(used, files, strict=True) if share), default=(1.0, None))
    if share < LEAST_USED:
        raise ValueError(
            f"data_root: expected 16-bit images that use their range, got at most {share:.2%} of it, in {file}; "
            "multiply pixels of fewer bits up to 16 bits"
        )


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
