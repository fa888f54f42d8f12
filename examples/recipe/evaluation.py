"""What the frozen features know: the paper's linear probe, and nearest neighbours; all in the memory of the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from lightly.utils.benchmarking import knn_predict
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from recipe.data import Data, Images
from recipe.protocol import NEIGHBOURS, PROBE, Neighbours, Probe

BATCH = 512


class HasFeatures(Protocol):
    """A network that is judged by its features: images ``[N, 3, H, W]`` in [0, 1] -> ``[N, D]``."""

    def eval(self) -> object:
        """Switch to running statistics."""

    def features(self, images: Tensor) -> Tensor:
        """Return the features."""


class Features(NamedTuple):
    """Features and labels of the labelled images. Shape: ``[N, D]`` float32, ``[N]``."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


@dataclass(frozen=True)
class ProbeAccuracy:
    """Test accuracy in %, after the best epoch of the probe (the paper's number), after the last, and after each."""

    best: float
    last: float
    curve: tuple[float, ...]


@torch.no_grad()
def extract(network: HasFeatures, data: Data, device: torch.device) -> Features:
    """Return the features of all labelled images.

    Args:
        network: on the device; is left in eval mode.
        data: images and labels.
        device: for the features too.

    Raises: ValueError if a feature is not finite: the training diverged.
    """
    network.eval()
    train, test = (
        torch.cat([network.features(batch) for batch in _batches(images, device)]).float()
        for images in (data.train, data.test)
    )
    if not (train.isfinite().all() and test.isfinite().all()):
        raise ValueError("features: expected finite numbers, got others; the training has diverged")
    return Features(train, data.train.labels.to(device), test, data.test.labels.to(device), len(data.classes))


def _batches(images: Images, device: torch.device) -> Iterator[Tensor]:
    for batch in torch.split(images.pixels, BATCH):
        yield batch.to(device).float() / 255


def probe(features: Features, seed: int, settings: Probe = PROBE) -> ProbeAccuracy:
    """Fit a logistic regression on standardised features by Adam, at a constant learning rate.

    Args:
        features: of the training images, which fit the probe, and of the test images.
        seed: of the first weights and of the order of the images.
        settings: the paper's, unless told otherwise.

    Source: Tian (2022), arXiv:2201.12680, Section 6 ("linear evaluation protocol") and its published code.
    """
    device = features.train.device
    std, mean = torch.std_mean(features.train, dim=0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    train, test = (features.train - mean) / std, (features.test - mean) / std
    generator = torch.Generator().manual_seed(seed)
    layer = _linear(train.shape[1], features.classes, generator).to(device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    curve = []
    for _ in range(settings.epochs):
        order = torch.randperm(len(train), generator=generator).to(device)
        for batch in torch.split(order, settings.batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(layer(train[batch]), features.train_labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            curve.append(_percent(layer(test).argmax(dim=1), features.test_labels))
    return ProbeAccuracy(best=max(curve), last=curve[-1], curve=tuple(curve))


def _linear(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """PyTorch's own initial weights, from a generator."""
    layer = nn.Linear(width, classes)
    bound = width**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def knn_accuracy(features: Features, settings: Neighbours = NEIGHBOURS) -> float:
    """Return the test accuracy in % of weighted nearest neighbours by cosine: lightly's ``knn_predict``.

    Args:
        features: the training images vote on the test images.
        settings: number of votes (at most: the training images) and their temperature.
    """
    bank, queries = normalize(features.train), normalize(features.test)
    k = min(settings.k, len(bank))
    predicted = [
        knn_predict(batch, bank.T, features.train_labels, features.classes, k, settings.temperature)[:, 0]
        for batch in torch.split(queries, BATCH)
    ]
    return _percent(torch.cat(predicted), features.test_labels)


def _percent(predicted: Tensor, labels: Tensor) -> float:
    return 100 * (predicted == labels).double().mean().item()
