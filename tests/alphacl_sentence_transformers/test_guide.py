"""A guide that knows false negatives: with infonce the host's GISTEmbedLoss."""

import pytest
import torch
from oracles import relative_error
from processes import run_in_processes
from torch import distributed as dist

hosts = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
from tiny_hosts import sentence_model  # noqa: E402

from alphacl_sentence_transformers import AlphaCLRankingLoss, CachedAlphaCLRankingLoss  # noqa: E402

GTE = ("query_to_doc", "query_to_query", "doc_to_doc")


WORDS = [f"word{k}" for k in range(40)]


def texts(n, seed):
    """Sentences of five words."""
    picked = torch.randint(len(WORDS), (n, 5), generator=torch.Generator().manual_seed(seed)).tolist()
    return [" ".join(WORDS[k] for k in row) for row in picked]


def features(model, hard):
    return [model.preprocess(texts(8, seed)) for seed in range(2 + hard)]


def agree(model, ours, theirs, hard):
    found = []
    for loss in (ours, theirs):
        model.zero_grad()
        value = loss(features(model, hard), None)
        value.backward()
        found.append((value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    largest = max(float(g.abs().max()) for g in found[1][1])
    for got, expected in zip(found[0][1], found[1][1], strict=True):
        assert float((got - expected).abs().max()) < 1e-5 * largest


@pytest.mark.parametrize("other_words", [False, True], ids=["one vocabulary", "two vocabularies"])
@pytest.mark.parametrize(("strategy", "margin"), [("absolute", 0.0), ("absolute", 0.02), ("relative", 0.03)])
@pytest.mark.parametrize(("directions", "hard"), [(GTE[:1], 0), (GTE[:1], 1), (GTE[:2], 1), (GTE, 0)])
def test_infonce_is_gist(tmp_path, other_words, strategy, margin, directions, hard):
    model = sentence_model(tmp_path / "model", WORDS)
    guide = sentence_model(tmp_path / "guide", WORDS[::-1] if other_words else WORDS, seed=1)
    options = {"margin_strategy": strategy, "margin": margin}
    contrasts = {"contrast_anchors": GTE[1] in directions, "contrast_positives": GTE[2] in directions}
    theirs = hosts.GISTEmbedLoss(model, guide, temperature=0.2, **options, **contrasts)
    ours = AlphaCLRankingLoss(model, "infonce", tau=0.2, guide=guide, directions=directions, **options)
    agree(model, ours, theirs, hard)
    without = AlphaCLRankingLoss(model, "infonce", tau=0.2, directions=directions)
    assert without(features(model, hard)).item() != pytest.approx(ours(features(model, hard)).item(), rel=1e-3)


def test_other_strategies_take_a_guide(tmp_path):
    model, guide = sentence_model(tmp_path / "model", WORDS), sentence_model(tmp_path / "guide", WORDS, seed=1)
    for name in ("direct", "square"):
        loss = AlphaCLRankingLoss(model, name, guide=guide)(features(model, 0))
        assert loss.isfinite()
        assert relative_error(loss, AlphaCLRankingLoss(model, name)(features(model, 0))) > 1e-3
    with pytest.raises(ValueError, match="guide: expected None in the cached form"):
        CachedAlphaCLRankingLoss(model, guide=guide)
    with pytest.raises(ValueError, match="margin_strategy: expected one of"):
        AlphaCLRankingLoss(model, guide=guide, margin_strategy="squared")


def test_without_a_guide_the_model_is_called_as_the_host_calls_it(tmp_path):
    model = sentence_model(tmp_path / "model", WORDS)
    theirs = hosts.MultipleNegativesRankingLoss(model, scale=5.0)
    ours = AlphaCLRankingLoss(model, "infonce", tau=0.2)
    for hard in (0, 2):
        agree(model, ours, theirs, hard)
    cached = CachedAlphaCLRankingLoss(model, "infonce", tau=0.2, mini_batch_size=3)
    agree(model, cached, theirs, 1)
    assert torch.is_grad_enabled()


def test_a_guide_of_the_same_vocabulary_reads_unknown_words_as_the_host_does(tmp_path, monkeypatch):
    model, guide = sentence_model(tmp_path / "model", WORDS), sentence_model(tmp_path / "guide", WORDS, seed=1)
    known = texts
    monkeypatch.setitem(
        globals(),
        "texts",
        lambda n, seed: [f"{text} zzz qqq" * (i % 2) or text for i, text in enumerate(known(n, seed))],
    )
    theirs = hosts.GISTEmbedLoss(model, guide, temperature=0.2)
    agree(model, AlphaCLRankingLoss(model, "infonce", tau=0.2, guide=guide, directions=GTE), theirs, 0)


def test_a_guide_reads_texts_and_no_embeddings(tmp_path):
    model = sentence_model(tmp_path / "model", WORDS)
    loss = AlphaCLRankingLoss(model, "infonce", guide=model)
    with pytest.raises(ValueError, match="guide: expected None for embeddings alone, as a guide reads the texts"):
        loss.compute_loss_from_embeddings([torch.rand(3, 4), torch.rand(3, 4)])


def guided_in_two_processes(rank, world, model, guide):
    options = {"tau": 0.2, "guide": guide, "directions": GTE, "margin": 0.02}
    columns = [texts(4 * world, seed) for seed in range(2)]
    own = [model.preprocess(column[4 * rank : 4 * rank + 4]) for column in columns]
    value = AlphaCLRankingLoss(model, "infonce", gather_across_devices=True, **options)(own)
    value.backward()
    found = [parameter.grad.clone() / world for parameter in model.parameters() if parameter.grad is not None]
    for tensor in (value := value.detach() / world, *found):
        dist.all_reduce(tensor)
    model.zero_grad()
    whole = AlphaCLRankingLoss(model, "infonce", **options)([model.preprocess(column) for column in columns])
    whole.backward()
    assert relative_error(value, whole.detach()) < 1e-5
    expected = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert all(float((a - b).abs().max()) < 1e-5 * largest for a, b in zip(found, expected, strict=True))


def test_a_guide_sees_the_batch_of_all_processes(tmp_path):
    models = (sentence_model(tmp_path / name, WORDS, seed=seed) for seed, name in enumerate(("model", "guide")))
    run_in_processes(2, tmp_path, guided_in_two_processes, *models)
