"""The ranking loss beside sentence-transformers' own: with infonce they are one, for all directions and documents."""

import itertools

import pytest
import torch
from oracles import relative_error
from processes import run_in_processes
from torch import distributed as dist
from torch import nn

hosts = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
from sentence_transformers.util import cos_sim, dot_score, euclidean_sim, manhattan_sim  # noqa: E402

from alphacl_plugins import AlphaCLLoss, strategies  # noqa: E402
from alphacl_sentence_transformers import AlphaCLRankingLoss, CachedAlphaCLRankingLoss  # noqa: E402

TAU = 0.2
TO_DOC, TO_QUERY = "query_to_doc", "doc_to_query"
DIRECTIONS = [
    (TO_DOC,),
    (TO_DOC, TO_QUERY),
    (TO_DOC, "query_to_query"),
    (TO_DOC, "query_to_query", TO_QUERY, "doc_to_doc"),
]
MODEL = nn.Sequential(nn.Identity())


def columns(hard=0, n=6, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2 + hard)]


def agree(ours, theirs, embeddings, tolerance=1e-12):
    got, expected = (loss.compute_loss_from_embeddings(embeddings, None) for loss in (ours, theirs))
    assert got.item() == pytest.approx(expected.item(), rel=tolerance)
    for g, e in zip(*(torch.autograd.grad(x, embeddings, allow_unused=True) for x in (got, expected)), strict=True):
        assert relative_error(g, e) < tolerance


MODES = [(directions, "joint") for directions in DIRECTIONS] + [
    (directions, "per_direction") for directions in DIRECTIONS[:2]
]


@pytest.mark.parametrize(("directions", "partition_mode"), MODES, ids=str)
@pytest.mark.parametrize("hard", [0, 1, 2])
@pytest.mark.parametrize("similarity", [cos_sim, dot_score, euclidean_sim, manhattan_sim])
def test_infonce_is_the_hosts_loss(directions, partition_mode, hard, similarity):
    options = {"directions": directions, "partition_mode": partition_mode, "similarity_fct": similarity}
    theirs = hosts.MultipleNegativesRankingLoss(MODEL, scale=1 / TAU, **options)
    agree(AlphaCLRankingLoss(MODEL, "infonce", tau=TAU, **options), theirs, columns(hard))


@pytest.mark.parametrize("mode", ["in_batch_negatives", "hard_negatives", "all_negatives"])
@pytest.mark.parametrize("hard", [0, 2])
def test_hardness_counts_documents_as_the_host_does(mode, hard):
    options = {"hardness_mode": mode, "hardness_strength": 3.0}
    theirs = hosts.MultipleNegativesRankingLoss(MODEL, scale=1 / TAU, **options)
    agree(AlphaCLRankingLoss(MODEL, "infonce", tau=TAU, **options), theirs, columns(hard))


@pytest.mark.parametrize("name", strategies.strategy_names())
@pytest.mark.parametrize("hard", [0, 2])
def test_the_streamed_form_is_that_of_the_matrix(name, hard, monkeypatch):
    scale = "paper" if strategies.build_strategy(name).usual_scale is None else "ntxent"
    for directions in ((TO_DOC,), (TO_DOC, TO_QUERY))[: 1 if hard else 2]:
        options = {"directions": directions, "partition_mode": "per_direction", "scale": scale}
        streamed, by_matrix = (AlphaCLRankingLoss(MODEL, name, **options) for _ in range(2))
        assert streamed.streams(columns(hard))
        monkeypatch.setattr(by_matrix, "streams", lambda number: False)
        if directions == (TO_DOC,):
            agree(streamed, by_matrix, columns(hard))
        else:  # a query's positive is compared with the queries in the core, with the query's documents in the host
            got = streamed.compute_loss_from_embeddings(columns())
            core = AlphaCLLoss(name, negatives="cross", scale=scale)(*columns())
            assert got.item() == pytest.approx(core.item(), rel=1e-12)


