"""More than two views, and labels: what an anchor with several positives adds to what test_engines.py checks."""

import pytest
import torch
from batches import LABELS, several_views
from oracles import in_a_batch, is_finite

from alphacl_plugins import AlphaCLLoss, build_strategy, strategies, strategy_names

every_name = pytest.mark.parametrize("name", strategy_names())


def test_a_third_view_counts():
    views = several_views(3)
    loss = AlphaCLLoss("infonce")
    assert loss(*views).item() != pytest.approx(loss(*views[:2]).item())
    assert AlphaCLLoss("infonce", reduction="none")(*views).shape == (15,)


def test_labels_that_are_all_different_change_nothing():
    views = several_views(3)
    loss = AlphaCLLoss("kcl")
    assert loss(*views, labels=torch.tensor([9, 4, 6, 1, 7])).item() == pytest.approx(loss(*views).item(), rel=1e-12)


@every_name
def test_gradient_through_alpha_is_that_of_the_value(name):
    strategy = strategies.Triplet(0.3) if name == "triplet" else in_a_batch(build_strategy(name))
    loss = AlphaCLLoss(strategy, detach_alpha=False)
    views = several_views(3)
    assert torch.autograd.gradcheck(lambda *v: loss(*v, labels=LABELS["unequal"]), views, atol=1e-7)
    assert torch.autograd.gradcheck(lambda *v: loss(*v, labels=LABELS["all equal"]), views, atol=1e-7)


def test_pair_weights_with_several_positives():
    views, labels = several_views(3), LABELS["unequal"]
    for options, positives in (({}, 2), ({"labels": labels}, 15)):
        weights = AlphaCLLoss("direct").pair_weights(*views, **options)
        assert weights.neg.shape == (15, 15)
        assert weights.pos.shape == (15, positives)
        torch.testing.assert_close(weights.pos.sum(dim=1), torch.ones(15, dtype=torch.float64))
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
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_finite(name, dtype):
    views = [view.detach().to(dtype).requires_grad_() for view in several_views(3)]
    loss = AlphaCLLoss(name)(*views, labels=LABELS["unequal"])
    loss.backward()
    assert is_finite(loss, *[view.grad for view in views])


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
