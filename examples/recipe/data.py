"""A data set in memory, as uint8: torchvision's files or an image folder, checked before anything is trained."""

import hashlib
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from image_folder import Labels, decode, images_in, is_flat, list_images, take
from provenance import replace_file
from recipe.protocol import SPLITS, Dataset

DECODER = 3
"""Number of the way in which `decode` turns files into pixels: a new one for other pixels."""


@dataclass(frozen=True)
class Images:
    """One part of a data set. Shape: ``[N, 3, size, size]`` uint8; labels ``[N]`` int64, -1 for none."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def pick(self, which: Labels | slice) -> "Images":
        """Return the images at these places."""
        return Images(self.pixels[which], self.labels[which])


@dataclass(frozen=True)
class Data:
    """A data set: images to train on without labels (``train``, then ``unlabeled``), images to probe."""

    train: Images
    test: Images
    unlabeled: Images
    classes: tuple[str, ...]
    source: str
    """The form in which it was read."""
    own: bool = False
    """An image folder that is not the data set itself, by the number of its images."""

    @property
    def labelled(self) -> bool:
        """Whether there are classes and test images, so that features can be judged."""
        return bool(self.classes)

    def check_labelled(self) -> None:
        """Raise ValueError if there are no labels."""
        if not self.labelled:
            raise ValueError(
                f"data_root: expected labels, train/<class>/* and test/<class>/*, got images without ({self.source})"
            )

    @property
    def size(self) -> int:
        """Side of an image, in pixels."""
        return self.train.pixels.shape[-1]

    def pretraining(self) -> Tensor:
        """Return all images that need no label: ``[N, 3, size, size]``."""
        return torch.cat([self.train.pixels, self.unlabeled.pixels]) if len(self.unlabeled) else self.train.pixels

    def as_dict(self) -> dict[str, Any]:
        """What a result says of its data; the checksum is of every pixel and label that was used."""
        digest = hashlib.sha256()
        for part in (self.train, self.test, self.unlabeled):
            digest.update(str(tuple(part.pixels.shape)).encode())
            digest.update(part.pixels.contiguous().numpy().data)
            digest.update(part.labels.numpy().data)
        counts = {split: len(getattr(self, split)) for split in SPLITS}
        return {
            "source": self.source,
            **counts,
            "classes": len(self.classes),
            "image_size": self.size,
            "sha256": digest.hexdigest(),
        }


def load(
    dataset: Dataset,
    root: Path,
    data_format: str = "auto",
    *,
    download: bool = False,
    classes: int | None = None,
    limit: int | None = None,
) -> Data:
    """Read a data set into memory.

    Args:
        dataset: which one, and what it should hold.
        root: torchvision's root, or a folder with ``train/<class>/*`` and ``test/<class>/*`` (STL-10: also
            ``unlabeled/*``), or a folder that has it as ``<name of the data set>/``. Images without labels: ``*`` or
            ``train/*``; there are no classes and no test images then.
        data_format: "torchvision", "folder", or "auto": a folder if there is one.
        download: let torchvision download what is missing.
        classes: expected number of classes; None: that of the data set.
        limit: at most this many images of each part; classes keep their proportions. None for all.

    Raises: FileNotFoundError if files or folders are missing; ValueError for broken files or the wrong classes.
    """
    folder = _folder(dataset, root)
    if data_format == "folder" and folder is None:
        raise FileNotFoundError(
            "data_root: expected an image folder, train/<class>/* and test/<class>/*, or images without labels, "
            f"train/* or *, in {root} or {root / dataset.name}, got none"
        )
    if folder is not None and data_format != "torchvision":
        data = _from_folder(folder, dataset.image_size)
        data = replace(data, own=any(len(getattr(data, split)) != getattr(dataset, split) for split in SPLITS))
    else:
        data = _from_torchvision(dataset, root, download)
    if classes is not None:
        data.check_labelled()
    expected = dataset.classes if classes is None else classes
    for split in ("train", "test") if data.labelled else ():
        found = len(torch.unique(getattr(data, split).labels))
        if found != expected:
            raise ValueError(
                f"data_root: expected {expected} classes in {split}, got {found} ({data.source}); for data of your own "
                "say how many there are: --classes"
            )
    return data if limit is None else _limited(data, limit)


def _folder(dataset: Dataset, root: Path) -> Path | None:
    folders = root, root / dataset.name
    with_train = [folder for folder in folders if (folder / "train").is_dir()]
    return next(iter([*with_train, *filter(is_flat, folders)]), None)


def _from_folder(folder: Path, image_size: int) -> Data:
    train_folder = folder / "train" if (folder / "train").is_dir() else folder
    if is_flat(train_folder):
        return _from_flat_folder(folder, train_folder, image_size)
    classes, train_files, train_labels = list_images(folder / "train")
    test_classes, test_files, test_labels = list_images(folder / "test")
    if test_classes != classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise ValueError(f"data_root: expected the classes of train/ in test/, got others: {', '.join(odd[:5])}")
    unlabeled_files = _unlabeled_files(folder)
    pixels = _decode_once(folder, [*train_files, *test_files, *unlabeled_files], image_size)
    train, test, unlabeled = torch.split(pixels, [len(train_files), len(test_files), len(unlabeled_files)])
    return Data(
        Images(train, torch.from_numpy(train_labels)),
        Images(test, torch.from_numpy(test_labels)),
        Images(unlabeled, _no_labels(len(unlabeled))),
        classes,
        f"image folder {folder.resolve().name}",
    )


def _from_flat_folder(folder: Path, train_folder: Path, image_size: int) -> Data:
    """Read images without labels. A folder test/ is ignored: a probe needs labelled training images."""
    train_files, unlabeled_files = images_in(train_folder), _unlabeled_files(folder)
    pixels = _decode_once(folder, [*train_files, *unlabeled_files], image_size)
    train, unlabeled = (
        Images(part, _no_labels(len(part))) for part in torch.split(pixels, [len(train_files), len(unlabeled_files)])
    )
    test = Images(pixels[:0], _no_labels(0))
    return Data(train, test, unlabeled, (), f"image folder {folder.resolve().name}, without labels")


def _unlabeled_files(folder: Path) -> list[Path]:
    return images_in(folder / "unlabeled") if (folder / "unlabeled").is_dir() else []


def _decode_once(folder: Path, files: Sequence[Path], image_size: int) -> Tensor:
    """Decode the files, or read what an earlier run decoded: a cache in the folder, if that can be written.

    The cache is known by the names, sizes and dates of the files, the size of an image and the way of decoding.
    """
    digest = hashlib.sha256(f"{DECODER} {image_size}".encode())
    for file in files:
        state = file.stat()
        digest.update(f"{file.relative_to(folder)} {state.st_size} {state.st_mtime_ns}\n".encode())
    cache = folder / ".cache" / f"{image_size}px-{digest.hexdigest()[:16]}.npy"
    if cache.exists():
        try:
            return torch.from_numpy(np.load(cache, allow_pickle=False))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # broken: decode again
            cache.unlink(missing_ok=True)
    pixels = decode(files, image_size)
    with suppress(OSError):  # a folder that cannot be written is a slower start, not an error
        replace_file(cache, lambda part: _save(part, pixels))
        for outdated in cache.parent.glob(f"{image_size}px-*.npy"):
            if outdated != cache:
                outdated.unlink()
    return pixels


def _save(part: Path, pixels: Tensor) -> None:
    with part.open("wb") as file:
        np.save(file, pixels.numpy(), allow_pickle=False)


def _from_torchvision(dataset: Dataset, root: Path, download: bool) -> Data:
    try:
        train, test, unlabeled = (_read(dataset, root, split, download) for split in SPLITS)
    except RuntimeError as error:  # torchvision: missing, or a checksum that differs
        raise FileNotFoundError(
            f"data_root: expected torchvision's files of {dataset.name}, whole, or an image folder (train/<class>/*, "
            f"test/<class>/*; without labels train/* or *), in {root}, got neither; --download lets "
            "torchvision fetch them"
        ) from error
    names = tuple(str(label) for label in range(dataset.classes))
    return Data(train, test, unlabeled, names, f"torchvision {dataset.name}")


def _read(dataset: Dataset, root: Path, split: str, download: bool) -> Images:
    if dataset.name == "stl10":
        stl = datasets.STL10(str(root), split=split, download=download)
        return _images(stl.data, stl.labels)
    if split == "unlabeled":
        side = dataset.image_size
        return Images(torch.empty(0, 3, side, side, dtype=torch.uint8), _no_labels(0))
    cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset.name]
    part = cifar(str(root), train=split == "train", download=download)
    return _images(part.data.transpose(0, 3, 1, 2), np.array(part.targets))


def _images(pixels: Any, labels: Any) -> Images:
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(np.asarray(labels, np.int64)))


def _no_labels(n: int) -> Tensor:
    return torch.full((n,), -1)


def _limited(data: Data, limit: int) -> Data:
    def first(part: Images) -> Images:
        return part.pick(np.sort(take(part.labels.numpy(), limit))) if len(part) else part

    return replace(data, train=first(data.train), test=first(data.test), unlabeled=first(data.unlabeled))
