"""How a small stem is made in a convolutional model: its downsampling is traced, then some of it undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from alphacl_timm.families import Undo

TRACED_SIZE = 128
"""Side of the image with which the downsampling is traced, so large that no map is a single pixel."""


class Reduction(NamedTuple):
    """A layer that makes its map smaller: downsampling of the network before and after it."""

    name: str
    layer: nn.Module
    before: int
    after: int


def undo(model: nn.Module, rule: Undo, image_size: int, *, keep_kernel: bool) -> None:
    """Divide the downsampling of a convolutional model by the rule's factor, in place.

    A convolution gets a smaller stride; its kernel stays, so trained weights do. An even kernel (patches) is padded, so
    patches overlap. Pooling without weights goes. A larger odd kernel that reads the image becomes 3x3: the
    centre of the old one, which for fresh weights is scaled (7x7 by 7/3) to what its initialisation would have been.

    Args:
        model: any model whose maps are ``[N, C, H, W]``; it reads images of ``model.in_chans`` channels.
        rule: by how much, and at which end.
        image_size: side of the images.
        keep_kernel: the weights are trained: do not scale the centre.
    """
    factor = rule.factor_at(image_size)
    reductions = list(trace(model))
    total = max(reduction.after for reduction in reductions)

    def kept(downsampling: int) -> int:
        return min(downsampling, total // factor) if rule.last else max(downsampling // factor, 1)

    for name, layer, before, after in reductions:
        stride = kept(after) // kept(before)
        if stride == after // before:
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _with_stride(layer, stride))
        if before == 1 and isinstance(layer, nn.Conv2d):
            _shrink_kernel(layer, scale=not keep_kernel)


def blank_images(model: nn.Module, count: int, side: int) -> Tensor:
    """Black images with the channels of a timm model, where its weights are."""
    weight = next(model.parameters())
    return torch.zeros(count, getattr(model, "in_chans", 3), side, side, device=weight.device, dtype=weight.dtype)


def trace(model: nn.Module) -> Iterator[Reduction]:
    """Find the layers that make maps smaller; in eval mode, which leaves statistics and random states alone."""
    sides: dict[nn.Module, tuple[int, int]] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        maps = (*inputs[:1], output)
        if len(maps) == 2 and all(isinstance(m, Tensor) and m.ndim == 4 and m.shape[2] == m.shape[3] for m in maps):
            sides[layer] = (maps[0].shape[3], maps[1].shape[3])

    hooks = [layer.register_forward_hook(record) for layer in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model(blank_images(model, 1, TRACED_SIZE))
    finally:
        model.train()
        for hook in hooks:
            hook.remove()
    return _reductions("", model, sides)


def _reductions(name: str, layer: nn.Module, sides: dict[nn.Module, tuple[int, int]]) -> Iterator[Reduction]:
    """Single layers with a stride, and the outermost modules without weights: a pooling may consist of several."""
    old, new = sides.get(layer, (1, 1))
    children = list(layer.named_children())
    if 1 < new < old and (_has_no_weights(layer) or (not children and hasattr(layer, "stride"))):
        yield Reduction(name, layer, round(TRACED_SIZE / old), round(TRACED_SIZE / new))
    else:
        for child_name, child in children:
            yield from _reductions(f"{name}.{child_name}".removeprefix("."), child, sides)


def _has_no_weights(layer: nn.Module) -> bool:
    return next(layer.parameters(), None) is None


def _with_stride(layer: Any, stride: int) -> nn.Module:
    if _has_no_weights(layer):
        return nn.Identity()
    if type(layer) is nn.Conv2d and layer.kernel_size[0] % 2 == 0:
        layer = _padded_by_timm(layer)
    layer.stride = (stride, stride)
    return cast(nn.Module, layer)


def _padded_by_timm(layer: nn.Conv2d) -> nn.Module:
    """The same convolution, of timm's kind that pads an even kernel on two sides as its stride needs."""
    with torch.device("meta"):  # no memory, no random numbers
        same = Conv2dSame(layer.in_channels, layer.out_channels, layer.kernel_size[0], groups=layer.groups)
    same.weight, same.bias = layer.weight, layer.bias
    return cast(nn.Module, same)


def _shrink_kernel(layer: nn.Conv2d, *, scale: bool) -> None:
    size = layer.kernel_size[0]
    if size <= 3 or size % 2 == 0:
        return
    edge = (size - 3) // 2
    centre = layer.weight.detach()[:, :, edge:-edge, edge:-edge]
    layer.weight = nn.Parameter(centre * (size / 3) if scale else centre.clone())
    layer.kernel_size = (3, 3)
    if layer.padding != (0, 0):  # timm's "same" layers pad in their forward
        layer.padding = (1, 1)
