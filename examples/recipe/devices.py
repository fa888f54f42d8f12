"""Where a recipe trains, and in which precision."""

from typing import Any

import torch

from alphacl_solo_learn.launched import check_launched
from recipe.settings import Settings


def device_of(settings: Settings) -> torch.device:
    """Return where to train: a GPU if there is one and the settings do not say otherwise."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def check_device(settings: Settings) -> None:
    """Raise ValueError if this machine, or what has started the process, does not have what the settings ask for."""
    check_launched(settings.world_size, "devices x num_nodes says")
    check_gpu(settings.device)
    found = torch.cuda.device_count()
    if device_of(settings).type == "cuda" and found < settings.devices:
        raise ValueError(f"devices: expected at most the {found} GPUs of this machine, got {settings.devices}")
    if settings.precision == "16" and device_of(settings).type == "cpu":
        raise ValueError("precision: expected 32 or bf16 on a CPU, got 16")


def check_gpu(device: str) -> None:
    """Raise ValueError if the device is "cuda" and this machine has no GPU."""
    if device == "cuda" and torch.cuda.device_count() == 0:
        raise ValueError("device: expected a GPU for cuda, got none that PyTorch can use")


def precision_of(settings: Settings) -> Any:
    """Return Lightning's name of the precision."""
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[resolved_precision(settings)]


def resolved_precision(settings: Settings) -> str:
    """Return the precision, with what "auto" means."""
    if settings.precision == "auto":
        return "bf16" if device_of(settings).type == "cuda" else "32"
    return settings.precision
