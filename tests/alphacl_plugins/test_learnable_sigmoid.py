"""The sigmoid loss whose t and b learn: the gradients of the published loss, in every engine."""

import math

import pytest
import torch
from oracles import half_squared, random_views, relative_error
from torch.nn.functional import softplus

from alphacl_plugins import AlphaCLLoss, row_losses
from alphacl_plugins.strategies import InfoNCE, LearnableSigmoid, Sigmoid

LABELS = torch.tensor([0, 1, 0, 2, 1])
ENGINES = {"auto": {}, "two blocks": {"block_size": 7}, "autograd": {"block_size": "autograd"}}
ENGINES |= {"ring": {"gather_distributed": "ring"}, "small tiles": {"gather_distributed": "ring", "block_size": 3}}


def published(log_t, b, views, labels=None):
    """The mean over anchors of the sum over its pairs, positives averaged, a pair at a time."""
    views = [[row / row.norm() for row in view] for view in views]
    classes = range(len(views[0])) if labels is None else labels.tolist()
    t, total = log_t.exp(), 0.0
    for v, own in enumerate(views):
        for i, anchor in enumerate(own):
            pairs = [(classes[i] == classes[j], 1 - half_squared(anchor, row))
                     for w, view in enumerate(views) for j, row in enumerate(view) if (v, i) != (w, j)]  # fmt: skip
            positives = [softplus(-(t * c + b)) for same, c in pairs if same]
            total = total + sum(positives) / len(positives)
            total = total + sum(softplus(t * c + b) for same, c in pairs if not same)
    return total / (len(views) * len(views[0]))


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_t_and_b_get_the_gradient_of_the_published_loss(options, labels, reduction):
    views = random_views(0, n=5, d=3)
    criterion = AlphaCLLoss("sigmoid", t=4.0, b=-2.0, learn=True, reduction=reduction, **options)
    log_t, b = (p.detach().double()[0].requires_grad_() for p in criterion.parameters())
    expected = published(log_t, b, views, labels)
    got = criterion(*views, labels=labels).mean()
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    wanted = torch.autograd.grad(expected, [log_t, b, *views])
    for g, e in zip(torch.autograd.grad(got, [*criterion.parameters(), *views]), wanted, strict=True):
        assert relative_error(g.squeeze(), e) < 2e-6  # t is kept in float32


def test_distances_of_somebody_else_teach_the_same():
    views = random_views(1, n=5, d=3)
    z, z_aug = (view.detach() / view.detach().norm(dim=1, keepdim=True) for view in views)
    own, other = (1 - z @ view.T for view in (z, z_aug))
    rest = ~torch.eye(5, dtype=torch.bool)
    d_neg = torch.cat([own[rest].view(5, 4), other[rest].view(5, 4)], dim=1)
    strategy = LearnableSigmoid(Sigmoid(t=4.0, b=-2.0))
    criterion = AlphaCLLoss(strategy, symmetric=False)
    expected = torch.autograd.grad(criterion(z, z_aug), list(criterion.parameters()))
    got = torch.autograd.grad(
        row_losses(strategy, other.diagonal()[:, None], d_neg).mean(), list(strategy.parameters())
    )
    by_itself = torch.autograd.grad(strategy(other.diagonal(), d_neg).value.mean(), list(strategy.parameters()))
    for e, g, h in zip(expected, got, by_itself, strict=True):
        assert relative_error(g, e) < 1e-6
        assert relative_error(h, e) < 1e-6


def test_steps_lead_to_a_lower_loss_and_are_shown():
    views = random_views(2, n=8, d=4)
    criterion = AlphaCLLoss("sigmoid", learn=True, negatives="cross")
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.1)
    first = criterion(*views).item()
    for _ in range(50):
        optimizer.zero_grad()
        criterion(*views).backward()
        optimizer.step()
    assert criterion(*views).item() < first - 0.1
    stats = criterion.last_stats
    assert stats["t"].item() == pytest.approx(math.exp(criterion.strategy.log_t.item()))
    assert stats["b"].item() == criterion.strategy.bias.item() != -10.0
    assert all(parameter.dtype == torch.float32 for parameter in criterion.bfloat16().parameters())


def test_it_shows_itself():
    assert "LearnableSigmoid(t=10, b=-10, bounds=(0.01, 1000.0))" in repr(AlphaCLLoss("sigmoid", learn=True))


def test_at_a_bound_t_stays():
    criterion = AlphaCLLoss(LearnableSigmoid(Sigmoid(t=5.0, b=-1.0), bounds=(5.0, 6.0)))
    z = torch.eye(4)
    criterion(z, -z).backward()  # positives are further than negatives: t would fall
    assert criterion.strategy.log_t.grad.item() == 0.0
    assert criterion.strategy.bias.grad.item() != 0.0


def test_only_a_sigmoid_learns_so():
    with pytest.raises(ValueError, match=r"learn: expected False with InfoNCE\(.*a τ has learnable_tau"):
        AlphaCLLoss("infonce", learn=True)
    with pytest.raises(TypeError, match="strategy: expected a Sigmoid, got InfoNCE"):
        LearnableSigmoid(InfoNCE())
    with pytest.raises(ValueError, match=r"bounds: expected \(least, largest\) around t = 10.0, got \(0.01, 5.0\)"):
        LearnableSigmoid(Sigmoid(), bounds=(0.01, 5))
    with pytest.raises(TypeError, match="learn: expected"):
        AlphaCLLoss("sigmoid", learn="yes")
