"""What is trained: a small CNN that a CPU trains in minutes, or any timm backbone, under the paper's head."""

from torch import nn

from recipe.network import BackboneWithHead, Network

SMALL = "small"
WIDTHS = ((32, 32), (64, 64), (128, 256))
"""Of the 3x3 convolutions; each pair but the last is followed by pooling."""


def build_network(backbone: str, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> BackboneWithHead:
    """Return the network with weights drawn from PyTorch's global generator.

    Args:
        backbone: "small", or the name of a timm model.
        image_size: side of the images in pixels.
        mean, std: of the channels of images in [0, 1].
    """
    if backbone == SMALL:
        return BackboneWithHead(small_backbone(), WIDTHS[-1][-1], mean, std)
    return Network(backbone, image_size, mean, std)


def small_backbone() -> nn.Module:
    """Return six 3x3 convolutions with batch norm and ReLU, and the mean over the pixels: features ``[N, 256]``."""
    layers: list[nn.Module] = []
    width = 3
    for block in WIDTHS:
        layers += [nn.MaxPool2d(2)] if layers else []
        for out in block:
            layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
