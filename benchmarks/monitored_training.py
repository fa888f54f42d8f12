"""The training that monitor.py times: SimCLR of lightly with a timm backbone, and a RepresentationMonitor."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightly.data import LightlyDataset
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from alphacl_lightly import AlphaCLLoss, RepresentationMonitor
from alphacl_timm import create_backbone


class SimCLR(L.LightningModule):
    """lightly's example, with a timm backbone; times its epochs."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, 32)
        width: Any = self.backbone.num_features
        self.head = SimCLRProjectionHead(width, width, 128)
        self.criterion = AlphaCLLoss("infonce", tau=0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        embeddings: Tensor = self.head(self.backbone(x))
        return embeddings

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Contrast two views."""
        x0, x1 = batch[0]
        loss: Tensor = self.criterion(self(x0), self(x1))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.06)


def train(
    data_root: Path, images: int, backbone: str, epochs: int, batch_size: int
) -> tuple[RepresentationMonitor, float]:
    """Return the monitor, and the seconds of the training with it."""
    data = LightlyDataset(str(data_root), transform=SimCLRTransform(input_size=32))
    count = min(images, len(data))
    chosen = Subset(data, [i * len(data) // count for i in range(count)])
    loader: DataLoader[Any] = DataLoader(chosen, batch_size, shuffle=True, drop_last=True)
    monitor = RepresentationMonitor()
    trainer = L.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, callbacks=[monitor], accelerator="auto"
    )
    began = time.perf_counter()
    trainer.fit(SimCLR(backbone), loader)
    return monitor, time.perf_counter() - began
