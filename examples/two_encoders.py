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

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from command_line import in_one_line

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.strategies import StrategyOptions
from compared import UNTRAINED, cell, means_and_errors
from option_help import LR, StrategyNames
from provenance import check_writable, environment, held, write_json

if TYPE_CHECKING:
    from two_encoders_training import Pairs


@dataclass(frozen=True)
class Settings:
    """What to train, and how often."""

    strategy: StrategyNames = ("infonce", "direct", "entropy")
    """Pair weights to compare; infonce is CLIP's loss."""
    tau: float | None = 0.1
    """Temperature τ of all strategies, > 0. None: each strategy's own; use it for strategies without a temperature."""
    learnable_tau: bool = False
    """Let τ learn, as CLIP does; for strategies with a loss of their own, such as infonce and entropy."""
    epochs: int = 40
    """Passes over the training pairs."""
    batch_size: int = 128
    """Pairs in a batch. With fewer pairs the batch is smaller."""
    learning_rate: Annotated[float, LR] = 1e-3
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
            raise ValueError(f"{error}; --tau None leaves each strategy its own options") from error

    def criteria(self) -> dict[str, AlphaCLLoss]:
        """Return the losses to compare, new at each call; "cross": negatives are of the other modality."""
        options: StrategyOptions = {} if self.tau is None else {"tau": self.tau}
        if self.learnable_tau:
            options["learnable_tau"] = True
        return {name: AlphaCLLoss(name, negatives="cross", **options) for name in self.strategy}


class Run(NamedTuple):
    """The encoders of one seed, trained or not: recalls in %, and the mean of what was logged in each epoch."""

    method: str
    seed: int
    recalls: dict[str, float]
    curves: list[dict[str, float]]


Summary = dict[str, dict[str, dict[str, float | None]]]  # method, column, "mean" or "standard_error"


def run_seed(settings: Settings, train: "Pairs", test: "Pairs", seed: int) -> Iterator[Run]:
    """Judge the untrained encoders, then train them with each loss; all start from the same weights."""
    from lightning import seed_everything

    from two_encoders_training import TwoEncoders, evaluate, fit

    for method, criterion in settings.criteria().items():
        seed_everything(seed, verbose=False)
        model = TwoEncoders(criterion, settings.learning_rate)
        if method == settings.strategy[0]:
            yield Run(UNTRAINED, seed, evaluate(model, test), [])
        fit(model, train, settings.epochs, settings.batch_size, seed)
        yield Run(method, seed, evaluate(model, test), model.curves)


def main(settings: Settings) -> list[Run]:
    """Train, judge, report; returns the runs, seed by seed: untrained, then each strategy."""
    from launched import ONE_PROCESS, check_launched  # here, after the options: --help is quick
    from two_encoders_training import COLUMNS, load_pairs

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
    path = settings.output / "two_encoders.json"
    write_json(path, report)
    console.print(f"Every number: {path}")
    return runs


def summarize(runs: list[Run]) -> Summary:
    """Return mean and standard error over the seeds; a single seed has no standard error."""
    summary: Summary = {}
    for method in dict.fromkeys(run.method for run in runs):
        found = means_and_errors([list(run.recalls.values()) for run in runs if run.method == method])
        summary[method] = {
            column: {"mean": mean, "standard_error": error}
            for column, (mean, error) in zip(runs[0].recalls, found, strict=True)
        }
    return summary


def table(summary: Summary, chance: dict[str, float], n: int) -> Table:
    """Return the table for the terminal: chance, then a row for each method."""
    spread = f"mean ± standard error over n = {n} seeds" if n > 1 else "n = 1 seed, so no standard error"
    result = Table(title=f"\nRecall on held-out pairs in %, {spread}", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    result.add_column("encoders")
    for column in chance:
        result.add_column(column, justify="right", no_wrap=True)
    result.add_row("chance", *(f"{chance[column]:.1f}" for column in chance))
    for method, columns in summary.items():
        result.add_row(method, *(cell(**columns[column]) for column in chance))
    return result


def command_line() -> None:
    """Run with the options of the command line; an error that a user can mend is one line."""
    settings = tyro.cli(Settings, description=__doc__)
    with in_one_line(), held(settings.output):
        main(settings)


if __name__ == "__main__":
    command_line()
