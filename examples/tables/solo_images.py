"""The images of a recipe as PNG files, so that another host sees the same pixels."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from recipe.data import Data, Images


@dataclass(frozen=True)
class ImageFolders:
    """Folders with one folder for each class, named so that their order is that of the labels."""

    train: Path
    test: Path
    pretraining: Path
    """What needs no label: the training images and, as one more class, the unlabeled."""


def write_images(data: Data, folder: Path) -> ImageFolders:
    """Write a data set, unless it is there already; the folder is whole or absent.

    Args:
        data: a data set in memory.
        folder: for this data set alone.
    """
    if not folder.exists():
        part = folder.with_name(f".{os.getpid()}-{folder.name}")
        shutil.rmtree(part, ignore_errors=True)
        try:
            with ThreadPoolExecutor() as threads:  # Pillow encodes outside the interpreter's lock
                for _ in threads.map(_write, *zip(*_files(data, part), strict=True)):
                    pass
            if len(data.unlabeled):
                for labelled in sorted((part / "train").iterdir()):
                    (part / "pretraining" / labelled.name).symlink_to(Path("../train") / labelled.name)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    train = folder / "train"
    return ImageFolders(train, folder / "test", folder / "pretraining" if len(data.unlabeled) else train)


def _files(data: Data, folder: Path) -> Iterator[tuple[Path, Tensor]]:
    for name, images in (("train", data.train), ("test", data.test)):
        for index, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
            yield folder / name / f"{label:05d}" / f"{index:06d}.png", pixels
    unlabeled: Images = data.unlabeled
    for index, pixels in enumerate(unlabeled.pixels):
        yield folder / "pretraining" / "unlabeled" / f"{index:06d}.png", pixels


def _write(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
