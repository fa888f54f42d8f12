"""Views of images, drawn for each image of a batch on the device where the batch is: kornia, as torchvision would."""

from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from recipe.protocol import Augmentation


class RandomResizedCrop(K.RandomResizedCrop):  # type: ignore[misc]  # kornia has no types
    """kornia's crops, resized as torchvision resizes: pixels are squares, and nothing outside the crop is seen.

    (kornia's own resizing takes pixels for points, or else goes through the batch image by image.)
    """

    def apply_transform(self, input: Tensor, params: dict[str, Tensor], flags: Any, transform: Any = None) -> Tensor:
        """Resize the crops, ``[N, C, H, W]``, bilinearly."""
        corner, opposite = (params["src"][:, which].to(input) for which in (0, 2))  # x, y of the outermost pixels
        x, y = (
            _positions(corner[:, axis], opposite[:, axis], self.flags["size"][1 - axis], input.shape[3 - axis])
            for axis in (0, 1)
        )
        rows, columns = y.shape[1], x.shape[1]
        grid = torch.stack((x[:, None].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)), dim=3)
        return grid_sample(input, grid, align_corners=True)


def _positions(first: Tensor, last: Tensor, size: int, full: int) -> Tensor:
    """Where the ``size`` pixels of a resized line lie in one of ``full`` pixels, -1 to 1; ``[N], [N] -> [N, size]``."""
    step = (last - first + 1) / size
    centres = torch.arange(size, device=first.device, dtype=first.dtype) + 0.5
    inside = (first[:, None] - 0.5 + step[:, None] * centres).clamp(first[:, None], last[:, None])
    return 2 * inside / (full - 1) - 1


def augmentation(protocol: Augmentation, image_size: int) -> nn.Sequential:
    """Return what makes a view: ``[N, 3, H, W]`` in [0, 1] -> ``[N, 3, image_size, image_size]`` in [0, 1].

    Every image has its own draw of everything but one: the order of the four changes of colour is one for a call.
    """
    jitter = protocol.jitter
    steps: list[nn.Module] = [
        RandomResizedCrop((image_size, image_size), scale=protocol.crop_scale, ratio=protocol.crop_ratio),
        K.RandomHorizontalFlip(p=protocol.flip),
        K.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, p=protocol.jitter_probability),
        K.RandomGrayscale(p=protocol.grayscale),
    ]
    if protocol.blur:
        kernel = (protocol.blur_kernel, protocol.blur_kernel)
        steps.append(K.RandomGaussianBlur(kernel, protocol.blur_sigma, p=protocol.blur))
    return nn.Sequential(*steps)
