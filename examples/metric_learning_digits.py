"""Train with pytorch-metric-learning: its NTXentLoss, the same loss from this package, and another strategy.

    python examples/metric_learning_digits.py                             no download, no GPU, under a minute
    python examples/metric_learning_digits.py --strategy square --strategy-tau 1

A small perceptron learns from a few hundred of scikit-learn's digits. In each batch a miner of pytorch-metric-learning
picks the pairs that are hard, and the loss compares them. Then every held-out digit looks for its nearest neighbour
among the other held-out digits: precision@1 says how often both show the same number.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from command_line import in_one_line

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import normalize

import compared
from compared import UNTRAINED, Run, compare

HOST = "NTXentLoss"


@dataclass(frozen=True)
class Settings(compared.Settings):
    """What to train, and how often."""

    images: int = 200
    """Training images, at most 1438; with all of them the task is too easy to tell losses apart."""
    epochs: int = 20
    batch_size: int = 100


def criterion(settings: Settings, method: str) -> nn.Module:
    """Return a loss by its name in the table."""
    from pytorch_metric_learning.losses import NTXentLoss  # here, after the options: --help is quick

    from alphacl_metric_learning import AlphaCLLoss

    if method == HOST:
        return NTXentLoss(temperature=settings.tau)  # type: ignore[no-any-return]
    return AlphaCLLoss(method, tau=settings.tau_of(method))


def train(settings: Settings, method: str, seed: int) -> tuple[dict[str, float], list[float]]:
    """Train a network and judge it; float64, so that two forms of one loss stay together."""
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    from quickstart_data import load_digits

    torch.manual_seed(seed)
    digits = load_digits()
    images, held_out = (x[:, 0].flatten(start_dim=1).double() / 255 for x in (digits.train, digits.test))
    labels, chosen = torch.as_tensor(digits.train_labels), torch.randperm(len(images))[: settings.images]
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32)).double()
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate)
    found = []
    if method != UNTRAINED:
        loss_of, miner = criterion(settings, method), MultiSimilarityMiner()
        for _ in range(settings.epochs):
            for batch in torch.split(chosen[torch.randperm(len(chosen))], settings.batch_size):
                embeddings = network(images[batch])
                loss: Any = loss_of(embeddings, labels[batch], miner(embeddings, labels[batch]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                found.append(loss.item())
    return {"precision@1": precision_at_1(network(held_out).detach(), torch.as_tensor(digits.test_labels))}, found


def precision_at_1(embeddings: Tensor, labels: Tensor) -> float:
    """Return in how many % of the rows the nearest other row, by cosine, is of the same class."""
    unit = normalize(embeddings, dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1)
    return 100 * (labels[nearest] == labels).double().mean().item()


def main(settings: Settings) -> list[Run]:
    """Train with each loss, print the table; returns the runs."""
    return compare(settings, HOST, partial(train, settings))


if __name__ == "__main__":
    options = tyro.cli(Settings, description=__doc__)
    with in_one_line(TypeError):
        main(options)
