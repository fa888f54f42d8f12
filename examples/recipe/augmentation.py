"""Views of images, drawn for each image of a batch on the device where the batch is: kornia, as torchvision would."""

import math

import kornia.augmentation as K
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from recipe.protocol import Augmentation

ATTEMPTS = 10
"""Crops that torchvision draws, to take the first that fits into the image."""


class RandomResizedCrop(nn.Module):
    """A crop of each image, drawn and resized as torchvision does it: pixels are squares, none outside are seen.

    (kornia's own resizing takes pixels for points, or else goes through the batch image by image; and before 0.9 its
    crops are never as wide or as high as the image.)

    Args:
        size: side of the result, in pixels; at least that of the crops, as nothing is done against aliasing.
        scale: smallest and largest area, relative to the image.
        ratio: smallest and largest width / height.

    Shape: ``[N, C, side, side]`` -> ``[N, C, size, size]``.
    """

    def __init__(self, size: int, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.scale, self.ratio = size, scale, ratio

    def forward(self, images: Tensor) -> Tensor:
        """Crop every image in its own way."""
        return self.resize(images, self.draw(len(images), images.shape[-1], images.device))

    def draw(self, n: int, side: int, device: torch.device) -> Tensor:
        """Return top, left, height and width of ``n`` crops; ``[n, 4]`` whole numbers."""
        area = side**2 * torch.empty(n, ATTEMPTS, device=device).uniform_(*self.scale)
        ratio = torch.empty(n, ATTEMPTS, device=device).uniform_(*map(math.log, self.ratio)).exp()
        sizes = torch.stack([area / ratio, area * ratio], dim=2).sqrt().round()
        first = (sizes <= side).all(dim=2).int().argmax(dim=1)
        size = sizes[torch.arange(n, device=device), first].clamp(1, side)
        room = side - size
        corner = torch.minimum((torch.rand(n, 2, device=device) * (room + 1)).floor(), room)
        return torch.cat([corner, size], dim=1)

    def resize(self, images: Tensor, crops: Tensor) -> Tensor:
        """Resize the crops bilinearly."""
        y, x = (_positions(crops[:, axis], crops[:, axis + 2], self.size, images.shape[-1]) for axis in (0, 1))
        grid = torch.stack((x[:, None].expand(-1, self.size, -1), y[:, :, None].expand(-1, -1, self.size)), dim=3)
        return grid_sample(images, grid, align_corners=True)


def _positions(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Where the ``size`` pixels of a resized line lie in one of ``side`` pixels, -1 to 1; ``[N], [N] -> [N, size]``."""
    centres = (torch.arange(size, device=start.device) + 0.5) / size
    first, last = start[:, None], (start + length - 1)[:, None]
    inside = (first - 0.5 + length[:, None] * centres).clamp(first, last)
    return 2 * inside / (side - 1) - 1


def augmentation(protocol: Augmentation, image_size: int) -> nn.Sequential:
    """Return what makes a view: ``[N, 3, H, W]`` in [0, 1] -> ``[N, 3, image_size, image_size]`` in [0, 1].

    Every image has its own draw of everything but one: the order of the four changes of colour is one for a call.
    """
    jitter = protocol.jitter
    steps: list[nn.Module] = [
        RandomResizedCrop(image_size, protocol.crop_scale, protocol.crop_ratio),
        K.RandomHorizontalFlip(p=protocol.flip),
        K.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, p=protocol.jitter_probability),
        K.RandomGrayscale(p=protocol.grayscale),
    ]
    if protocol.blur:
        kernel = (protocol.blur_kernel, protocol.blur_kernel)
        steps.append(K.RandomGaussianBlur(kernel, protocol.blur_sigma, p=protocol.blur))
    return nn.Sequential(*steps)
