"""Train open_clip's CLIP on digits and captions: its own loss, the same loss from this package, another strategy.

    python examples/clip_digits.py                           no download, no GPU, under two minutes
    python examples/clip_digits.py --strategy square --strategy-tau 1

A tiny CLIP, built from a config with random weights, sees scikit-learn's digits with captions ("a photo of the digit
three"). Then it names held-out digits by the caption that is nearest: zero-shot accuracy. A batch holds several digits
of one number, whose captions are false negatives of each other; CLIP's loss, host's and ours, takes them for negatives
all the same.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from command_line import in_one_line

import torch
import tyro
from torch import Tensor, nn

import compared
from compared import UNTRAINED, Run, compare

HOST = "open_clip.ClipLoss"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("a photo of the digit {}", "the number {}", "a handwritten {}", "someone wrote {}")
LENGTH = 12  # tokens of a caption


@dataclass(frozen=True)
class Settings(compared.Settings):
    """What to train, and how often."""

    tau: float = 0.07
    """Temperature at the beginning, > 0; as logit_scale it learns."""
    epochs: int = 6
    learning_rate: float = 1e-3


def model() -> Any:
    """Return a CLIP of two small transformers for images of 8x8 pixels."""
    import open_clip  # here, after the options: --help is quick

    vision = {"image_size": 8, "patch_size": 4, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": LENGTH, "width": 32, "layers": 1, "heads": 2}
    return open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).double()


def train(settings: Settings, method: str, seed: int) -> tuple[dict[str, float], list[float]]:
    """Train a CLIP and judge it."""
    from open_clip import ClipLoss as HostLoss
    from open_clip import SimpleTokenizer

    from alphacl_open_clip import ClipLoss
    from quickstart_data import load_digits

    torch.manual_seed(seed)
    digits, tokenize = load_digits(), SimpleTokenizer(context_length=LENGTH)
    captions = torch.stack([tokenize([words.format(number) for number in NUMBERS]) for words in CAPTIONS])
    clip, labels = model(), torch.as_tensor(digits.train_labels)
    nn.init.constant_(clip.logit_scale, math.log(1 / settings.tau_of(method)))
    optimizer = torch.optim.AdamW(clip.parameters(), settings.learning_rate)
    found = []
    if method != UNTRAINED:
        loss_of = HostLoss() if method == HOST else ClipLoss(method)
        for _ in range(settings.epochs):
            for batch in torch.split(torch.randperm(len(labels)), settings.batch_size):
                words = torch.randint(len(CAPTIONS), batch.shape)
                features = clip(digits.train[batch].double() / 255, captions[words, labels[batch]])
                loss = loss_of(*features)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    clip.logit_scale.clamp_(0, math.log(100))  # as CLIP does
                found.append(loss.item())
    return {
        "zero-shot accuracy": accuracy(clip.eval(), digits.test.double() / 255, captions[0], digits.test_labels)
    }, found


@torch.no_grad()
def accuracy(clip: Any, images: Tensor, captions: Tensor, labels: object) -> float:
    """Return in how many % of the images the nearest caption is the right one."""
    image, text = clip.encode_image(images, normalize=True), clip.encode_text(captions, normalize=True)
    right: Tensor = (image @ text.T).argmax(dim=1) == torch.as_tensor(labels)
    return 100 * right.double().mean().item()


def main(settings: Settings) -> list[Run]:
    """Train with each loss, print the table; returns the runs."""
    return compare(settings, HOST, partial(train, settings))


if __name__ == "__main__":
    options = tyro.cli(Settings, description=__doc__)
    with in_one_line(TypeError):
        main(options)
