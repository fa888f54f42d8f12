"""Any timm model as a backbone of solo-learn: ``backbone: {name: timm/convnext_atto}``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "timm/"
CUSTOM_SIZE = 224
"""Side in pixels at which solo-learn evaluates images from a folder, whatever the config says."""
OF_TRAINING_ALONE = ("pretrained", "checkpoint_path", "drop_")
"""Beginnings of the options that change no feature of given weights."""
CHANGES_NO_FEATURE = ("num_batches_tracked", "built_for")
"""Ends of the names in a state dict that a checkpoint may lack."""


class Backbones(dict[str, Any]):
    """solo-learn's table of backbones, in which every name that begins with ``timm/`` is present.

    A backbone from this table refuses a checkpoint that would leave some of its weights random, or is that of another
    build, which ``main_linear.py`` accepts.
    """

    def __contains__(self, name: object) -> bool:
        return (isinstance(name, str) and name.startswith(PREFIX)) or super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        ours = name.startswith(PREFIX)
        build = partial(timm_backbone, name.removeprefix(PREFIX)) if ours else super().__getitem__(name)
        return partial(_build_to_load_whole, build)


def timm_backbone(name: str, method: str | None = None, **kwargs: Any) -> nn.Module:
    """Build a timm model as solo-learn builds its backbones.

    Its weights remember what they were trained for: reading them into a model of another image size, stem or pooling,
    as ``main_linear.py`` with other ``backbone.kwargs`` would, is an error rather than a bad accuracy.

    Args:
        name: timm model name.
        method: the method that asks, which does not matter here.
        **kwargs: ``backbone.kwargs``, the options of `alphacl_timm.create_backbone`: ``image_size``, ``pretrained``,
            ``stem`` and timm's own.

    Raises:
        ValueError, TypeError: as `create_backbone`
        ValueError: for a name that is solo-learn's own.
    """
    from alphacl_timm import create_backbone

    _prefer_timms_own(name)
    try:
        backbone = create_backbone(name, **kwargs)
    except (ValueError, TypeError) as error:
        raise type(error)(f"backbone {PREFIX}{name}: {error}") from None
    _check_names(name, backbone)
    if hasattr(backbone, "inplanes"):  # main_linear.py would take it for the width
        backbone.inplanes = backbone.num_features
    _remember(backbone, {"image_size": 32, "stem": "auto"} | kwargs)
    return backbone


def set_image_size(cfg: Any) -> None:
    """Make a timm backbone for the size of the crops, unless ``backbone.kwargs`` says otherwise."""
    crops = cfg.get("augmentations")
    if cfg.backbone.name.startswith(PREFIX) and crops:
        if cfg.backbone.get("kwargs") is None:
            cfg.backbone["kwargs"] = {}
        cfg.backbone["kwargs"].setdefault("image_size", crops[0].crop_size)


def check_validation_size(cfg: Any, backbone: nn.Module) -> None:
    """Refuse to validate a timm backbone at a size that it cannot take, ahead of the first epoch.

    Raises:
        ValueError: if custom data are validated, which solo-learn does at 224 px, and the backbone fails on them.
    """
    data = cfg.data
    if not cfg.backbone.name.startswith(PREFIX) or data.dataset != "custom":
        return
    if data.get("val_path") is None or data.get("no_labels"):
        return
    training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, CUSTOM_SIZE, CUSTOM_SIZE))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"data.val_path: expected null with backbone {cfg.backbone.name}, as solo-learn validates custom data at "
            f"{CUSTOM_SIZE} px, which it cannot take, got {data.val_path!r}: {error}"
        ) from error
    backbone.train(training)


def _prefer_timms_own(name: str) -> None:
    """Undo, for one model, that importing solo-learn puts its own under some of timm's names."""
    from timm import models

    if not models.is_model(name) or not models.model_entrypoint(name).__module__.startswith("solo."):
        return
    own = getattr(models, name, None)
    if own is None:
        raise ValueError(f"backbone: expected a timm model after {PREFIX}, got {name}, which is solo-learn's own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a name is overwritten
        models.register_model(own)


def _check_names(name: str, backbone: nn.Module) -> None:
    """Refuse weights whose names ``main_linear.py`` would change, and then not find."""
    changed = [key for key in backbone.state_dict() if "backbone" in key or "encoder" in key]
    if changed:
        raise ValueError(
            f"backbone {PREFIX}{name}: expected a model without weights called backbone or encoder, which "
            f"main_linear.py would rename and lose, got {changed[0]}"
        )


def _remember(backbone: nn.Module, options: dict[str, Any]) -> None:
    features = {name: value for name, value in sorted(options.items()) if not name.startswith(OF_TRAINING_ALONE)}
    text = ", ".join(f"{name}={value}" for name, value in features.items())
    backbone.register_buffer("built_for", torch.tensor(list(text.encode()), dtype=torch.uint8))
    backbone.register_load_state_dict_pre_hook(_check_same_build)  # type: ignore[no-untyped-call]


def _build_to_load_whole(build: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    backbone = build(*args, **kwargs)
    if not hasattr(backbone, "built_for"):
        backbone.register_load_state_dict_pre_hook(_check_not_timms)  # type: ignore[no-untyped-call]
    backbone.register_load_state_dict_pre_hook(_check_whole)  # type: ignore[no-untyped-call]
    return backbone


def _check_whole(backbone: Any, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint without a weight or statistic of the backbone, also where the load is not strict."""
    names = [name for name in backbone.state_dict() if not name.endswith(CHANGES_NO_FEATURE)]
    missing = [name for name in names if f"{prefix}{name}" not in state_dict]
    if missing:
        raise ValueError(
            f"checkpoint: expected every weight of the backbone under its name, backbone.{missing[0]} and so on, got "
            f"one without {len(missing)} of {len(names)}, which would stay random"
        )


def _check_same_build(backbone: Any, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    saved = state_dict.get(f"{prefix}built_for")
    if saved is not None and _text(saved) != _text(backbone.built_for):
        raise ValueError(
            f"backbone.kwargs: expected {_text(saved)}, which the weights were trained with, got "
            f"{_text(backbone.built_for)}"
        )


def _check_not_timms(backbone: Any, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Refuse weights of a timm backbone for one of solo-learn's own: the names may be the same, the stem is not."""
    saved = state_dict.get(f"{prefix}built_for")
    if saved is not None:
        raise ValueError(
            f"backbone.name: expected {PREFIX}..., which the weights were trained with ({_text(saved)}), got one of "
            "solo-learn's own"
        )


def _text(built_for: Tensor) -> str:
    return bytes(built_for.tolist()).decode()
