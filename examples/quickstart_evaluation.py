"""What frozen features know: linear probes, nearest neighbours, and the geometry of the embeddings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import normalize

from alphacl_plugins import metrics
from image_folder import Labels
from quickstart_data import Images
from quickstart_training import Network

FEW = 10
"""Labels for each class in the small probe."""
DRAWS = 5
"""Number of draws of the labels over which the small probe is averaged, the same draws for every network."""
NEIGHBOURS = 5
GEOMETRY_IMAGES = 1000
"""Largest number of held-out images for alignment, uniformity and effective rank."""
EVALUATION_BATCH = 512

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Results on held-out images: accuracies in percent, and geometry of the unit-length embeddings."""

    probe_all: float
    probe_few: float
    knn: float
    alignment: float
    uniformity: float
    effective_rank: float


@torch.no_grad()
def evaluate(network: Network, images: Images, augment: nn.Module, seed: int) -> tuple[Scores, Features]:
    """Judge a network without training it further; returns the held-out features too.

    Args:
        network: left in eval mode.
        images: labels of the training part fit the probes, held-out images are scored.
        augment: makes the two views whose distance is the alignment.
        seed: of those views and of the labels that the small probe sees.

    Raises: ValueError if an embedding is not finite: the training diverged.
    """
    network.eval()
    train = torch.cat([network.features(batch) for batch in _batches(images.train)])
    test = torch.cat([network.features(batch) for batch in _batches(images.test)])
    few = _batches(images.test[:GEOMETRY_IMAGES])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = (normalize(torch.cat([network(augment(batch)) for batch in few])) for _ in range(2))
    embeddings = normalize(network.head(test[:GEOMETRY_IMAGES]))
    if not (train.isfinite().all() and test.isfinite().all() and embeddings.isfinite().all()):
        raise ValueError("features: expected finite numbers, got others; the training has diverged")
    test_features = test.numpy()
    return Scores(
        **_accuracies(train.numpy(), images.train_labels, test_features, images.test_labels, seed),
        alignment=metrics.alignment(first, second).item(),
        uniformity=metrics.uniformity(embeddings).item(),
        effective_rank=metrics.effective_rank(embeddings).item(),
    ), test_features


def _batches(images: Tensor) -> list[Tensor]:
    return [batch.float() / 255 for batch in torch.split(images, EVALUATION_BATCH)]


def _accuracies(
    train: Features, train_labels: Labels, test: Features, test_labels: Labels, seed: int
) -> dict[str, float]:
    """Percent of held-out images that each classifier names rightly."""
    scaler = StandardScaler().fit(train)
    scaled, scaled_test = scaler.transform(train), scaler.transform(test)
    few = [_few_per_class(train_labels, (seed, draw)) for draw in range(DRAWS)]
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine").fit(train, train_labels)
    return {
        "probe_all": 100 * _probe(scaled, train_labels).score(scaled_test, test_labels),
        "probe_few": 100 * np.mean([_probe(scaled[i], train_labels[i]).score(scaled_test, test_labels) for i in few]),
        "knn": 100 * neighbours.score(test, test_labels),
    }


def _probe(features: Features, labels: Labels) -> LogisticRegression:
    return LogisticRegression(max_iter=2000).fit(features, labels)


def _few_per_class(labels: Labels, seed: tuple[int, int]) -> Labels:
    """Indices of FEW images of each class, or of all where a class has fewer."""
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.permutation(np.flatnonzero(labels == c))[:FEW] for c in np.unique(labels)])
