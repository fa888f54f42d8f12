"""The losses in sentence-transformers' own trainer: step by step the host's, in all that the trainer does with one."""

import copy

import pytest
import torch
from tiny_hosts import write_bert

for host in ("sentence_transformers", "datasets", "accelerate"):
    pytest.importorskip(host, reason=f"needs {host}")
from datasets import Dataset  # noqa: E402
from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer  # noqa: E402

from alphacl_sentence_transformers import AlphaCLRankingLoss, CachedAlphaCLRankingLoss  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of the hosts
TAU, STEPS = 0.1, 4
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TEXTS = [[f"{a} {b} {word}" for a, b in zip(WORDS, WORDS[3:] + WORDS[:3], strict=True)] for word in WORDS[:3]]
PAIRS = dict(zip(("anchor", "positive"), TEXTS, strict=False))
TRIPLETS = dict(zip(("anchor", "positive", "negative"), TEXTS, strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    write_bert(folder, [text for column in TEXTS for text in column])
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(16)], device="cpu")


def trainer(model, loss_of, data, folder, **options):
    """A trainer of a copy of the model, with dropout."""
    model = copy.deepcopy(model)
    given = {"max_steps": STEPS, "save_strategy": "no", "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
    arguments = SentenceTransformerTrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **(given | options),
    )
    return SentenceTransformerTrainer(model, arguments, train_dataset=Dataset.from_dict(data), loss=loss_of(model))


def logged(trained):
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def host(model):
    return losses.MultipleNegativesRankingLoss(model, scale=1 / TAU)


def ours(model):
    return AlphaCLRankingLoss(model, "infonce", tau=TAU)


def host_cached(model):
    return losses.CachedMultipleNegativesRankingLoss(model, scale=1 / TAU, mini_batch_size=3)


def ours_cached(model):
    return CachedAlphaCLRankingLoss(model, "infonce", tau=TAU, mini_batch_size=3)


CASES = {
    "pairs": (host, ours, PAIRS, {}),
    "triplets": (host, ours, TRIPLETS, {}),
    "accumulation": (host, ours, PAIRS, {"gradient_accumulation_steps": 2, "max_steps": 2}),
    "cached": (host_cached, ours_cached, TRIPLETS, {}),
    "matryoshka": (
        lambda model: losses.MatryoshkaLoss(model, host(model), [16, 8]),
        lambda model: losses.MatryoshkaLoss(model, ours(model), [16, 8]),
        PAIRS,
        {},
    ),
    "matryoshka, cached": (
        lambda model: losses.MatryoshkaLoss(model, host_cached(model), [16, 8]),
        lambda model: losses.MatryoshkaLoss(model, ours_cached(model), [16, 8]),
        PAIRS,
        {},
    ),
}


@pytest.mark.parametrize(("theirs", "own", "data", "options"), CASES.values(), ids=CASES)
def test_the_steps_are_the_hosts(theirs, own, data, options, model, tmp_path):
    found = []
    for loss_of in (theirs, own):
        trained = trainer(model, loss_of, data, tmp_path, **options)
        trained.train()
        found.append((logged(trained), trained.model))
    (expected, their_model), (got, our_model) = found
    assert len(got) == options.get("max_steps", STEPS)
    assert got == pytest.approx(expected, abs=1e-5, rel=1e-5)
    for p, q in zip(our_model.parameters(), their_model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-4, rtol=0)  # Adam makes much of the last digits of a small gradient


def test_bf16(model, tmp_path):
    found = []
    for loss_of in (host, ours):
        trained = trainer(model, loss_of, PAIRS, tmp_path, bf16=True)
        trained.train()
        found.append(logged(trained))
    assert found[1] == pytest.approx(found[0], rel=2e-2)


def test_a_learnable_temperature_is_trained(model, tmp_path):
    trained = trainer(
        model, lambda model: AlphaCLRankingLoss(model, "infonce", tau=TAU, learnable_tau=True), PAIRS, tmp_path
    )
    log_tau = trained.loss.strategy.log_tau
    before = log_tau.item()
    trained.train()
    assert log_tau.item() != before


def test_a_run_that_is_resumed_ends_where_the_whole_one_does(model, tmp_path):
    def direct(model):
        return AlphaCLRankingLoss(model, "direct", tau=0.5)

    whole = trainer(model, direct, PAIRS, tmp_path / "whole", save_strategy="steps", save_steps=2)
    whole.train()
    resumed = trainer(model, direct, PAIRS, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert logged(resumed) == pytest.approx(logged(whole), rel=1e-6)
    for p, q in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_saved_model_card_names_the_strategy(model, tmp_path):
    trained = trainer(model, lambda model: CachedAlphaCLRankingLoss(model, "direct", tau=0.3), PAIRS, tmp_path)
    trained.train()
    trained.model.save_pretrained(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert "CachedAlphaCLRankingLoss" in card
    assert "Direct(tau=0.3" in card
    assert '"mini_batch_size": 32' in card
