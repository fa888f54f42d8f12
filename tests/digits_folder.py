"""scikit-learn's digits as an image folder."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits


def write_digits(root: Path, train: int = 20, test: int = 6) -> Path:
    """Write so many images of each digit, 32 x 32 px; return the folder."""
    digits = load_digits()
    for label in range(10):
        images = digits.images[digits.target == label]
        for split, part in (("train", images[:train]), ("test", images[train : train + test])):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for number, pixels in enumerate(part):
                Image.fromarray((pixels * 15).astype("uint8")).resize((32, 32)).convert("RGB").save(
                    folder / f"{number:03}.png"
                )
    return root
