"""Undoing downsampling: on small networks whose strides are known, and on stems whose outputs can be compared."""

from itertools import pairwise

import pytest
import timm
import torch
from timm.layers import BlurPool2d
from timm.layers.std_conv import StdConv2dSame
from torch import nn
from torch.testing import assert_close

from alphacl_timm import create_backbone
from alphacl_timm.families import Undo
from alphacl_timm.stems import trace, undo


def network() -> nn.Sequential:
    """Halves five times: convolution, pooling of two parts, convolution beside a shortcut, pooling, convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 7, 2, 3),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), BlurPool2d(4)),
        Residual(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 5, 2, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(4, 4, 3, 2, 1)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(4, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + self.shortcut(x)


def test_trace_finds_every_layer_that_makes_maps_smaller():
    assert [(name, before, after) for name, _, before, after in trace(network())] == [
        ("0", 1, 2),
        ("1", 2, 4),
        ("2.branch", 4, 8),
        ("2.shortcut.0", 4, 8),
        ("3", 8, 16),
        ("4", 16, 32),
    ]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16, 32])
def test_the_downsampling_is_divided_by_the_factor(factor, last):
    model = network()
    undo(model, Undo({64: factor}, last=last), 32, keep_kernel=False)
    assert model[:5](torch.rand(1, 3, 64, 64)).shape[-1] == 2 * factor
    assert all(module.training for module in model.modules())
    assert all(not module._forward_hooks for module in model.modules())


def test_the_first_or_the_last_halvings_go():
    def strides(last: bool) -> list[int]:
        model = network()
        undo(model, Undo({64: 8}, last=last), 32, keep_kernel=False)
        return [round(before.shape[-1] / after.shape[-1]) for before, after in maps_of(model)]

    assert strides(last=False) == [1, 1, 1, 2, 2]
    assert strides(last=True) == [2, 2, 1, 1, 1]


def maps_of(model: nn.Sequential) -> list[tuple[torch.Tensor, torch.Tensor]]:
    maps = [torch.rand(1, 3, 64, 64)]
    for layer in model[:5]:
        maps.append(layer(maps[-1]))
    return list(pairwise(maps))


def test_only_the_convolution_that_reads_the_image_gets_a_smaller_kernel():
    model = network()
    kernel, fifth = model[0].weight.clone(), model[4].weight.clone()
    undo(model, Undo({64: 32}), 32, keep_kernel=True)
    assert_close(model[0].weight, kernel[:, :, 2:5, 2:5], rtol=0, atol=0)
    assert_close(model[4].weight, fifth, rtol=0, atol=0)
    assert model[0].weight.requires_grad


def test_a_fresh_kernel_keeps_the_variance_of_what_it_gives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 512, 7, 2, 3, bias=False))
    before = model(torch.randn(64, 3, 32, 32))[:, :, 2:-2, 2:-2].std().item()
    undo(model, Undo({64: 2}), 32, keep_kernel=False)
    after = model(torch.randn(64, 3, 32, 32))[:, :, 2:-2, 2:-2].std().item()
    assert after / before == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("image_size", "stride"), [(32, 1), (64, 2)])
def test_overlapping_patches_contain_those_of_timm(image_size, stride):
    torch.manual_seed(0)
    ours = create_backbone("convnext_atto", image_size).stem[0]
    theirs = timm.create_model("convnext_atto", num_classes=0).stem[0]
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, image_size, image_size)
    dense = ours(images)
    assert dense.shape[-1] == image_size // stride
    moved = nn.functional.pad(images, (1, 3, 1, 3))[:, :, :image_size, :image_size]  # the first patch starts at -1
    assert_close(dense[:, :, :: 4 // stride, :: 4 // stride], theirs(moved))


def test_the_factor_of_the_largest_side_holds_above_it():
    rule = Undo({32: 4, 64: 2})
    assert [rule.factor_at(size) for size in (8, 32, 33, 64, 65, 224)] == [4, 4, 2, 2, 2, 2]


def test_a_vgg_loses_its_last_poolings_and_not_its_first():
    def pools(image_size: int) -> list[bool]:
        with torch.device("meta"):
            model, standard = create_backbone("vgg11", image_size), timm.create_model("vgg11")
        layers = zip(model.features, standard.features, strict=True)
        return [isinstance(ours, nn.MaxPool2d) for ours, theirs in layers if isinstance(theirs, nn.MaxPool2d)]

    assert pools(32) == [True, True, True, False, False]
    assert pools(64) == [True, True, True, True, False]


def test_a_convolution_that_pads_by_itself_does_so_with_its_smaller_kernel():
    model = nn.Sequential(StdConv2dSame(3, 4, 7, stride=2))
    undo(model, Undo({64: 2}), 32, keep_kernel=False)
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 4, 32, 32)
