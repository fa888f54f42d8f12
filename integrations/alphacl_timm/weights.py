"""Trained weights for a timm model: read whole, or an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from timm.models import load_checkpoint
from torch import nn


@contextmanager
def noted_loads() -> Iterator[list[set[str]]]:
    """Note which weights each ``load_state_dict`` leaves as they are; timm tells its log alone."""
    load, loads = nn.Module.load_state_dict, []

    def noted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = load(self, *args, **kwargs)
        loads.append(set(result.missing_keys))
        return result

    nn.Module.load_state_dict = noted  # type: ignore[method-assign]
    try:
        yield loads
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]


def check_loaded(model: nn.Module, name: str, loads: list[set[str]]) -> None:
    """Refuse a model that timm has read weights for, and found none of them."""
    weights = {weight for weight, _ in model.named_parameters()}
    if any(weights <= missing for missing in loads):
        raise ValueError(f"pretrained: expected weights of timm's {name}, got ones of other names, none of which fits")


def load_file(model: nn.Module, name: str, checkpoint: Any) -> None:
    """Read a file of weights, all of them, by timm."""
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"checkpoint_path: expected a file, got {checkpoint}")
    try:
        load_checkpoint(model, checkpoint)
    except Exception as error:  # torch.load raises errors of many kinds for a file without weights
        raise ValueError(
            f"checkpoint_path: expected weights of timm's {name} without a classifier, got {checkpoint}: "
            f"{shorten(str(error), 300)}"
        ) from error