def test_false_negatives_are_left_out():
    embeddings = columns(hard=1)

    def near(queries, documents):
        assert not queries.requires_grad
        assert not documents.requires_grad
        return cos_sim(queries, documents) > 0.4

    got = AlphaCLRankingLoss(MODEL, "infonce", tau=TAU, false_negatives=near).compute_loss_from_embeddings(embeddings)
    total, (queries, positives, hard) = 0.0, embeddings
    for i, query in enumerate(queries):
        own = cos_sim(query, positives[i])[0, 0]
        others = [cos_sim(query, row)[0, 0] for k, row in enumerate(torch.cat([positives, hard])) if k != i]
        kept = torch.stack([c for c in others if c <= 0.4] + [own]) / TAU
        total = total + kept.logsumexp(0) - own / TAU
    assert got.item() == pytest.approx((total / len(queries)).item(), rel=1e-12)
    with pytest.raises(ValueError, match=r"false_negatives: expected a bool mask \(6, 12\), got"):
        AlphaCLRankingLoss(MODEL, false_negatives=lambda q, d: q @ d.T).compute_loss_from_embeddings(embeddings)


@pytest.mark.parametrize("directions", DIRECTIONS, ids=len)
@pytest.mark.parametrize("hard", [0, 2])
@pytest.mark.parametrize("name", ["infonce", "direct", "square", "dcl_weighted", "macl"])
def test_cached_is_uncached(directions, hard, name):
    whole = columns(hard)
    uncached = AlphaCLRankingLoss(MODEL, name, directions=directions)
    cached = CachedAlphaCLRankingLoss(MODEL, name, directions=directions, mini_batch_size=4)
    expected = uncached.compute_loss_from_embeddings(whole)
    gradients = torch.autograd.grad(expected, whole)
    reps = [[part.detach().requires_grad_() for part in column.split(4)] for column in whole]
    assert cached.calculate_loss(reps).item() == pytest.approx(expected.item(), rel=1e-12)
    value = cached.calculate_loss(reps, with_backward=True)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for column, e in zip(reps, gradients, strict=True):
        assert relative_error(torch.cat([part.grad for part in column]), e) < 1e-12


def test_a_temperature_learns_alike_in_every_form():
    found = []
    for loss in (
        AlphaCLRankingLoss(MODEL, "infonce", tau=TAU, learnable_tau=True),
        AlphaCLRankingLoss(MODEL, "infonce", tau=TAU, learnable_tau=True, directions=(TO_DOC, "query_to_query")),
        CachedAlphaCLRankingLoss(MODEL, "infonce", tau=TAU, learnable_tau=True, mini_batch_size=2),
    ):
        (parameter,) = loss.parameters()
        value = loss.compute_loss_from_embeddings(columns()) if isinstance(loss, AlphaCLRankingLoss) else (
            loss.calculate_loss([[column] for column in columns()]))  # fmt: skip
        found.append(torch.autograd.grad(value, parameter)[0].item())
    assert found[0] == pytest.approx(found[2], rel=1e-6)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("directions", [(TO_DOC,), (TO_DOC, "query_to_query")])
def test_the_cached_gradient_of_a_temperature_waits_for_backward(directions):
    options = {"tau": TAU, "learnable_tau": True, "directions": directions}
    plain = AlphaCLRankingLoss(MODEL, "infonce", **options)
    cached = CachedAlphaCLRankingLoss(MODEL, "infonce", mini_batch_size=2, **options)
    (tau,), (cached_tau,) = plain.parameters(), cached.loss.criterion.parameters()
    leaves = [column.detach().requires_grad_() for column in columns()]
    value = plain.compute_loss_from_embeddings(leaves)
    (value / 4).backward()
    reps = [[column.detach().requires_grad_()] for column in columns()]
    cached.forward_cached = lambda *_: cached.calculate_loss(reps, with_backward=True).requires_grad_()
    loss = cached([{}, {}])
    assert cached_tau.grad is None
    (loss / 4).backward()
    assert loss.item() == pytest.approx(value.item(), rel=1e-6)
    assert cached_tau.grad.item() == pytest.approx(tau.grad.item(), rel=1e-6)
    for (rep,), leaf in zip(reps, leaves, strict=True):
        assert relative_error(rep.grad / 4, leaf.grad) < 1e-6


