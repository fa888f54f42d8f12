"""A healthy training and one that collapses, side by side, as the monitor sees them: "Is my training healthy?"

    python examples/collapse.py      handwritten digits, no GPU, about two minutes

Both start from the same weights and see the same batches. The healthy one trains InfoNCE; the other pulls the two views
of a sample together and pushes nothing apart, as any loss does whose weights of negatives vanish. Five pictures and
every number, collapse.json, go to the output folder.
"""

import copy
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_line import in_one_line

import torch
import tyro
from torch import Tensor

from alphacl_lightly import AlphaCLLoss
from alphacl_plugins import PairWeights, plots
from provenance import check_writable, environment, held, replace_file, write_json

if TYPE_CHECKING:
    from quickstart_data import Images
    from quickstart_training import Training

HEALTHY, COLLAPSED = "InfoNCE", "positives alone"
DPI = 100


@dataclass(frozen=True)
class Settings:
    """How long to train."""

    epochs: int = 50
    """Passes over the training images."""
    tau: float = 0.2
    """Temperature of InfoNCE, > 0."""
    batch_size: int = 256
    """Images in a batch, each with two views."""
    learning_rate: float = 0.01
    """Largest learning rate (AdamW, warm-up and cosine)."""
    seed: int = 0
    """Seed of weights, batches and views."""
    output: Path = Path(".runs/collapse")
    """Folder of the pictures and the JSON file; those of an earlier run are replaced."""


def positives_alone(d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
    """Weigh the positive pair by 1 and every negative by 0."""
    return PairWeights(neg=torch.zeros_like(d2_neg), pos=torch.ones_like(d2_pos))


def main(settings: Settings) -> dict[str, list[dict[str, float]]]:
    """Train both, draw, write; return the two histories."""
    from lightning import seed_everything  # here, after the options: --help is quick

    from quickstart_data import load_digits
    from quickstart_training import Network, Training, augmentation, fit

    for name, least in (("epochs", 1), ("batch_size", 2)):
        if getattr(settings, name) < least:
            raise ValueError(f"{name}: expected an int >= {least}, got {getattr(settings, name)}")
    losses = {HEALTHY: AlphaCLLoss("infonce", tau=settings.tau), COLLAPSED: AlphaCLLoss(positives_alone)}
    check_writable(settings.output)
    torch.set_num_threads(1)
    images = load_digits()
    seed_everything(settings.seed, verbose=False)
    start, augment = Network("test_resnet", images), augmentation(images)
    histories, embeddings, weights = {}, {}, {}
    for name, loss in losses.items():
        training = Training(copy.deepcopy(start), loss, augment, settings.learning_rate)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            histories[name] = fit(training, images, settings.epochs, settings.batch_size, settings.seed, "cpu")
        for warning in told:
            if "RepresentationMonitor" in str(warning.message):
                print(f"{name}: {warning.message}")
        embeddings[name], weights[name] = look(training, images, losses[HEALTHY])
    draw(settings.output, histories, embeddings, weights, torch.as_tensor(images.test_labels))
    options = {name: value for name, value in asdict(settings).items() if name != "output"}
    content = {"settings": options, "environment": environment(), "histories": histories}
    write_json(settings.output / "collapse.json", content)
    print(f"pictures and collapse.json: {settings.output}")
    return histories


@torch.no_grad()
def look(training: "Training", images: "Images", loss: AlphaCLLoss) -> tuple[Tensor, Tensor]:
    """Return the embeddings of the held-out images, and the weights that InfoNCE gives their pairs."""
    from quickstart_training import embed

    torch.manual_seed(0)
    training.eval()
    views = embed(training, [images.test, torch.as_tensor(images.test_labels)]).views
    alone = AlphaCLLoss(loss.strategy, negatives="same", symmetric=False)
    return views[0], alone.pair_weights(*views).neg


def draw(folder: Path, histories: Any, embeddings: dict[str, Tensor], weights: Any, labels: Tensor) -> None:
    """Draw the five pictures."""
    figures = {
        "curves": plots.training_curves(histories),
        "singular_values": plots.singular_values(embeddings).figure,
        "similarities": plots.similarities(embeddings).figure,
        "effective_negatives": plots.effective_negatives(histories[HEALTHY]).figure,
        "heatmap": plots.alpha_heatmap(weights[HEALTHY], labels).figure,
    }
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        replace_file(path, lambda part, figure=figure: figure.savefig(part, format="png", dpi=DPI))  # type: ignore[misc]


if __name__ == "__main__":
    with in_one_line(goes_on="nothing was written"):
        settings = tyro.cli(Settings, description=__doc__)
        with held(settings.output):
            main(settings)
