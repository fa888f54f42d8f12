"""Join two encoders as CLIP joins images and texts, and ask each modality for its partner in the other.

    python examples/two_encoders.py                                       no download, no GPU, under a minute
    python examples/two_encoders.py --strategy infonce square --tau 0.5   any registered strategies
    python examples/two_encoders.py --strategy infonce --learnable-tau    CLIP's temperature

The modalities are the left and the right half of a handwritten digit, the task of Deep CCA (Andrew et al., ICML 2013):
they share no pixel, and all that joins them is the sample. Each has an encoder of its own; the loss compares across
modalities alone (negatives="cross"). Then every held-out half looks for its partner among all held-out halves of the
other side: recall@k says how often it is one of the k most similar. A table goes to the terminal, and every number to
two_encoders.json in the output folder.
"""

import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.strategies import StrategyOptions
from compared import cell, recall
from launched import ONE_PROCESS, check_launched, one_process
from provenance import check_writable, environment, replace_file
from quickstart_data import load_digits
from recipe.stopping import held, in_one_line

HIDDEN, EMBEDDING, DROPOUT = 256, 64, 0.2
LOOK_EVERY = (
    50  # steps between two looks at the statistics of the loss, each a pass of its own; an epoch begins with one
)
UNTRAINED = "untrained"
COLUMNS = ("left → right @1", "left → right @5", "right → left @1", "right → left @5")


@dataclass(frozen=True)
class Settings:
    """What to train, and how often."""

    strategy: tuple[str, ...] = ("infonce", "direct", "entropy")
    """Pair weights to compare, each a registered name; infonce is CLIP's loss."""
    tau: float | None = 0.1
    """Temperature τ of all strategies, > 0. None: each strategy's own; use it for strategies without a temperature."""
    learnable_tau: bool = False
    """Let τ learn, as CLIP does; for strategies with a loss of their own, such as infonce and entropy."""
    epochs: int = 40
    """Passes over the training pairs."""
    batch_size: int = 128
    """Pairs in a batch. With fewer pairs the batch is smaller."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    seeds: int = 3
    """Number of repetitions; the table shows their mean ± standard error."""
    first_seed: int = 0
    """Seeds are first_seed, first_seed + 1, ..."""
    output: Path = Path(".runs/two_encoders")
    """Folder for two_encoders.json; that of an earlier run is replaced."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected an int >= {least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected a finite number > 0, got {self.learning_rate}")
        if not self.strategy:
            raise ValueError("strategy: expected at least one name, got none")
        try:
            self.criteria()
        except TypeError as error:  # an option that a strategy does not have; tyro explains ValueErrors alone
            raise ValueError(str(error)) from error

    def criteria(self) -> dict[str, AlphaCLLoss]:
        """Return the losses to compare, new at each call; "cross": negatives are of the other modality."""
        options: StrategyOptions = {} if self.tau is None else {"tau": self.tau}
        if self.learnable_tau:
            options["learnable_tau"] = True
        return {name: AlphaCLLoss(name, negatives="cross", **options) for name in self.strategy}


class Pairs(NamedTuple):
    """Samples, each seen in two modalities: row i of both is sample i. Shape: ``[N, 32]`` each, in [0, 1]."""

    left: Tensor
    right: Tensor


class Run(NamedTuple):
    """The encoders of one seed, trained or not: recalls in %, and the mean of what was logged in each epoch."""

    method: str
    seed: int
    recalls: dict[str, float]
    curves: list[dict[str, float]]


Summary = dict[str, dict[str, dict[str, float | None]]]  # method, column, "mean" or "standard_error"