def test_one_pair_has_no_negatives_and_a_loss_of_0():
    pair = [column[:1].detach().requires_grad_() for column in columns()[:2]]
    for loss in (AlphaCLRankingLoss(MODEL, "infonce", tau=TAU), AlphaCLRankingLoss(MODEL, "direct")):
        value = loss.compute_loss_from_embeddings(pair)
        value.backward()
        assert value.item() == 0
    assert CachedAlphaCLRankingLoss(MODEL, "infonce").calculate_loss([[column] for column in pair]).item() == 0


def test_what_the_model_card_gets():
    guided = AlphaCLRankingLoss(MODEL, "infonce", tau=TAU, guide=MODEL, margin=0.1).get_config_dict()
    assert (guided["guide"], guided["margin"], guided["margin_strategy"]) == (MODEL, 0.1, "absolute")
    config = AlphaCLRankingLoss(MODEL, "infonce", tau=TAU).get_config_dict()
    assert config["strategy"] == "InfoNCE(tau=0.2, eps=1.0)"
    assert config["scale"] == pytest.approx(1 / TAU)  # the host's word for 1/τ
    assert config["directions"] == (TO_DOC,)
    assert AlphaCLRankingLoss(MODEL, "infonce", tau=TAU, scale="paper").get_config_dict()["scale"] == "paper"
    cached = CachedAlphaCLRankingLoss(MODEL, "direct", mini_batch_size=7).get_config_dict()
    assert cached["strategy"] == "Direct(tau=0.5, p=4.0, normalize=True)"
    assert cached["mini_batch_size"] == 7


def test_wrong_options_name_themselves():
    for call, error, message in (
        (lambda: AlphaCLRankingLoss(MODEL, "infonce", scale=20.0), ValueError, "scale: expected one of"),
        (lambda: AlphaCLRankingLoss(MODEL, similarity_fct=dot_score), ValueError, "similarity_fct: expected cos_sim"),
        (lambda: AlphaCLRankingLoss(MODEL, hardness_mode="all"), ValueError, "hardness_mode: expected one of"),
        (
            lambda: AlphaCLRankingLoss(MODEL, "infonce", effective_share=0.3),
            ValueError,
            "effective_share: expected None",
        ),
        (lambda: AlphaCLRankingLoss(MODEL, "infonec"), ValueError, "did you mean 'infonce'"),
        (lambda: AlphaCLRankingLoss(MODEL, "infonce", temperature=1), TypeError, "the temperature is called tau"),
        (lambda: AlphaCLRankingLoss(MODEL, "triplet"), ValueError, 'scale: expected "paper" with Triplet'),
        (lambda: AlphaCLRankingLoss(MODEL).compute_loss_from_embeddings(columns()[:1]), ValueError, "got 1 columns"),
        (
            lambda: AlphaCLRankingLoss(MODEL, directions=DIRECTIONS[1]).compute_loss_from_embeddings(
                [torch.rand(3, 4), torch.rand(2, 4)]
            ),
            ValueError,
            r"sentence_features: expected columns of one length, got \[3, 2\]",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def in_two_processes(rank, world):
    for hard, directions in itertools.product((0, 1), DIRECTIONS[:3]):
        options = {"directions": directions, "tau": TAU}
        whole = columns(hard, n=8)
        expected = AlphaCLRankingLoss(MODEL, "infonce", **options).compute_loss_from_embeddings(whole)
        gradients = torch.autograd.grad(expected, whole)
        mine = [column.detach()[4 * rank : 4 * rank + 4].requires_grad_() for column in whole]
        for kind in (AlphaCLRankingLoss, CachedAlphaCLRankingLoss):
            loss = kind(MODEL, "infonce", gather_across_devices=True, **options)
            cached = kind is CachedAlphaCLRankingLoss
            value = loss.calculate_loss([[x] for x in mine]) if cached else loss.compute_loss_from_embeddings(mine)
            got = torch.autograd.grad(value, mine)
            value = value.detach().clone()
            dist.all_reduce(value)
            assert value.item() / world == pytest.approx(expected.item(), rel=1e-9)
            for g, e in zip(got, gradients, strict=True):
                assert relative_error(g / world, e[4 * rank : 4 * rank + 4]) < 1e-9, (hard, directions, kind)


def test_two_processes_are_one(tmp_path):
    run_in_processes(2, tmp_path, in_two_processes)
