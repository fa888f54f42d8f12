"""The trained network of a run, from its checkpoint and the result beside it."""

from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from torch import nn

from recipe.network import Network
from recipe.protocol import DATASETS
from recipe.results import FILE, read_result
from recipe.training import check_finite, read_checkpoint

PREFIX = "network."


class Trained(NamedTuple):
    """A backbone with its weights, and the images that it was trained on: their side in pixels, and their colours."""

    backbone: nn.Module
    name: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_network(checkpoint: Path) -> tuple[Network, dict[str, Any]]:
    """Build the network of a run, backbone and head, and read its weights, all of them; return its result too.

    Args:
        checkpoint: ``last.ckpt`` or ``epoch-<n>.ckpt`` in the folder of a run, whose result says what it is of.

    Raises: OSError if a file is missing; ValueError if it is no checkpoint of a recipe, or its weights are not finite
        or not those of the network.
    """
    try:
        saved = read_checkpoint(checkpoint)
    except ValueError as error:
        raise ValueError(f"checkpoint: expected one of a recipe, got {checkpoint}") from error
    check_finite(saved, checkpoint)
    run = read_result(checkpoint.parent / FILE)
    dataset = DATASETS[run["dataset"]]
    network = Network(run["backbone"], run["data"]["image_size"], dataset.mean, dataset.std)
    weights = {key.removeprefix(PREFIX): value for key, value in saved["state_dict"].items() if key.startswith(PREFIX)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = shorten(str(error), 300)
        name = run["backbone"]
        raise ValueError(f"checkpoint: expected the weights of {name}, got others in {checkpoint}: {reason}") from error
    return network, run


def read_trained(checkpoint: Path) -> Trained:
    """Build the backbone of a run and read its weights, all of them.

    Args:
        checkpoint: as for `read_network`.

    Raises: OSError, ValueError as `read_network`.
    """
    network, run = read_network(checkpoint)
    dataset = DATASETS[run["dataset"]]
    return Trained(network.backbone, run["backbone"], run["data"]["image_size"], dataset.mean, dataset.std)