class TwoEncoders(L.LightningModule):
    """One encoder for each modality; the loss is a part of it, so that a strategy with parameters is trained too."""

    def __init__(self, criterion: AlphaCLLoss, learning_rate: float) -> None:
        super().__init__()
        self.left = encoder(inputs=32)
        self.right = encoder(inputs=32)
        self.criterion = criterion
        self.learning_rate = learning_rate
        self.curves: list[dict[str, float]] = []

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Compute the loss of a batch of pairs."""
        left, right = batch
        loss: Tensor = self.criterion(self.left(left), self.right(right))
        logged = {"loss": loss.detach()}
        if batch_index % LOOK_EVERY == 0:
            logged |= self.criterion.last_stats
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(left))
        return loss

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's means."""
        self.curves.append({name: value.item() for name, value in self.trainer.callback_metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, for both encoders and whatever the strategy learns."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def encoder(inputs: int) -> nn.Sequential:
    """Return a small perceptron, ``[N, inputs] -> [N, 64]``."""
    layers: list[nn.Module] = []
    for width in (inputs, HIDDEN):
        layers += [nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, EMBEDDING))


def load_pairs() -> tuple[Pairs, Pairs]:
    """Cut scikit-learn's digits down the middle; return the training and the held-out pairs."""
    digits = load_digits()
    train, test = (
        Pairs(*(half.flatten(start_dim=1) for half in (images[:, 0].float() / 255).chunk(2, dim=2)))
        for images in (digits.train, digits.test)
    )
    return train, test


@torch.no_grad()
def evaluate(model: TwoEncoders, pairs: Pairs) -> dict[str, float]:
    """Return recall@1 and @5 in both directions.

    Raises: ValueError if an embedding is not finite: the training diverged.
    """
    model.eval()
    left, right = model.left(pairs.left), model.right(pairs.right)
    if not (left.isfinite().all() and right.isfinite().all()):
        raise ValueError("embeddings: expected finite numbers, got others; the training has diverged")
    values = [recall(*directed, k) for directed in ((left, right), (right, left)) for k in (1, 5)]
    return dict(zip(COLUMNS, values, strict=True))


def fit(model: TwoEncoders, pairs: Pairs, epochs: int, batch_size: int, seed: int) -> None:
    """Train with Lightning; the seed decides the order of the pairs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers")  # the pairs are in memory already
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning 2.6 under PyTorch 2.15: theirs to mend
    order = RandomSampler(pairs.left, generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(order, min(batch_size, len(pairs.left)), drop_last=True)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_progress_bar=False,
        **one_process(),
    )
    trainer.fit(model.train(), DataLoader(TensorDataset(*pairs), sampler=batches, batch_size=None))


def run_seed(settings: Settings, train: Pairs, test: Pairs, seed: int) -> Iterator[Run]:
    """Judge the untrained encoders, then train them with each loss; all start from the same weights."""
    for method, criterion in settings.criteria().items():
        L.seed_everything(seed, verbose=False)
        model = TwoEncoders(criterion, settings.learning_rate)
        if method == settings.strategy[0]:
            yield Run(UNTRAINED, seed, evaluate(model, test), [])
        fit(model, train, settings.epochs, settings.batch_size, seed)
        yield Run(method, seed, evaluate(model, test), model.curves)


def main(settings: Settings) -> list[Run]:
    """Train, judge, report; returns the runs, seed by seed: untrained, then each strategy."""
    started = time.perf_counter()
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    check_launched(1, ONE_PROCESS)
    check_writable(settings.output)
    train, test = load_pairs()
    data = f"halves of scikit-learn's digits: {len(train.left)} training and {len(test.left)} held-out pairs"
    console.print(data)
    runs: list[Run] = []
    with threadpool_limits(1):  # networks this small gain nothing from more
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            for run in run_seed(settings, train, test, seed):
                runs.append(run)
                console.print(f"seed {seed}  {run.method}: {COLUMNS[0]} {run.recalls[COLUMNS[0]]:.1f} %")
    chance = {column: 100 * int(column[-1]) / len(test.left) for column in COLUMNS}
    summary = summarize(runs)
    console.print(table(summary, chance, settings.seeds))
    report = {
        "settings": asdict(settings),
        "data": data,
        "chance": chance,
        "summary": summary,
        "runs": [run._asdict() for run in runs],
        "seconds": round(time.perf_counter() - started, 1),
        "environment": environment(),
    }
    text = json.dumps(report, indent=2, default=str, allow_nan=False)
    path = settings.output / "two_encoders.json"
    replace_file(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    console.print(f"Every number: {path}")
    return runs


def summarize(runs: list[Run]) -> Summary:
    """Return mean and standard error over the seeds; a single seed has no standard error."""
    summary: Summary = {}
    for method in dict.fromkeys(run.method for run in runs):
        values = np.array([list(run.recalls.values()) for run in runs if run.method == method])
        n = len(values)
        errors = values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else [None] * len(COLUMNS)
        summary[method] = {
            column: {"mean": float(mean), "standard_error": None if error is None else float(error)}
            for column, mean, error in zip(COLUMNS, values.mean(axis=0), errors, strict=True)
        }
    return summary


def table(summary: Summary, chance: dict[str, float], n: int) -> Table:
    """Return the table for the terminal: chance, then a row for each method."""
    spread = f"mean ± standard error over n = {n} seeds" if n > 1 else "n = 1 seed, so no standard error"
    result = Table(title=f"\nRecall on held-out pairs in %, {spread}", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    result.add_column("encoders")
    for column in COLUMNS:
        result.add_column(column, justify="right", no_wrap=True)
    result.add_row("chance", *(f"{chance[column]:.1f}" for column in COLUMNS))
    for method, columns in summary.items():
        result.add_row(method, *(cell(**columns[column]) for column in COLUMNS))
    return result


def command_line() -> None:
    """Run with the options of the command line; an error that a user can mend is one line."""
    settings = tyro.cli(Settings, description=__doc__)
    with in_one_line(), held(settings.output):
        main(settings)


if __name__ == "__main__":
    command_line()
