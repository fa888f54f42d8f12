"""timm models that give one vector per small image.

An ImageNet model is made for 224 px; the last map of most is 7x7 there and a single pixel at 32 px. Up to 64 px some
layers are therefore changed, by the rule of the model's family that `alphacl_timm.families` lists.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

try:
    import timm
    from timm.models import (
        get_deprecated_models,
        get_pretrained_cfg,
        is_model,
        list_models,
        model_entrypoint,
        parse_model_name,
        resolve_model_input_args,
        resolve_pretrained_cfg,
    )
except ImportError as error:
    raise ImportError("alphacl_timm needs timm: pip install 'alphacl-plugins[timm]'") from error

from alphacl_plugins.checks import check_count
from alphacl_timm.families import Family, Patches, Undo, family_of
from alphacl_timm.stems import blank_images, undo
from alphacl_timm.weights import check_loaded, load_file, noted_loads

SMALL_IMAGE = 64
"""Largest image side, in pixels, that gets a small stem by itself; 96-px STL-10 keeps the standard one."""

STEMS = ("auto", "keep", "small")

FAILURES = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError)
"""What timm's models raise for sizes that they cannot process."""


def create_backbone(
    name: str, image_size: int = 32, pretrained: bool = False, *, stem: str = "auto", **options: Any
) -> nn.Module:
    """Build a timm model as a feature extractor for small images.

    The small stem keeps more of the resolution, by the rule of the model's family (`alphacl_timm.families`): a ResNet's
    becomes 3x3 with stride 1, without pooling; other convolutional networks lose their first (VGG: last) halvings; ViT
    and Swin get smaller patches. Everything else is timm's.

    With ``pretrained``, timm loads its weights. Strides and pooling have none; a 7x7 kernel that becomes 3x3 keeps its
    centre; patch embeddings, position embeddings and position biases are resampled by timm to the new sizes.

    Args:
        name: timm model name, with or without a pretrained tag, or one that timm finds elsewhere:
            ``hf-hub:owner/model``, ``local-dir:folder``.
        image_size: side of the square images it will see, in pixels, >= 1.
        pretrained: load timm's weights (from the network or timm's cache).
        stem: "auto": small up to 64 px where the family has a small stem, else the model's own; "keep": its own;
            "small": the small one at any size.
        **options: of ``timm.create_model``, such as ``in_chans``, ``global_pool``, ``drop_path_rate``; they go before
            what the stem would set. Weights of ``checkpoint_path`` are read before the stem is changed.

    Shape:
        the module maps ``[N, in_chans, image_size, image_size]`` to ``[N, module.num_features]``.

    Raises:
        ValueError: for an unknown name or stem, a model that does not give one vector per image, a family without a
            small stem if one is asked for, a size that is not positive or that the model cannot process, weights that
            timm does not have or that do not fit, options that timm refuses, or ``num_classes``
        TypeError: if ``name`` is not a string, ``image_size`` or ``in_chans`` not an int, or for options that the model
            does not know
        FileNotFoundError: if there is no file at ``checkpoint_path``.

    Examples:
        >>> backbone = create_backbone("test_resnet", image_size=32)
        >>> backbone(torch.rand(2, 3, 32, 32)).shape[1] == backbone.num_features
        True
    """
    check_count("image_size", image_size)
    _check_name(name)
    _check_options(options)
    if stem not in STEMS:
        raise ValueError(f"stem: expected one of {', '.join(map(repr, STEMS))}, got {stem!r}")
    architecture, config = _look_up(name)
    _check_weights(name, config, pretrained, options)
    family = _family(architecture)
    small = _small_stem(name, family, image_size, stem)
    sizes = _sizes(config, family, small, image_size)
    checkpoint = options.pop("checkpoint_path", None)
    try:
        with noted_loads() as loads:
            model = timm.create_model(name, pretrained, **{**sizes, **options, "num_classes": 0})
    except OSError:  # a download that failed
        raise
    except FAILURES as error:
        raise _cannot_build(name, family, image_size, options, error) from error
    check_loaded(model, name, loads)
    if checkpoint:
        load_file(model, name, checkpoint)
    try:
        if isinstance(small, Undo):
            undo(model, small, image_size, keep_kernel=pretrained or bool(checkpoint))
        features = _probe(model, image_size)
    except FAILURES as error:
        raise _cannot_process(name, family, image_size, error) from error
    if family and isinstance(family.small, Patches):
        _check_patches(model, name, image_size)
    _set_width(model, _width(features, name))
    return model


