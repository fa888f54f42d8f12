"""What is trained: a small CNN that a CPU trains in minutes, or any timm backbone, under the paper's head."""

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from recipe import network as recipe_network
from recipe.network import projection_head

SMALL = "small"
WIDTHS = ((32, 64), (64, 128), (128, 256))
"""Of the 3x3 convolutions; each pair but the last is followed by pooling."""


class SmallNetwork(nn.Module):
    """Six 3x3 convolutions with batch norm and ReLU, the mean over the pixels, and the paper's head.

    Args:
        mean, std: of the channels of images in [0, 1].

    Shape: images ``[N, 3, size, size]`` in [0, 1] -> embeddings ``[N, 128]``.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.normalize = v2.Normalize(list(mean), list(std))
        layers: list[nn.Module] = []
        width = 3
        for block in WIDTHS:
            layers += [nn.MaxPool2d(2)] if layers else []
            for out in block:
                layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
                width = out
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = projection_head(width)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features of images in [0, 1], ``[N, 256]``."""
        pixels = self.normalize(images).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.backbone(pixels)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings."""
        embeddings: Tensor = self.head(self.features(images))
        return embeddings


Network = SmallNetwork | recipe_network.Network


def build_network(backbone: str, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Network:
    """Return the network with weights drawn from PyTorch's global generator.

    Args:
        backbone: "small", or the name of a timm model.
        image_size: side of the images in pixels.
        mean, std: of the channels of images in [0, 1].
    """
    if backbone == SMALL:
        return SmallNetwork(mean, std)
    return recipe_network.Network(backbone, image_size, mean, std)
