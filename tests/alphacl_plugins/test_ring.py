"""Blocks round a ring of ranks: the numbers and gradients of gathered views, in less memory."""

import itertools
import re

import pytest
import torch
from oracles import ALL_STRATEGIES, relative_error, strategy_id

from alphacl_plugins import AlphaCLLoss, strategies, tiles
from live_bytes import LiveBytes

FACTORED = [strategy for strategy in ALL_STRATEGIES if getattr(strategy, "factored", None) is not None]
OTHERS = [strategy for strategy in ALL_STRATEGIES if strategy not in FACTORED]
NEGATIVES = ("both", "same", "cross", "queue")
LABELS = {
    "none": None,
    "unequal": torch.tensor([5, -1, 5, 7, 5]),
    "all equal": torch.tensor([4, 4, 4, 4, 4]),  # no candidates but the queue
}
OPTIONS = [
    (views, labels, negatives, symmetric, queued)
    for views, labels, negatives, symmetric, queued in itertools.product(
        (2, 3), LABELS, NEGATIVES, (True, False), (True, False)
    )
    if queued or negatives != "queue"
]


def random_batch(n_views, labels="none", queued=False, n=5, d=3):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    views = [(z + 0.5 * torch.randn(n, d, generator=g, dtype=torch.float64)).requires_grad_() for _ in range(n_views)]
    queue = torch.randn(7, d, generator=g, dtype=torch.float64) if queued else None
    return views, {"labels": LABELS[labels], "queue": queue}


@pytest.fixture(autouse=True)
def _several_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "SIDE", 2)


def check_against_gathering(strategy, n_views, labels, negatives, symmetric, queued):
    views, options = random_batch(n_views, labels, queued)
    weights = torch.rand(5 * n_views if symmetric else 5, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for gather in (False, "ring"):
        loss = AlphaCLLoss(
            strategy, negatives=negatives, symmetric=symmetric, gather_distributed=gather, reduction="none"
        )
        per_anchor = loss(*views, **options)
        gradients = torch.autograd.grad((weights * per_anchor).sum(), views)
        results.append(([per_anchor, *gradients], loss.last_stats))
    scale = max(float(g.abs().max()) for g in results[0][0][1:])
    assert relative_error(results[1][0][0], results[0][0][0]) < 1e-12
    for got, expected in zip(results[1][0][1:], results[0][0][1:], strict=True):
        assert float((got - expected).abs().max()) <= 1e-12 * scale
    assert results[1][1].keys() == results[0][1].keys()
    for name, expected in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], expected, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("strategy", FACTORED, ids=strategy_id)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_tile_by_tile_it_is_the_same_loss(strategy, labels, negatives):
    check_against_gathering(strategy, 3, labels, negatives, symmetric=True, queued=True)


@pytest.mark.parametrize("strategy", FACTORED, ids=strategy_id)
def test_anchors_without_candidates_contribute_nothing_there_too(strategy):
    check_against_gathering(strategy, 2, "all equal", "both", symmetric=True, queued=False)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", FACTORED, ids=strategy_id)
@pytest.mark.parametrize("combination", OPTIONS, ids=lambda c: "-".join(map(str, c)))
def test_every_combination_tile_by_tile(strategy, combination):
    check_against_gathering(strategy, *combination)


@pytest.mark.parametrize("strategy", OTHERS, ids=strategy_id)
def test_a_strategy_that_needs_all_candidates_at_once_is_refused(strategy):
    with pytest.raises(ValueError, match=rf'gather_distributed: .* got "ring" with {re.escape(repr(strategy)[:20])}'):
        AlphaCLLoss(strategy, gather_distributed="ring")


def test_which_strategies_go_round():
    names = {name for name in strategies.strategy_names() if strategies.build_strategy(name) in FACTORED}
    assert names == set(strategies.strategy_names()) - {"inverse", "square", "triplet", "modified_triplet"}
    assert strategies.Inverse(exact=False).factored is not None


def test_through_alpha_is_refused():
    with pytest.raises(ValueError, match=r'gather_distributed: .* with detach_alpha=False, got "ring"'):
        AlphaCLLoss(gather_distributed="ring", detach_alpha=False)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"gather_distributed: expected one of True, False, 'ring', got 'rings'"):
        AlphaCLLoss(gather_distributed="rings")


def test_pair_weights_are_those_of_gathered_views():
    views, options = random_batch(3, "unequal", queued=True)
    expected = AlphaCLLoss("infonce").pair_weights(*views, **options)
    got = AlphaCLLoss("infonce", gather_distributed="ring").pair_weights(*views, **options)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)


def test_the_gradient_cannot_be_differentiated_again():
    views, _ = random_batch(2)
    loss = AlphaCLLoss("infonce", gather_distributed="ring")(*views)
    with pytest.raises(RuntimeError, match=r'gather_distributed: expected True for .* again, got "ring"'):
        torch.autograd.grad(loss, views, create_graph=True)


def test_memory_grows_with_the_batch_and_not_with_its_square(monkeypatch):
    monkeypatch.setattr(tiles, "SIDE", 16)
    peaks = []
    for n in (128, 256):
        views, _ = random_batch(2, n=n, d=32)
        with LiveBytes() as memory:
            AlphaCLLoss("infonce", gather_distributed="ring")(*views).backward()
        peaks.append(memory.peak)
    assert peaks[1] < 2.1 * peaks[0]
    assert peaks[1] < 8 * 2 * 256 * 32 * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_it_computes_in_float32(dtype):
    views = [view.detach().float().requires_grad_() for view in random_batch(2, n=6, d=4)[0]]
    loss = AlphaCLLoss("infonce", gather_distributed="ring")
    expected = torch.autograd.grad(loss(*views), views)
    with torch.autocast("cpu", dtype=dtype):
        got = torch.autograd.grad(loss(*views), views)
    for g, e in zip(got, expected, strict=True):
        assert relative_error(g, e) < 1e-6


def test_far_from_the_origin_the_gradient_keeps_its_precision():
    views, _ = random_batch(2, n=6, d=4)
    far = [(1e3 + view.detach()).float().requires_grad_() for view in views]
    exact = [view.detach().double().requires_grad_() for view in far]
    loss = AlphaCLLoss("infonce", l2_normalize=False, gather_distributed="ring")
    expected = torch.autograd.grad(loss(*exact), exact)
    for g, e in zip(torch.autograd.grad(loss(*far), far), expected, strict=True):
        assert relative_error(g, e) < 1e-5


def test_compiled_in_one_process_it_is_the_same(monkeypatch):
    monkeypatch.setattr(tiles, "SIDE", 1024)
    torch._dynamo.reset()
    views, options = random_batch(3, "unequal", queued=True)
    loss = AlphaCLLoss("infonce", gather_distributed="ring")
    expected = torch.autograd.grad(loss(*views, **options), views)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for g, e in zip(torch.autograd.grad(compiled(*views, **options), views), expected, strict=True):
        assert relative_error(g, e) < 1e-12
