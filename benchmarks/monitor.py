"""What a RepresentationMonitor costs, as a share of training: SimCLR of lightly on an image folder.

python benchmarks/monitor.py --data-root DIR      DIR/<class>/*; five epochs, one look at their end
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import tyro
from lightly.data import LightlyDataset
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from alphacl_lightly import AlphaCLLoss, RepresentationMonitor
from alphacl_timm import create_backbone

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from provenance import environment, replace_file
from recipe.stopping import in_one_line


@dataclass(frozen=True)
class Settings:
    """What is trained."""

    data_root: Path
    """Image folder: DIR/<class>/*."""
    images: int = 10_000
    """How many of them, evenly taken."""
    backbone: str = "test_resnet"
    """Any timm model."""
    epochs: int = 5
    """How many; the monitor looks every five, its default."""
    batch_size: int = 256
    """Images in a batch."""
    output: Path = Path("results/monitor.json")
    """Where the figures go."""


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


def main(settings: Settings) -> None:
    """Train, and say what part of the time the monitor took."""
    data = LightlyDataset(str(settings.data_root), transform=SimCLRTransform(input_size=32))
    count = min(settings.images, len(data))
    chosen = Subset(data, [i * len(data) // count for i in range(count)])
    loader: DataLoader[Any] = DataLoader(chosen, settings.batch_size, shuffle=True, drop_last=True)
    monitor = RepresentationMonitor()
    trainer = L.Trainer(
        max_epochs=settings.epochs, logger=False, enable_checkpointing=False, callbacks=[monitor], accelerator="auto"
    )
    began = time.perf_counter()
    trainer.fit(SimCLR(settings.backbone), loader)
    total = time.perf_counter() - began
    look = monitor.seconds / len(monitor.history)
    epoch = (total - monitor.seconds) / settings.epochs
    share = look / (monitor.every_n_epochs * epoch)
    print(f"an epoch {epoch:.1f} s, a look {look:.2f} s: {100 * share:.2f} % of training, with a look every 5 epochs")
    content = {
        "settings": asdict(settings) | {"data_root": settings.data_root.name, "output": settings.output.name},
        "epoch_seconds": epoch,
        "look_seconds": look,
        "share": share,
        "environment": environment(),
    }
    text = json.dumps(content, indent=1) + "\n"
    replace_file(settings.output, lambda part: part.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    with in_one_line():
        main(tyro.cli(Settings, description=__doc__))
