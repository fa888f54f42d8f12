"""Train sentence-transformers: its MultipleNegativesRankingLoss, the same loss from this package, another strategy.

    python examples/sentence_pairs.py                           no download, no GPU, under two minutes
    python examples/sentence_pairs.py --strategy square --strategy-tau 1

The text is Python's own reference, which ships with the standard library (`pydoc_data.topics`): a pair is the first
sentence of a paragraph and the rest of that paragraph. A tiny BERT, built from a config with random weights, and a
tokenizer that is trained on the same text are the model; SentenceTransformerTrainer trains it. Then every held-out
first sentence looks for its own rest among all held-out ones: recall@k says how often it is one of the k most similar.
It needs sentence-transformers[train]. The tokenizer can differ a little from run to run, and the numbers with it.
"""

from dataclasses import dataclass
from functools import partial

from command_line import in_one_line

import tyro

import compared
from compared import Run, compare

HOST = "MultipleNegativesRankingLoss"


@dataclass(frozen=True)
class Settings(compared.Settings):
    """What to train, and how often."""

    tau: float = 0.05
    """Temperature of the host's loss (1 / scale) and of infonce, > 0."""
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 2e-3
    pairs: int | None = None
    """Use at most this many training pairs. None: all."""


def main(settings: Settings) -> list[Run]:
    """Train with each loss, print the table; returns the runs."""
    from sentence_pairs_training import train  # here, after the options: --help is quick

    return compare(settings, HOST, partial(train, settings))


if __name__ == "__main__":
    options = tyro.cli(Settings, description=__doc__)
    with in_one_line(TypeError):
        main(options)
