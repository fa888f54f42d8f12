"""Strategies against other libraries' losses, in float64: `pip install ".[peers]"`."""

import pytest
import torch
from batches import several_views
from oracles import relative_error

from alphacl_plugins import AlphaCLLoss, strategies

pytestmark = pytest.mark.slow


def agree(ours, theirs, views, *, values=True, tolerance=1e-10):
    got, expected = ours(*views), theirs(*views)
    if values:
        assert got.item() == pytest.approx(expected.item(), rel=tolerance)
    for g, e in zip(*(torch.autograd.grad(x, views) for x in (got, expected)), strict=True):
        assert relative_error(g, e) < tolerance


def of_all_rows(loss):
    """A loss of pytorch-metric-learning on two views, each sample a class of its own."""
    return lambda *views: loss(torch.cat(views), torch.arange(len(views[0])).repeat(len(views)))


@pytest.mark.parametrize("options", [{}, {"alpha": 1.0, "beta": 10.0, "base": 0.2}])
def test_multi_similarity_is_pytorch_metric_learnings(options):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    settings = {"alpha": 2, "beta": 50, "base": 0.5} | options
    theirs = losses.MultiSimilarityLoss(**settings, reducer=reducers.MeanReducer())
    agree(AlphaCLLoss("multi_similarity", **options), of_all_rows(theirs), several_views(2, 7, 5))


@pytest.mark.parametrize("options", [{}, {"m": 0.25, "gamma": 8.0}])
def test_circle_is_pytorch_metric_learnings(options):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    theirs = losses.CircleLoss(**({"m": 0.4, "gamma": 80} | options), reducer=reducers.MeanReducer())
    agree(AlphaCLLoss("circle", **options), of_all_rows(theirs), several_views(2, 7, 5), values=False)


@pytest.mark.parametrize(("t", "b"), [(10.0, -10.0), (3.0, -1.0)])
def test_sigmoid_is_open_clips(t, b):
    theirs = pytest.importorskip("open_clip.loss").SigLipLoss()
    ours = AlphaCLLoss("sigmoid", t=t, b=b, negatives="cross", symmetric=False)
    scale, bias = torch.tensor(t, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)

    def on_units(*views):
        return theirs(*(view / view.norm(dim=1, keepdim=True) for view in views), scale, bias)

    agree(ours, on_units, several_views(2, 7, 5))


def test_macl_is_entropy_at_lightlys_temperature():
    """Up to the 1e-8 that lightly adds to a denominator."""
    theirs = pytest.importorskip("lightly.loss").MACLLoss(temperature=0.2, alpha=0.5, A_0=0.1)
    views = several_views(2, 7, 5)
    unit = [view / view.norm(dim=1, keepdim=True) for view in views]
    tau = 0.2 * (1 + 0.5 * ((unit[0] * unit[1]).sum(dim=1).mean().item() - 0.1))
    agree(AlphaCLLoss(strategies.Entropy(tau), scale="ntxent"), theirs, views, values=False, tolerance=1e-6)
