"""Views, network and training loop of the quickstart: kornia, timm, lightly and Lightning, each used as it is."""

import hashlib
import sys

import kornia.augmentation as K
import lightning as L
import torch
from lightly.models.modules import SimCLRProjectionHead
from lightly.utils.scheduler import CosineWarmupScheduler
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torchvision.transforms import v2

from alphacl_lightly import AlphaCLLoss, Embedded, RepresentationMonitor
from alphacl_timm import create_backbone
from launched import one_process, quiet
from quickstart_data import Images

WEIGHT_DECAY = 1e-4
EMBEDDING_WIDTH = 128
LOOK_EVERY = 50
"""Steps between two looks at the statistics of the loss, each a pass of its own; an epoch begins with one."""


class Network(nn.Module):
    """A timm backbone, whose features are judged, and a lightly projection head, on which the loss works.

    Args:
        backbone: name of a timm model.
        images: whose size and colours it is made for.

    Shape: images ``[N, 3, size, size]`` in [0, 1] -> embeddings ``[N, 128]``.
    """

    def __init__(self, backbone: str, images: Images) -> None:
        super().__init__()
        channels = [channel.float() / 255 for channel in images.train.unbind(dim=1)]
        self.normalize = v2.Normalize([x.mean().item() for x in channels], [x.std().item() for x in channels])
        self.backbone = create_backbone(backbone, image_size=images.size)
        width = self.backbone.num_features
        self.head = SimCLRProjectionHead(width, width, EMBEDDING_WIDTH)

    def features(self, images: Tensor) -> Tensor:
        """Return what the backbone says of images in [0, 1]."""
        features: Tensor = self.backbone(self.normalize(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings."""
        embeddings: Tensor = self.head(self.features(images))
        return embeddings


def augmentation(images: Images) -> nn.Module:
    """Random changes that keep the class, drawn for each image of a batch: ``[N, 3, H, W]`` in [0, 1] -> the same."""
    if not images.photos:
        return nn.Sequential(
            K.RandomAffine(degrees=15, translate=(0.1, 0.1), scale=(0.85, 1.15), shear=10, p=1.0),
            K.RandomErasing(scale=(0.05, 0.2), p=0.5),
            K.RandomContrast((0.6, 1.4), p=0.8),
        )
    return nn.Sequential(  # SimCLR's for CIFAR
        K.RandomResizedCrop((images.size, images.size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
    )


class Training(L.LightningModule):
    """Contrastive training of a network: two views of each image, each through the network by itself.

    Args:
        network: is trained in place.
        loss: of the two embeddings.
        augment: makes a view.
        learning_rate: largest of the schedule.
    """

    def __init__(self, network: nn.Module, loss: AlphaCLLoss, augment: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.augment = augment
        self.learning_rate = learning_rate
        self.curves: list[dict[str, float]] = []

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Compute the loss of one batch of uint8 images."""
        images = batch[0].float() / 255
        loss: Tensor = self.loss(self.network(self.augment(images)), self.network(self.augment(images)))
        self.log("loss", loss.detach(), prog_bar=True, on_step=False, on_epoch=True, batch_size=len(images))
        if batch_index % LOOK_EVERY == 0:
            self.log_dict(self.loss.last_stats, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's means."""
        found = self.trainer.callback_metrics.items()
        self.curves.append({name: value.item() for name, value in found if not name.startswith("monitor/")})

    def configure_optimizers(self) -> L.pytorch.utilities.types.OptimizerLRScheduler:
        """AdamW; over the batches the rate rises for a tenth of them and then falls along a cosine."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=WEIGHT_DECAY)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = CosineWarmupScheduler(optimizer, warmup_epochs=steps // 10, max_epochs=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def embed(training: Training, batch: list[Tensor]) -> Embedded:
    """Embed two views of each image, as in training."""
    images, labels = batch[0].float() / 255, batch[1]
    views = [training.network(training.augment(images)) for _ in range(2)]
    return Embedded(views, training.network.features(images), labels)  # type: ignore[operator]


def fit(
    training: Training, images: Images, epochs: int, batch_size: int, seed: int, accelerator: str
) -> list[dict[str, float]]:
    """Train with Lightning; the seed alone decides the order of the images and their augmentations.

    Returns: what the monitor saw of held-out images, every five epochs.
    """
    quiet()
    L.seed_everything(seed, verbose=False)
    order = RandomSampler(images.train, generator=torch.Generator().manual_seed(seed))
    loader = DataLoader(
        TensorDataset(images.train), sampler=BatchSampler(order, batch_size, drop_last=True), batch_size=None
    )
    held_out = DataLoader(TensorDataset(images.test, torch.as_tensor(images.test_labels)), batch_size)
    monitor: RepresentationMonitor = RepresentationMonitor(held_out, embed=embed)
    interactive = sys.stdout.isatty()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        deterministic=True,
        enable_progress_bar=interactive,
        callbacks=[monitor, RichProgressBar(leave=False)] if interactive else [monitor],
        **one_process(),
    )
    trainer.fit(training, loader)
    return monitor.history


def fingerprint(network: nn.Module) -> str:
    """Return a digest of every weight and buffer: equal networks, equal digests."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
