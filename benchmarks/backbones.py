"""The last map and the width of timm backbones at several image sizes, as a Markdown table: that of docs/timm.md.

    python benchmarks/backbones.py                        one model of each family
    python benchmarks/backbones.py vgg16 swin_s3_tiny_224 models of your choice

The models are built on the meta device: every shape, no weights, no arithmetic.
"""

import sys
from math import isqrt
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from command_line import in_one_line

import torch
import tyro

MODELS = (
    "resnet18",
    "resnet18d",
    "resnext26ts",
    "regnetx_002",
    "regnety_002",
    "efficientnet_b0",
    "mobilenetv2_050",
    "mobilenetv3_small_100",
    "convnext_atto",
    "vgg11",
    "vgg11_bn",
    "densenet121",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)
SIZES = (32, 64, 96, 224)


def last_map(name: str, image_size: int) -> tuple[int, int]:
    """The side of the last map, or of the square of patches, and the width of the features."""
    from alphacl_timm import create_backbone  # after the options: --help is quick

    with torch.device("meta"):
        model = create_backbone(name, image_size).eval()
        features = model.forward_features(torch.zeros(1, 3, image_size, image_size))  # type: ignore[operator]
    if features.ndim == 3:  # class tokens and the like, then the patches
        return isqrt(features.shape[1]), int(model.num_features)  # type: ignore[arg-type]
    return min(features.shape[1:]), int(model.num_features)  # type: ignore[arg-type]


def row(name: str) -> str:
    """A line of the table."""
    sides, widths = zip(*(last_map(name, size) for size in SIZES), strict=True)
    cells = [f"`{name}`", *(f"{side}x{side}" for side in sides), "/".join(map(str, sorted(set(widths))))]
    return "| " + " | ".join(cells) + " |"


def main(models: tuple[str, ...] = MODELS) -> None:
    """Print the table.

    Args:
        models: timm models; by default one of each family.
    """
    print("| model | " + " | ".join(f"{size} px" for size in SIZES) + " | width |")
    print("|---" * (len(SIZES) + 2) + "|")
    for name in models:
        print(row(name))


if __name__ == "__main__":
    with in_one_line(ImportError):
        tyro.cli(main, description=__doc__, config=(tyro.conf.Positional,))
