"""More than two views, labels, and a queue beside them, in every combination, against plain loops."""

import itertools

import pytest
import torch
from oracles import ALL_STRATEGIES, is_finite, loop_loss, random_distances, relative_error, strategy_id

from alphacl_plugins import AlphaCLLoss, PairWeights, build_strategy, strategies, strategy_names
from alphacl_plugins.positives import _one_by_one, weigh

every_strategy = pytest.mark.parametrize("strategy", ALL_STRATEGIES, ids=strategy_id)
every_name = pytest.mark.parametrize("name", strategy_names())
NEGATIVES = ("both", "same", "cross", "queue")
LABELS = {
    "none": None,
    "unequal": torch.tensor([5, -1, 5, 7]),
    "all different": torch.tensor([3, 2, 1, 0]),
    "all equal": torch.tensor([4, 4, 4, 4]),  # no candidates but the queue
}
OPTIONS = [
    (views, labels, negatives, symmetric, queued)
    for views, labels, negatives, symmetric, queued in itertools.product(
        (2, 3), LABELS, NEGATIVES, (True, False), (True, False)
    )
    if (queued or negatives != "queue") and (views, labels) != (2, "none")  # that one is in test_loss
]


def several_views(count, n=4, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    return [(z + 0.5 * torch.randn(n, d, generator=g, dtype=torch.float64)).requires_grad_() for _ in range(count)]


def random_queue(d=3):
    return torch.randn(3, d, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def check_against_loops(strategy, views, labels, negatives, symmetric, queued):
    views, labels, queue = several_views(views), LABELS[labels], random_queue() if queued else None
    energies, values = loop_loss(strategy, *views, negatives=negatives, symmetric=symmetric, labels=labels, queue=queue)
    expected = torch.autograd.grad(energies.mean(), views)
    loss = AlphaCLLoss(strategy, negatives=negatives, symmetric=symmetric, reduction="none")
    got = loss(*views, labels=labels, queue=queue)
    assert relative_error(got, values) < 1e-12
    scale = max(float(g.abs().max()) for g in expected)
    for g, e in zip(torch.autograd.grad(got.mean(), views), expected, strict=True):
        assert float((g - e).abs().max()) <= 1e-12 * scale


@every_strategy
@pytest.mark.parametrize("labels", [name for name in LABELS if name != "all different"])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_three_views_by_loops(strategy, labels, negatives):
    check_against_loops(strategy, 3, labels, negatives, symmetric=True, queued=True)


@pytest.mark.slow
@every_strategy
@pytest.mark.parametrize("combination", OPTIONS, ids=lambda c: "-".join(map(str, c)))
def test_every_combination_by_loops(strategy, combination):
    check_against_loops(strategy, *combination)


@every_strategy
def test_the_short_ways_are_the_mean_over_one_positive_at_a_time(strategy):
    _, d2_pos = random_distances(1, anchors=5, candidates=4)
    _, d2_neg = random_distances(2, anchors=5, candidates=7)
    share = torch.rand(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    share[0, 2:] = 0
    share /= share.sum(dim=1, keepdim=True)
    candidates = (strategy, d2_pos, share, d2_neg, torch.clone)  # none is excluded
    for short, long in zip(weigh(*candidates), _one_by_one(*candidates), strict=True):
        assert (short is None) == (long is None)
        if short is not None:
            assert relative_error(short, long) < 1e-12


def test_a_third_view_counts():
    views = several_views(3)
    loss = AlphaCLLoss("infonce")
    assert loss(*views).item() != pytest.approx(loss(*views[:2]).item())
    assert AlphaCLLoss("infonce", reduction="none")(*views).shape == (12,)


def test_labels_that_are_all_different_change_nothing():
    views = several_views(3)
    loss = AlphaCLLoss("kcl")
    assert loss(*views, labels=torch.tensor([9, 4, 6, 1])).item() == pytest.approx(loss(*views).item(), rel=1e-12)


@every_name
def test_an_anchor_without_candidates_contributes_nothing(name):
    views = several_views(2)
    loss = AlphaCLLoss(name)(*views, labels=LABELS["all equal"])
    loss.backward()
    assert loss.item() == 0
    assert all(view.grad.abs().max() == 0 for view in views)


@every_name
def test_gradient_through_alpha_is_that_of_the_value(name):
    strategy = strategies.Triplet(0.3) if name == "triplet" else build_strategy(name)
    loss = AlphaCLLoss(strategy, detach_alpha=False)
    views = several_views(3)
    assert torch.autograd.gradcheck(lambda *v: loss(*v, labels=LABELS["unequal"]), views, atol=1e-7)
    assert torch.autograd.gradcheck(lambda *v: loss(*v, labels=LABELS["all equal"]), views, atol=1e-7)


def test_pair_weights_with_several_positives():
    views, labels = several_views(3), LABELS["unequal"]
    for options, positives in (({}, 2), ({"labels": labels}, 12)):
        weights = AlphaCLLoss("direct").pair_weights(*views, **options)
        assert weights.neg.shape == (12, 12)
        assert weights.pos.shape == (12, positives)
        torch.testing.assert_close(weights.pos.sum(dim=1), torch.ones(12, dtype=torch.float64))
    same_class = (labels[:, None] == labels[None, :]).repeat(3, 3)
    assert (weights.neg[same_class] == 0).all()
    assert (weights.pos[~same_class] == 0).all()
    assert (weights.pos.diagonal() == 0).all()


def test_last_stats_average_the_positives():
    views = several_views(3)
    loss = AlphaCLLoss("direct")
    loss(*views)
    unit = [torch.nn.functional.normalize(view.detach()) for view in views]
    pairs = [(unit[a] - unit[b]).square().sum(dim=1).mean() / 2 for a, b in ((0, 1), (0, 2), (1, 2))]
    assert loss.last_stats["d2_pos"].item() == pytest.approx(float(sum(pairs)) / 3, rel=1e-12)


@every_name
def test_compiled_without_graph_breaks_it_gives_the_same_gradient(name):
    torch._dynamo.reset()
    views, labels = several_views(3), LABELS["unequal"]
    loss = AlphaCLLoss(name)
    expected = torch.autograd.grad(loss(*views, labels=labels), views)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, e in zip(torch.autograd.grad(compiled(*views, labels=labels), views), expected, strict=True):
        assert relative_error(got, e) < 1e-12


@every_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_finite(name, dtype):
    views = [view.detach().to(dtype).requires_grad_() for view in several_views(3)]
    loss = AlphaCLLoss(name)(*views, labels=LABELS["unequal"])
    loss.backward()
    assert is_finite(loss, *[view.grad for view in views])


def test_a_users_strategy_that_knows_one_positive_takes_several():
    def margin(d2_pos, d2_neg):
        return PairWeights((d2_neg < d2_pos[:, None] + 0.5).double())

    check_against_loops(margin, 3, "unequal", "both", symmetric=True, queued=False)


Z = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda loss: loss(Z, Z, Z[:2]),
            ValueError,
            r"more_views\[0\]: expected the shape of z \(3, 2\), got \(2, 2\)",
        ),
        (
            lambda loss: loss(Z, Z, Z, Z.int()),
            TypeError,
            r"more_views\[1\]: expected a floating-point tensor, got torch.in",
        ),
        (lambda loss: loss(Z, Z, labels=[0, 1, 2]), TypeError, r"labels: expected an integer tensor \[3\], got list"),
        (
            lambda loss: loss(Z, Z, labels=Z[:, 0]),
            TypeError,
            r"labels: expected an integer tensor \[3\], got torch.float32",
        ),
        (lambda loss: loss(Z, Z, labels=torch.arange(6)), ValueError, r"labels: expected shape \[3\], .* got \(6,\)"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call(AlphaCLLoss())
