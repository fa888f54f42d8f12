"""One run: a loss, a seed and the protocol of the study, from first weights to the numbers in its JSON."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from launched import one_process, quiet
from paired.images import Parts
from paired.losses import Loss
from paired.training import Training, pairing
from provenance import environment
from recipe.data import Data
from recipe.evaluation import extract, knn_accuracy, probe

Kind = Literal["tuning", "paper", "tuned"]


@dataclass(frozen=True)
class Protocol:
    """What all runs of a study have in common."""

    dataset: str | None
    image_size: int | None
    limit: int | None
    backbone: str
    epochs: int
    batch_size: int
    learning_rate: float
    device: str
    precision: str


@dataclass(frozen=True)
class Run:
    """One training, judged once: in a tuning on held-out training images, else on the test images."""

    kind: Kind
    row: str
    loss: Loss
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's JSON file, without its ending."""
        return f"{self.kind}/{self.loss.label}-seed{self.seed}"


def execute(
    run: Run, protocol: Protocol, parts: Parts, epoch_done: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Train and judge; return the content of the run's JSON.

    Args:
        run: which.
        protocol: how.
        parts: the images, of which a run uses one part.
        epoch_done: is called after each epoch.
    """
    quiet()
    data = parts.tuning if run.kind == "tuning" else parts.judging
    began = time.perf_counter()
    training = build(run.loss, run.seed, protocol, data, parts)
    hashes = pairing(training)
    fit(training, protocol, [EpochDone(epoch_done)])
    trained = time.perf_counter()
    scores = judge(training, protocol, data, run.seed)
    return {
        **settings_of(run, protocol),
        "strategy": repr(training.criterion.strategy),
        "data": data.as_dict(),
        "pairing": hashes,
        **scores,
        "effective_negatives": training.curve[-1]["effective_negatives"],
        "curve": training.curve,
        "seconds": {"training": round(trained - began, 2), "evaluation": round(time.perf_counter() - trained, 2)},
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }


def settings_of(run: Run, protocol: Protocol) -> dict[str, Any]:
    """Return what a run's JSON says of the run and of the protocol; equal settings, equal numbers."""
    return {
        "kind": run.kind,
        "row": run.row,
        "loss": {"strategy": run.loss.strategy, "options": dict(run.loss.options)},
        "seed": run.seed,
        "protocol": asdict(protocol),
    }


def from_settings(content: dict[str, Any]) -> tuple[Run, Protocol]:
    """Return the run and the protocol that a JSON describes: the reverse of `settings_of`."""
    run = Run(content["kind"], content["row"], Loss.of(content), content["seed"])
    return run, Protocol(**content["protocol"])


def build(loss: Loss, seed: int, protocol: Protocol, data: Data, parts: Parts) -> Training:
    """Return the training of a loss, before its first step."""
    return Training(
        loss.build(),
        data,
        parts.augmentation,
        backbone=protocol.backbone,
        seed=seed,
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        learning_rate=protocol.learning_rate,
    )


def fit(training: Training, protocol: Protocol, callbacks: list[Callback], max_steps: int = -1) -> None:
    """Train with Lightning, as the recipes do."""
    trainer = L.Trainer(
        max_epochs=protocol.epochs,
        max_steps=max_steps,
        accelerator=protocol.device,
        precision={"32": "32-true", "bf16": "bf16-mixed"}[protocol.precision],  # type: ignore[arg-type]
        deterministic=protocol.device == "cpu",
        callbacks=callbacks,
        enable_progress_bar=False,
        **one_process(),
    )
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # saves time
    trainer.fit(training.train())


def judge(training: Training, protocol: Protocol, data: Data, seed: int) -> dict[str, Any]:
    """Return the accuracies in % on the judging images, once: the linear probe after its last epoch, and kNN.

    A training that has diverged is as good as a guess, and says so.
    """
    device = torch.device(protocol.device)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=protocol.precision == "bf16"):
            features = extract(training.network.to(device), data, device)
    except ValueError as error:
        guess = 100 / len(data.classes)
        return {"probe": guess, "knn": guess, "diverged": str(error)}
    return {"probe": probe(features, seed).last, "knn": knn_accuracy(features), "diverged": None}


def has_diverged(content: dict[str, Any]) -> bool:
    """Whether the training in the JSON of a run diverged, before its end or in its last epoch."""
    return content["diverged"] is not None or content["effective_negatives"] is None


class EpochDone(Callback):
    """Calls a function after each epoch."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Call it."""
        self.call()
