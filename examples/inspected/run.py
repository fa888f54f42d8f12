"""From a network and a folder of images to the pages of pairs: embed, weigh, show."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torchvision.transforms import v2

from alphacl_plugins.sharpness import strategy_from_text
from alphacl_timm import create_backbone
from image_folder import class_folders, decode, images_in
from inspected.pages import shown, write_csv, write_page, write_sheet
from inspected.pairs import heaviest_pairs
from inspected.settings import Settings
from provenance import check_writable, held
from recipe.augmentation import augmentation
from recipe.protocol import DATASETS
from recipe.trained import read_network

BATCH = 256
ON_A_SHEET = 50


def main(settings: Settings) -> None:
    """Embed, weigh, show."""
    console = Console(highlight=False)
    strategies = {name: strategy_from_text(name) for name in settings.strategies}
    _check(settings)
    network, size, data = build(settings)
    root, files, classes = images_of(settings)
    console.print(
        f"{len(files)} images in {root}, {len(set(classes))} classes" if classes[0] else f"{len(files)} images"
    )
    z, z_aug = embed(settings, network, size, data, files, progress(console, "images"))
    found = {}
    for name, strategy in strategies.items():
        try:
            pairs = heaviest_pairs(z, z_aug, strategy, settings.pairs, progress(console, name))
        except ValueError as error:
            console.print(f"{name}: left out: {error}")
            continue
        found[name] = shown(pairs, root, files, classes)
        same = sum(row.same == "yes" for row in found[name])
        known = f"; {same} of one class" if classes[0] else ""
        console.print(f"{name}: {len(pairs)} pairs, weights {pairs[0].weight:.3g} to {pairs[-1].weight:.3g}{known}")
    if not found:
        raise ValueError("strategies: expected one that tells pairs of these images apart, got none")
    with held(settings.output):
        write_csv(settings.output / "pairs.csv", found)
        write_page(
            settings.output / "pairs.html", found, root, f"Pairs with the largest weight in {settings.data_root.name}"
        )
        for name, rows in found.items():
            write_sheet(settings.output / f"{sheet_name(name)}.png", name, rows[:ON_A_SHEET], root)
    console.print(f"pairs.csv, pairs.html and a sheet for each strategy: {settings.output}")


def sheet_name(strategy: str) -> str:
    """Return the name of a strategy as that of a file."""
    return "".join(letter if letter.isalnum() or letter in "-_.=" else "-" for letter in strategy)


def _check(settings: Settings) -> None:
    for name, least in (("pairs", 1), ("limit", 3), ("image_size", 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ValueError(f"{name}: expected an int >= {least}, got {value}")
    if settings.checkpoint is None and settings.backbone is None:
        raise ValueError("checkpoint: expected a file, or a timm model: --backbone, got neither")
    if settings.pretrained and (settings.backbone is None or settings.checkpoint is not None):
        raise ValueError("pretrained: expected --backbone, and no checkpoint, whose weights there are, got another")
    if settings.checkpoint is not None and settings.backbone is None and settings.image_size is not None:
        raise ValueError(f"image_size: expected none, as the checkpoint has one, got {settings.image_size}")
    if settings.backbone is not None and settings.checkpoint is None and not settings.pretrained:
        raise ValueError("checkpoint: expected weights of the backbone, or --pretrained, got neither")
    check_writable(settings.output)


def build(settings: Settings) -> tuple[nn.Module, int, str]:
    """Return the network, images ``[N, 3, size, size]`` in [0, 1] to embeddings; the size; whose augmentation fits."""
    if settings.backbone is None:
        assert settings.checkpoint is not None
        network, run = read_network(settings.checkpoint)
        return network.eval().to(settings.device), run["data"]["image_size"], run["dataset"]
    size = settings.image_size or 32
    backbone = create_backbone(settings.backbone, size, pretrained=settings.pretrained)
    if settings.checkpoint is not None:
        try:
            backbone.load_state_dict(torch.load(settings.checkpoint, map_location="cpu", weights_only=True))
        except OSError:
            raise
        except Exception as error:  # whatever is wrong with the bytes or the names
            reason = str(error).splitlines()[0]
            raise ValueError(f"checkpoint: expected weights of {settings.backbone}, got others: {reason}") from error
    cfg: Any = backbone.pretrained_cfg
    normalized = nn.Sequential(v2.Normalize(cfg["mean"], cfg["std"]), backbone)
    return normalized.eval().to(settings.device), size, "cifar10"


def images_of(settings: Settings) -> tuple[Path, list[Path], list[str]]:
    """Return the folder, its images, and the class of each: the folder it is in; "" for images without classes."""
    root = settings.data_root
    if not root.is_dir():
        raise FileNotFoundError(f"data_root: expected a folder, got {root}")
    if (root / "train").is_dir():
        root = root / "train"
    files = images_in(root)
    if settings.limit is not None and settings.limit < len(files):
        files = [files[i * len(files) // settings.limit] for i in range(settings.limit)]
    for file in map(str, files):
        if file != file.encode(errors="replace").decode():
            raise ValueError(f"data_root: expected file names in UTF-8, got {file!r}")
    if len(files) < 3:
        raise ValueError(f"data_root: expected at least 3 images, got {len(files)} in {root}")
    labelled = len(class_folders(root)) > 1 and all(file.parent != root for file in files)
    return root, files, [file.relative_to(root).parts[0] if labelled else "" for file in files]


@torch.no_grad()
def embed(
    settings: Settings, network: nn.Module, size: int, data: str, files: Sequence[Path], progress: Any
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of the images and of an augmented view of each, ``[N, D]``; a block in memory at a time."""
    augment = augmentation(DATASETS[data].augmentation, size)
    views: tuple[list[Tensor], list[Tensor]] = ([], [])
    torch.manual_seed(settings.seed)
    for start in progress(range(0, len(files), BATCH)):
        images = decode(files[start : start + BATCH], size).to(settings.device).float() / 255
        for view, seen in zip(views, (images, augment(images)), strict=True):
            view.append(network(seen).float())
    z, z_aug = (torch.cat(view) for view in views)
    if not (z.isfinite().all() and z_aug.isfinite().all()):
        raise ValueError("checkpoint: expected a network whose embeddings are finite, got others")
    return z, z_aug


def progress(console: Console, what: str) -> Any:
    """Return what shows, on a terminal, how far a loop over blocks is and the time that is left."""
    return partial(track, description=what, console=console, transient=True, disable=not console.is_terminal)
