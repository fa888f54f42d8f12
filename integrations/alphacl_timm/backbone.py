"""timm models that give pooled features of small images.

An ImageNet ResNet halves its input twice before its first block, so a 32-px image ends as a 1x1 map. At small sizes the
stem is therefore changed in place: 3x3 convolution, stride 1, no pooling (the usual CIFAR form).
"""

import difflib

import torch
from torch import nn

try:
    import timm
    from timm.models import ResNet, is_model, list_models, model_entrypoint
except ImportError as error:
    raise ImportError("alphacl_timm needs timm: pip install 'alphacl-plugins[timm]'") from error

SMALL_IMAGE = 64
"""Largest image side, in pixels, that gets the small stem; 96-px STL-10 keeps the standard one."""

RESNET_MODULES = ("res2net", "resnest", "resnet", "sknet")
"""The modules of ``timm.models`` whose models are instances of timm's ResNet."""


def create_backbone(name: str, image_size: int = 32, pretrained: bool = False) -> nn.Module:
    """Build a timm ResNet (ResNet-D, ResNeXt, wide, SE, ECA, SK, Res2Net, ResNeSt, ...) as a feature extractor.

    Up to 64 px the stem keeps the resolution: the 7x7 stride-2 convolution becomes 3x3 stride 1, a deep stem's first
    convolution gets stride 1, pooling goes, and a convolution that stands for pooling (ResNet-RS) stays with stride 1.
    A fresh 3x3 kernel is initialised as timm does (Kaiming normal, fan-out); with ``pretrained`` it is the central 3x3
    part of the trained 7x7 kernel, and everything else keeps its trained weights. Above 64 px nothing is changed.

    Args:
        name: timm model name, with or without a pretrained tag.
        image_size: side of the square images it will see, in pixels, >= 1.
        pretrained: load timm's weights (from the network or timm's cache).

    Shape: the module maps ``[N, 3, image_size, image_size]`` to ``[N, module.num_features]``.
    Raises: ValueError for an unknown name, a model of another family, or a size that is not positive or that the model
        cannot process; TypeError if ``name`` is not a string or ``image_size`` not an int.
    """
    _check_image_size(image_size)
    _check_name(name)
    model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    if not isinstance(model, ResNet):
        raise _other_family(name)
    if image_size <= SMALL_IMAGE:
        _shrink_stem(model, keep_kernel=pretrained)
    model.num_features = _feature_width(model, name, image_size)
    return model


def _check_image_size(image_size: int) -> None:
    if not isinstance(image_size, int) or isinstance(image_size, bool):
        raise TypeError(f"image_size: expected an int, got {image_size!r}")
    if image_size < 1:
        raise ValueError(f"image_size: expected an int >= 1, got {image_size}")


def _check_name(name: str) -> None:
    """Refuse what can be refused before any weight is made."""
    if not isinstance(name, str):
        raise TypeError(f"name: expected a timm model name, got {name!r}")
    if not is_model(name):
        close = difflib.get_close_matches(name, list_models(), n=5)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ValueError(f"name: expected a timm model name, got {name!r}{hint}")
    architecture, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in list_models(f"{architecture}.*", include_tags=True)] if tag else []
    if tag and tag not in tags:
        raise ValueError(f"name: expected one of the tags {', '.join(tags)} for {architecture}, got {name!r}")
    package, _, module = model_entrypoint(name).__module__.rpartition(".")
    # Modules with an underscore hold old names, other packages a user's own models: those show their family when built.
    if package == "timm.models" and not module.startswith("_") and module not in RESNET_MODULES:
        raise _other_family(name)


def _other_family(name: str) -> ValueError:
    known = ", ".join(RESNET_MODULES)
    return ValueError(
        f"name: expected a model of the ResNet family (timm.models: {known}), "
        f"such as resnet18, resnet50d, resnext50_32x4d or wide_resnet50_2, got {name!r}"
    )


def _shrink_stem(model: ResNet, *, keep_kernel: bool) -> None:
    """Make the stem keep the resolution."""
    model.add_module("conv1", _small_entry(model.conv1, keep_kernel=keep_kernel))
    model.add_module("maxpool", _without_pooling(model.maxpool))


def _small_entry(entry: nn.Module, *, keep_kernel: bool) -> nn.Module:
    """The plain stem's only convolution becomes small; a deep stem's first one gets stride 1."""
    if isinstance(entry, nn.Conv2d):
        return _small_convolution(entry, keep_kernel=keep_kernel)
    first = next(layer for layer in entry.modules() if isinstance(layer, nn.Conv2d))
    first.stride = (1, 1)
    return entry


def _without_pooling(pooling: nn.Module) -> nn.Module:
    """Maximum, average and blur pooling go; a learned convolution stays, with stride 1."""
    learned = [layer for layer in pooling.modules() if isinstance(layer, nn.Conv2d)]
    for layer in learned:
        layer.stride = (1, 1)
    return pooling if learned else nn.Identity()


def _small_convolution(large: nn.Conv2d, *, keep_kernel: bool) -> nn.Conv2d:
    """A 3x3 stride-1 convolution in place of a larger one, with the centre of its kernel or a fresh one."""
    # Made without values, so no random numbers are drawn for a default initialisation that is thrown away.
    small = nn.Conv2d(large.in_channels, large.out_channels, 3, stride=1, padding=1, bias=False, device="meta")
    small.to_empty(device=large.weight.device)
    if keep_kernel:
        top, left = ((size - 3) // 2 for size in large.kernel_size)
        with torch.no_grad():
            small.weight.copy_(large.weight[:, :, top : top + 3, left : left + 3])
    else:
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    return small


def _feature_width(model: ResNet, name: str, image_size: int) -> int:
    """Probe the width of the features; in eval mode, so no statistic of the model and no random state changes."""
    model.eval()
    images = torch.zeros(1, 3, image_size, image_size)
    try:
        with torch.no_grad():
            stem = model.maxpool(model.act1(model.bn1(model.conv1(images))))
            features = model(images)
    except RuntimeError as error:
        raise ValueError(f"image_size: expected a size that {name} can process, got {image_size}: {error}") from error
    finally:
        model.train()
    if image_size <= SMALL_IMAGE and stem.shape[-1] != image_size:
        raise ValueError(f"name: expected a ResNet whose stem is a known form, got {name!r} with {model.maxpool}")
    return int(features.shape[1])
