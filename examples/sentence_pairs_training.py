"""The training of sentence_pairs.py: text, tokenizer, model, and what it retrieves."""

import itertools
import random
import re
import tempfile
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from alphacl_sentence_transformers import AlphaCLRankingLoss
from compared import UNTRAINED, recall

if TYPE_CHECKING:
    from sentence_pairs import Settings

HELD_OUT, LENGTH, WORDS, WIDTH = 150, 48, 2000, 64
Pairs = list[tuple[str, str]]


def load_pairs() -> tuple[Pairs, Pairs]:
    """Cut the paragraphs of Python's reference in two; return the training and the held-out pairs."""
    text = (part for topic in topics.values() for part in re.split(r"\n\s*\n", topic))
    paragraphs = [" ".join(part.split()) for part in dict.fromkeys(text)]
    parts = [re.split(r"(?<=\.) (?=[A-Z])", paragraph, maxsplit=1) for paragraph in paragraphs]
    pairs = [(part[0], part[1]) for part in parts if len(part) == 2 and min(map(len, part)) > 20]
    random.Random(0).shuffle(pairs)
    return pairs[HELD_OUT:], pairs[:HELD_OUT]


@cache  # two trainings of a tokenizer may number the tokens differently
def tokenizer() -> BertTokenizerFast:
    """Return a tokenizer for this text."""
    found = BertWordPieceTokenizer()
    found.train_from_iterator(itertools.chain(*load_pairs()[0]), vocab_size=WORDS, show_progress=False)
    return BertTokenizerFast(tokenizer_object=found._tokenizer, model_max_length=LENGTH)


def write_model(folder: Path) -> None:
    """Write the tokenizer and a BERT with random weights, as a hub would have them."""
    tokenizer().save_pretrained(folder)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LENGTH,
    )
    BertModel(config).save_pretrained(folder)


class Losses(TrainerCallback):  # type: ignore[misc]  # the host has no types
    """Keep the loss of each step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Take what the trainer has logged."""
        if logs and "loss" in logs:
            self.found.append(logs["loss"])


def criterion(settings: "Settings", method: str, model: SentenceTransformer) -> Any:
    """Return a loss by its name in the table."""
    if method == MultipleNegativesRankingLoss.__name__:
        return MultipleNegativesRankingLoss(model, scale=1 / settings.tau)
    return AlphaCLRankingLoss(model, method, tau=settings.tau_of(method))


def train(settings: "Settings", method: str, seed: int) -> tuple[dict[str, float], list[float]]:
    """Train a model and judge it."""
    disable_progress_bar()
    torch.manual_seed(seed)
    pairs, held_out = load_pairs()
    pairs = pairs[: settings.pairs]
    losses = Losses()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        model = SentenceTransformer(modules=[Transformer(folder), Pooling(WIDTH)], device="cpu").double()
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        if method != UNTRAINED:
            data = Dataset.from_dict(dict(zip(("anchor", "positive"), zip(*pairs, strict=True), strict=True)))
            loss = criterion(settings, method, model)
            trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss, callbacks=[losses])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    first, rest = (model.encode(texts, convert_to_tensor=True) for texts in map(list, zip(*held_out, strict=True)))
    return {f"recall@{k}": recall(first, rest, k) for k in (1, 10)}, losses.found
