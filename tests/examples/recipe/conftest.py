from pathlib import Path

import pytest
from sklearn.datasets import load_digits
from torch import from_numpy
from torchvision.utils import save_image

PER_CLASS = {"train": 26, "test": 13}


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """An image folder of real images: 260 training and 130 test digits, 32x32 px."""
    root = tmp_path_factory.mktemp("data") / "digits"
    digits = load_digits()
    for label in range(10):
        images = from_numpy(digits.images[digits.target == label]).float() / 16
        chosen = dict(zip(PER_CLASS, images.split([*PER_CLASS.values(), len(images) - 39])[:2], strict=True))
        for split, part in chosen.items():
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for number, image in enumerate(part):
                grown = image.repeat_interleave(4, 0).repeat_interleave(4, 1)
                save_image(grown, folder / f"{number:03}.png")
    return root


@pytest.fixture(scope="session")
def examples():
    return Path(__file__).parents[3] / "examples"
