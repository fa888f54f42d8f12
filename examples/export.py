"""The trained backbone of a recipe as a plain timm state dict: the weights by timm's names, and nothing else.

    python examples/export.py .runs/cifar10_resnet18/direct-seed0/last.ckpt     writes last.pth beside it

How to load it with and without alphacl_timm, and how to judge weights from elsewhere: docs/recipes.md.
"""

from pathlib import Path

from command_line import in_one_line

import tyro

from provenance import replace_file


def export(checkpoint: Path, output: Path | None = None) -> Path:
    """Write the weights of a run's backbone as a plain timm state dict, and print what they are for.

    Args:
        checkpoint: last.ckpt or epoch-<n>.ckpt in the folder of a run.
        output: the file to write. None: the checkpoint's name with .pth.
    """
    path = output or checkpoint.with_suffix(".pth")
    if path == checkpoint:
        raise ValueError(f"output: expected another file than the checkpoint, got {path}")
    import torch

    from recipe.trained import read_trained  # after the options: --help is quick

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
