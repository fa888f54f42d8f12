"""The encoders of two_encoders.py: their data, their training, and what they retrieve."""

from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from alphacl_plugins import AlphaCLLoss
from compared import recall
from launched import one_process, quiet
from quickstart_data import load_digits

HIDDEN, EMBEDDING, DROPOUT = 256, 64, 0.2
LOOK_EVERY = 50
"""Steps between two looks at the statistics of the loss, each a pass of its own; an epoch begins with one."""
COLUMNS = ("left → right @1", "left → right @5", "right → left @1", "right → left @5")


class Pairs(NamedTuple):
    """Samples, each seen in two modalities: row i of both is sample i. Shape: ``[N, 32]`` each, in [0, 1]."""

    left: Tensor
    right: Tensor


class TwoEncoders(L.LightningModule):
    """One encoder for each modality; the loss is a part of it, so that a strategy with parameters is trained too."""

    def __init__(self, criterion: AlphaCLLoss, learning_rate: float) -> None:
        super().__init__()
        self.left = encoder(inputs=32)
        self.right = encoder(inputs=32)
        self.criterion = criterion
        self.learning_rate = learning_rate
        self.curves: list[dict[str, float]] = []

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Compute the loss of a batch of pairs."""
        left, right = batch
        loss: Tensor = self.criterion(self.left(left), self.right(right))
        logged = {"loss": loss.detach()}
        if batch_index % LOOK_EVERY == 0:
            logged |= self.criterion.last_stats
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(left))
        return loss

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's means."""
        self.curves.append({name: value.item() for name, value in self.trainer.callback_metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, for both encoders and whatever the strategy learns."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def encoder(inputs: int) -> nn.Sequential:
    """Return a small perceptron, ``[N, inputs] -> [N, 64]``."""
    layers: list[nn.Module] = []
    for width in (inputs, HIDDEN):
        layers += [nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, EMBEDDING))


def load_pairs() -> tuple[Pairs, Pairs]:
    """Cut scikit-learn's digits down the middle; return the training and the held-out pairs."""
    digits = load_digits()
    train, test = (
        Pairs(*(half.flatten(start_dim=1) for half in (images[:, 0].float() / 255).chunk(2, dim=2)))
        for images in (digits.train, digits.test)
    )
    return train, test


@torch.no_grad()
def evaluate(model: TwoEncoders, pairs: Pairs) -> dict[str, float]:
    """Return recall@1 and @5 in both directions.

    Raises: ValueError if an embedding is not finite: the training diverged.
    """
    model.eval()
    left, right = model.left(pairs.left), model.right(pairs.right)
    if not (left.isfinite().all() and right.isfinite().all()):
        raise ValueError("embeddings: expected finite numbers, got others; the training has diverged")
    values = [recall(*directed, k) for directed in ((left, right), (right, left)) for k in (1, 5)]
    return dict(zip(COLUMNS, values, strict=True))


def fit(model: TwoEncoders, pairs: Pairs, epochs: int, batch_size: int, seed: int) -> None:
    """Train with Lightning; the seed decides the order of the pairs."""
    quiet()
    order = RandomSampler(pairs.left, generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(order, min(batch_size, len(pairs.left)), drop_last=True)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_progress_bar=False,
        **one_process(),
    )
    trainer.fit(model.train(), DataLoader(TensorDataset(*pairs), sampler=batches, batch_size=None))
