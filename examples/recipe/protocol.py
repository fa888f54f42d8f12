"""The experiment of the α-CL paper, as numbers: what every recipe does unless told otherwise.

Source: Tian (2022), arXiv:2201.12680, Section 6, and its published code where the paper is silent.
"""

from dataclasses import dataclass

EPOCHS = (100, 300, 500)
"""Epochs of one training after which the paper evaluates."""
BATCH_SIZE = 128
SPLITS = ("train", "test", "unlabeled")
HIDDEN_WIDTH, EMBEDDING_WIDTH = 512, 128
"""The head: Linear(512), BatchNorm without affine, ReLU, Linear(128)."""


@dataclass(frozen=True)
class Jitter:
    """Largest relative change of brightness, contrast and saturation; of hue, as a part of the circle."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True)
class Augmentation:
    """What makes a view of an image, in this order."""

    crop_scale: tuple[float, float]
    """Area of the crop, relative to the image."""
    crop_ratio: tuple[float, float]
    """Width / height of the crop."""
    flip: float
    """Probability, as in the lines below."""
    jitter: Jitter
    jitter_probability: float
    grayscale: float
    blur: float
    blur_kernel: int
    """In pixels, odd."""
    blur_sigma: tuple[float, float]
    """In pixels."""


@dataclass(frozen=True)
class Dataset:
    """A data set as its authors count it, and how the paper treats it."""

    name: str
    classes: int
    train: int
    test: int
    unlabeled: int
    image_size: int
    """Side in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of the channels of training images in [0, 1]; 0 and 1: images are not normalised."""
    augmentation: Augmentation


@dataclass(frozen=True)
class Probe:
    """Logistic regression on frozen, standardised features; a constant learning rate."""

    learning_rate: float = 3e-4
    weight_decay: float = 1e-3
    batch_size: int = 128
    epochs: int = 50


@dataclass(frozen=True)
class Neighbours:
    """Weighted nearest neighbours, with lightly's defaults: votes are exp(cosine / temperature)."""

    k: int = 200
    temperature: float = 0.1


PROBE = Probe()
NEIGHBOURS = Neighbours()

CIFAR = Augmentation(
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=Jitter(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grayscale=0.2,
    blur=0.0,
    blur_kernel=0,
    blur_sigma=(0.0, 0.0),
)
STL = Augmentation(
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=Jitter(0.8, 0.8, 0.8, 0.2),
    jitter_probability=0.8,
    grayscale=0.2,
    blur=0.5,
    blur_kernel=9,
    blur_sigma=(0.1, 2.0),
)
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("cifar10", 10, 50_000, 10_000, 0, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CIFAR),
        Dataset("cifar100", 100, 50_000, 10_000, 0, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), CIFAR),
        Dataset("stl10", 10, 5_000, 8_000, 100_000, 96, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), STL),
    )
}


def learning_rate(backbone: str) -> float:
    """Return Adam's first learning rate: 0.001 for a ResNet-50, 0.01 for a ResNet-18 and whatever is as small."""
    return 0.001 if backbone.startswith("resnet50") else 0.01
