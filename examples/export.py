"""The trained backbone of a recipe as a plain timm state dict: the weights by timm's names, and nothing else.

    python examples/export.py .runs/cifar10_resnet18/direct-seed0/last.ckpt     writes last.pth beside it

How to load it with and without alphacl_timm, and how to judge weights from elsewhere: docs/recipes.md.
"""

from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
import tyro
from torch import nn

from provenance import replace_file
from recipe.network import Network
from recipe.protocol import DATASETS
from recipe.results import FILE, read_result
from recipe.stopping import in_one_line
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


def export(checkpoint: Path, output: Path | None = None) -> Path:
    """Write the weights of a run's backbone as a plain timm state dict, and print what they are for.

    Args:
        checkpoint: last.ckpt or epoch-<n>.ckpt in the folder of a run.
        output: the file to write. None: the checkpoint's name with .pth.
    """
    path = output or checkpoint.with_suffix(".pth")
    if path == checkpoint:
        raise ValueError(f"output: expected another file than the checkpoint, got {path}")
    trained = read_trained(checkpoint)
    replace_file(path, lambda part: torch.save(trained.backbone.state_dict(), part))
    print(
        f"{trained.name} for images of {trained.image_size} px in [0, 1], normalised by mean {trained.mean} and std "
        f"{trained.std}: {path}\n"
        f'backbone = create_backbone("{trained.name}", image_size={trained.image_size})\n'
        f'backbone.load_state_dict(torch.load("{path}", weights_only=True))'
    )
    return path


if __name__ == "__main__":
    with in_one_line():
        tyro.cli(export, description=__doc__, config=(tyro.conf.PositionalRequiredArgs,))
