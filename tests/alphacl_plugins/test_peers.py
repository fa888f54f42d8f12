"""Strategies against other libraries' losses, in float64: `pip install ".[peers]"`."""

import math

import pytest
import torch
from batches import several_views
from oracles import relative_error

from alphacl_plugins import AlphaCLLoss

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


def test_a_sigmoid_that_learns_is_open_clips():
    theirs = pytest.importorskip("open_clip.loss").SigLipLoss()
    ours = AlphaCLLoss("sigmoid", learn=True, negatives="cross", symmetric=False)
    log_t, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (math.log(10.0), -10.0))
    views = several_views(2, 7, 5)
    expected = theirs(*(view / view.norm(dim=1, keepdim=True) for view in views), log_t.exp(), b)
    expected.backward()
    got = ours(*views)
    got.backward()
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)  # t and b are float32
    assert ours.strategy.log_t.grad.item() == pytest.approx(log_t.grad.item(), rel=1e-5)
    assert ours.strategy.bias.grad.item() == pytest.approx(b.grad.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("options", [{}, {"tau": 0.3, "sigma": 0.2}])
def test_the_weighted_decoupled_loss_is_lightlys(options):
    losses = pytest.importorskip("lightly.loss")
    theirs = losses.DCLWLoss(temperature=options.get("tau", 0.1), sigma=options.get("sigma", 0.5))
    agree(AlphaCLLoss("dcl_weighted", **options, scale="ntxent"), theirs, several_views(2, 7, 5))


@pytest.mark.parametrize("options", [{}, {"tau": 0.2, "alpha": 1.0, "a_0": 0.1}])
def test_macl_is_lightlys(options):
    """Up to the 1e-8 that lightly adds to a denominator."""
    losses = pytest.importorskip("lightly.loss")
    names = {"tau": "temperature", "alpha": "alpha", "a_0": "A_0"}
    theirs = losses.MACLLoss(**{names[name]: value for name, value in options.items()})
    ours = AlphaCLLoss("macl", **options, scale="ntxent")
    agree(ours, theirs, several_views(2, 7, 5), values=False, tolerance=1e-6)


@pytest.mark.parametrize(("tau", "a"), [(0.5, 9.0), (0.05, 2.0)])
def test_hardness_is_sentence_transformers(tau, a):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model = torch.nn.Identity()
    theirs = losses.MultipleNegativesRankingLoss(
        model, scale=1 / tau, hardness_mode="in_batch_negatives", hardness_strength=a
    )
    ours = AlphaCLLoss("hardness", tau=tau, a=a, negatives="cross", symmetric=False, scale="ntxent")
    agree(
        ours,
        lambda *views: theirs.compute_loss_from_embeddings(list(views), None),
        several_views(2, 7, 5),
        values=False,
    )
