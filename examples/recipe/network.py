"""What is trained: a timm backbone under the paper's head."""

import torch
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn
from torchvision.transforms import v2

from alphacl_timm import create_backbone, open_residuals
from recipe.protocol import EMBEDDING_WIDTH, HIDDEN_WIDTH


class BackboneWithHead(nn.Module):
    """A backbone, whose features are judged, and the paper's head, on which the loss works.

    Args:
        backbone: maps images ``[N, 3, size, size]`` to features ``[N, width]``.
        width: of the features.
        mean, std: of the channels of images in [0, 1].

    Shape: images ``[N, 3, size, size]`` in [0, 1] -> embeddings ``[N, 128]``.
    """

    def __init__(self, backbone: nn.Module, width: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.normalize = v2.Normalize(list(mean), list(std))
        self.backbone = backbone
        self.head = ProjectionHead(
            [
                (width, HIDDEN_WIDTH, nn.BatchNorm1d(HIDDEN_WIDTH, affine=False), nn.ReLU(), True),
                (HIDDEN_WIDTH, EMBEDDING_WIDTH, None, None),
            ]
        )
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features of images in [0, 1], ``[N, width]``."""
        pixels = self.normalize(images).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.backbone(pixels)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings."""
        embeddings: Tensor = self.head(self.features(images))
        return embeddings


class Network(BackboneWithHead):
    """A timm backbone under the paper's head.

    Args:
        backbone: name of a timm model.
        image_size: side of the images in pixels.
        mean, std: of the channels of images in [0, 1].
    """

    def __init__(self, backbone: str, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        built = create_backbone(backbone, image_size=image_size)
        open_residuals(built)  # as the paper's network starts
        width: int = built.num_features  # type: ignore[assignment]
        super().__init__(built, width, mean, std)
