"""The loss on distances that somebody else has measured."""

import pytest
import torch
from batches import several_views
from oracles import STRATEGIES_OF_TESTS, half_squared, random_distances, relative_error, strategy_id

from alphacl_plugins import AlphaCLLoss, PairWeights, row_losses
from alphacl_plugins.strategies import Direct, InfoNCE, LearnableTemperature

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES_OF_TESTS, ids=strategy_id)


def distances(views, labels):
    """D of every pair, the share of each column among the positives of an anchor, and which are its negatives."""
    rows = torch.cat([view / view.norm(dim=1, keepdim=True) for view in views])
    classes = labels.repeat(len(views))
    d2 = torch.stack([torch.stack([half_squared(a, b) for b in rows]) for a in rows])
    same = classes[:, None] == classes
    positive = same & ~torch.eye(len(rows), dtype=torch.bool)
    return d2, positive.double() / positive.sum(dim=1, keepdim=True), ~same


@every_strategy
def test_it_is_the_loss(strategy):
    views, labels = several_views(2, 5, 3), torch.tensor([0, 1, 0, 2, 1])
    expected = AlphaCLLoss(strategy, negatives="both", symmetric=True, reduction="none")(*views, labels=labels)
    d2, share, negative = distances(views, labels)
    got = row_losses(strategy, d2, d2, share=share, count=negative)
    assert relative_error(got, expected) < 1e-12
    weights = torch.linspace(1, 2, len(got), dtype=torch.float64)
    g, e = (torch.cat(torch.autograd.grad((weights * x).sum(), views)) for x in (got, expected))
    assert relative_error(g, e) < 1e-11


@every_strategy
def test_counts_are_copies(strategy):
    d_pos, d_neg = random_distances(0, 4, 3)
    copies = torch.tensor([2, 0, 3])
    d_pos, d_neg = d_pos[:, None].requires_grad_(), d_neg.requires_grad_()
    for count in (copies.double(), copies.double().expand(4, 3)):
        got = row_losses(strategy, d_pos, d_neg, count=count)
        expected = row_losses(strategy, d_pos, d_neg.repeat_interleave(copies, dim=1))
        assert relative_error(got, expected) < 1e-12
        for g, e in zip(*(torch.autograd.grad(x.sum(), (d_pos, d_neg)) for x in (got, expected)), strict=True):
            assert relative_error(g, e) < 1e-11


@every_strategy
def test_fractions_of_copies_scale(strategy):
    """Halves of twice as many columns are the columns, and a sum of counts below 1 is no trouble."""
    d_pos, d_neg = random_distances(1, 4, 3)
    whole = row_losses(strategy, d_pos[:, None], d_neg)
    halves = row_losses(strategy, d_pos[:, None], torch.cat([d_neg, d_neg], 1), count=torch.full((6,), 0.5))
    assert relative_error(halves, whole) < 1e-12
    few = row_losses(strategy, d_pos[:, None], d_neg, count=torch.tensor([0.1, 0.2, 1e-4]))
    assert few.isfinite().all()


@every_strategy
def test_who_needs_distances(strategy):
    d_pos, d_neg = random_distances(2, 4, 3)
    found = [row_losses(strategy, d_pos[:, None] + shift, d_neg + shift) for shift in (0.0, 1.0, -3.0)]
    if not strategy.needs_distance:
        for other in found[1:]:
            assert relative_error(other, found[0]) < 1e-11


def test_direct_needs_distances():
    assert Direct().needs_distance
    assert not InfoNCE().needs_distance


def test_excluded_distances_may_be_anything():
    d_pos, d_neg = torch.rand(3, 1), torch.rand(3, 4).requires_grad_()
    count = torch.tensor([1.0, 0.0, 1.0, 1.0])
    broken = d_neg.detach().clone()
    broken[:, 1] = torch.nan
    broken.requires_grad_()
    expected, got = (row_losses("infonce", d_pos, d, count=count) for d in (d_neg, broken))
    assert torch.equal(got, expected)
    (gradient,) = torch.autograd.grad(got.sum(), broken)
    assert (gradient[:, 1] == 0).all()
    assert gradient.isfinite().all()


def test_a_temperature_learns_from_rows():
    module = LearnableTemperature(InfoNCE(0.3))
    views = several_views(2, 5, 3)
    loss = AlphaCLLoss(module)(*views)
    expected = torch.autograd.grad(loss, module.log_tau)[0]
    d2, share, negative = distances(views, torch.arange(5))
    got = row_losses(module, d2, d2, share=share, count=negative).mean()
    assert torch.allclose(torch.autograd.grad(got, module.log_tau)[0], expected)


def plain_function(d2_pos, d2_neg):
    return PairWeights(torch.softmax(-d2_neg, dim=1))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.rand(3), torch.rand(3, 2)), {}, ValueError, r"d_pos: expected shape \[rows, columns\], got \(3,\)"),
        ((torch.rand(2, 1), torch.rand(3, 2)), {}, ValueError, r"d_pos: expected \[3, P\]"),
        ((torch.rand(3, 0), torch.rand(3, 2)), {}, ValueError, r"d_pos: expected shape .* got \(3, 0\)"),
        ((torch.rand(3, 1), torch.rand(3, 2)), {"share": torch.rand(3)}, ValueError, "share: expected"),
        (
            (torch.rand(3, 1), torch.rand(3, 2)),
            {"count": torch.rand(3)},
            ValueError,
            r"count: expected \[3, 2\] or \[2\]",
        ),
    ],
)
def test_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        row_losses("infonce", *arguments, **options)


def test_a_strategy_that_cannot_count_takes_masks():
    d_pos, d_neg = torch.rand(3, 1), torch.rand(3, 4)
    with pytest.raises(TypeError, match="count: expected a bool mask"):
        row_losses(plain_function, d_pos, d_neg, count=torch.rand(4))
    mask = torch.tensor([True, False, True, True])
    got = row_losses(plain_function, d_pos, d_neg, count=mask)
    assert torch.allclose(got, row_losses(plain_function, d_pos, d_neg[:, mask]))