def open_residuals(model: nn.Module) -> None:
    """Let every residual branch take part from the start, as in torchvision's networks and the α-CL paper's.

    timm starts the last batch norm of a branch with weights of 0, so that a block begins as the identity. Batch norms
    whose weights are all 0 get weights of 1; nothing else is changed.

    Args:
        model: new, not trained; changed in place.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)


def _check_name(name: str) -> None:
    """Refuse what can be refused before any weight is made."""
    if not isinstance(name, str):
        raise TypeError(f"name: expected a timm model name, got {name!r}")
    if _is_elsewhere(name):
        return
    if not is_model(name):
        close = difflib.get_close_matches(name, list_models(), n=5)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ValueError(f"name: expected a timm model name, got {name!r}{hint}")
    if name in get_deprecated_models() and get_deprecated_models()[name] is None:
        raise ValueError(f"name: expected a timm model name, got {name!r}, which timm has removed")
    architecture, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in list_models(f"{architecture}.*", include_tags=True)] if tag else []
    if tag and tag not in tags:
        raise ValueError(f"name: expected one of the tags {', '.join(tags)} for {architecture}, got {name!r}")


def _is_elsewhere(name: str) -> bool:
    """Whether timm finds the model on the Hugging Face hub or in a folder.

    Raises:
        ValueError: for another prefix, or a path without one.
    """
    try:
        return parse_model_name(name)[0] is not None
    except ValueError as error:
        raise ValueError(f"name: expected a timm model name, got {name!r}: {error}") from None


def _check_options(options: dict[str, Any]) -> None:
    if options.get("num_classes"):
        raise ValueError(
            "num_classes: expected none, as a backbone has no classifier (reset_classifier adds one), "
            f"got {options['num_classes']!r}"
        )
    if options.get("in_chans") is not None:  # None is timm's word for its own default
        check_count("in_chans", options["in_chans"])


def _look_up(name: str) -> tuple[str, Any]:
    """The name of the architecture and timm's description of the weights, None for a model without one."""
    if _is_elsewhere(name):
        found = resolve_model_input_args(name)
        return found["model_name"], resolve_pretrained_cfg(found["model_name"], found["pretrained_cfg"])
    current = get_deprecated_models().get(name) or name  # timm maps its old names to new ones
    return current, get_pretrained_cfg(current)


def _check_weights(name: str, config: Any, pretrained: bool, options: dict[str, Any]) -> None:
    described = options.get("pretrained_cfg") or options.get("pretrained_cfg_overlay")
    if pretrained and not described and not (config and config.has_weights):
        raise ValueError(f"pretrained: expected False, as timm has no weights for {name}, got True")


def _family(name: str) -> Family | None:
    package, _, module = model_entrypoint(name).__module__.rpartition(".")
    if package != "timm.models":  # a user's own: its family is that of its class
        with torch.device("meta"):  # no memory, no random numbers
            module = type(timm.create_model(name)).__module__.rpartition(".")[2]
    return family_of(module)


def _small_stem(name: str, family: Family | None, image_size: int, stem: str) -> Undo | Patches | None:
    """The rule that applies, None for the model's own stem."""
    if stem == "keep" or (stem == "auto" and image_size > SMALL_IMAGE):
        return None
    if stem == "small" and (family is None or family.small is None):
        why = f" ({family.title}: {family.why})" if family else ""
        raise ValueError(f"stem: expected 'auto' or 'keep', as {name} has no small stem{why}, got 'small'")
    return family.small if family else None


def _sizes(config: Any, family: Family | None, small: Undo | Patches | None, image_size: int) -> dict[str, Any]:
    """The options of timm that say for which sizes it must build the model."""
    options: dict[str, Any] = {}
    if isinstance(small, Patches):
        options = {"img_size": image_size, "patch_size": small.side_at(image_size)}
    elif config and config.fixed_input_size:  # with an Undo, the maps are those of an image larger by its factor
        options = {"img_size": image_size * (small.factor_at(image_size) if small else 1)}
    rule = family.small if family else None
    if isinstance(rule, Patches) and rule.windowed and (small or not config or image_size != config.input_size[-1]):
        map_side = image_size // options.get("patch_size", rule.windowed)
        options["window_size"] = max(1, map_side // 8)
    return options


def _probe(model: nn.Module, image_size: int) -> object:
    """The features of two images; in eval mode, so no statistic of the model and no random state changes."""
    model.eval()
    try:
        with torch.no_grad():
            return model(blank_images(model, 2, image_size))
    finally:
        model.train()


def _cannot_build(
    name: str, family: Family | None, image_size: int, options: dict[str, Any], cause: Exception
) -> Exception:
    if not options:
        return _cannot_process(name, family, image_size, cause)
    kind = TypeError if isinstance(cause, TypeError) else ValueError
    return kind(f"options: expected those of timm's {name} for {image_size} px, got {options}: {cause}")


def _cannot_process(name: str, family: Family | None, image_size: int, cause: Exception) -> ValueError:
    why = f" ({family.title}: {family.why})" if family and family.small is None else ""
    reason = f"{type(cause).__name__} {cause}".strip()
    return ValueError(f"image_size: expected a size that {name} can process{why}, got {image_size}: {reason}")


def _check_patches(model: Any, name: str, image_size: int) -> None:
    """Refuse a size of which timm would drop the pixels beyond the last whole patch."""
    side = model.patch_embed.patch_size[0]
    if image_size % side:
        raise ValueError(
            f"image_size: expected a multiple of {side}, the patch of {name}, or a small stem, got {image_size}"
        )


def _width(features: object, name: str) -> int:
    if isinstance(features, Tensor) and features.ndim == 2:
        return features.shape[1]
    shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
    raise ValueError(f"name: expected a model that gives one vector per image, got {name!r}, which gives {shape}")


def _set_width(model: Any, width: int) -> None:
    """Let ``num_features`` be the measured width, and timm's ``reset_classifier`` still find its own value there."""
    if model.num_features != width:
        model.reset_classifier = partial(_reset_classifier, model, width, model.num_features)
    model.num_features = width


def _reset_classifier(model: Any, width: int, own_width: int, *args: Any, **kwargs: Any) -> None:
    measured = model.num_features == width  # not after timm has pruned layers
    if measured:
        model.num_features = own_width
    try:
        type(model).reset_classifier(model, *args, **kwargs)
    finally:
        if measured:
            model.num_features = width
