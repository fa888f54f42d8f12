"""The smallest form of each bug that this suite has found."""

import pytest
import torch
from oracles import random_views, relative_error

from alphacl_plugins import AlphaCLLoss, squared_distances
from alphacl_plugins.strategies import (
    Direct,
    Entropy,
    InverseExact,
    LiftedStructured,
    ModifiedTriplet,
    Regularized,
    Square,
    Triplet,
)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_square_passes_a_nan_on_instead_of_indexing_out_of_bounds(bad):
    z = torch.eye(3).index_fill(0, torch.tensor([0]), bad)
    assert torch.isnan(AlphaCLLoss(Square())(z, torch.eye(3)))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "options", [{}, {"block_size": 1}, {"block_size": None}, {"gather_distributed": "ring"}], ids=str
)
def test_a_nan_shows_where_no_anchor_has_negatives(options, reduction):
    """Their losses count 0; a strategy with a loss of its own hid a NaN behind it."""
    z = torch.eye(2).index_fill(0, torch.tensor([0]), torch.nan)
    for strategy in (Entropy(), LiftedStructured()):
        loss = AlphaCLLoss(strategy, reduction=reduction, **options)(z, torch.eye(2), labels=torch.zeros(2).long())
        assert torch.isnan(loss).any()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "strategy", [ModifiedTriplet(), Triplet()], ids=["bounded", "no negatives at a finite distance"]
)
def test_an_infinite_distance_shows_in_the_loss_of_a_triplet(strategy, symmetric):
    z, z_aug = torch.tensor([[-torch.inf], [0.3]]), torch.tensor([[0.0], [0.5]])
    assert not AlphaCLLoss(strategy, l2_normalize=False, symmetric=symmetric)(z, z_aug).isfinite()


@pytest.mark.parametrize("options", [{}, {"block_size": 1}, {"block_size": None}], ids=str)
def test_weights_of_huge_distances_from_both_sides(options):
    """D_ij and D_ji round apart; by the tenth power of D / τ one of two equal weights became inf."""
    strategy = Direct(tau=0.1, p=20.0, normalize=False)
    for seed in range(20):
        views = random_views(seed, n=3, d=8, dtype=torch.float32)
        AlphaCLLoss(strategy, l2_normalize=False, **options)(*views).backward()
        assert all(view.grad.isfinite().all() for view in views)


def test_the_mean_distance_to_no_negatives_is_zero():
    loss = AlphaCLLoss()
    assert loss(torch.eye(3), torch.eye(3), labels=torch.zeros(3, dtype=torch.long)) == 0
    assert loss.last_stats["d2_neg"] == 0


def test_eight_bit_floats_are_refused_by_name():
    z = torch.eye(2).to(torch.float8_e4m3fn)
    with pytest.raises(
        TypeError, match=r"a: expected a floating-point tensor of 16 bits or more, got torch.float8_e4m3fn"
    ):
        squared_distances(z, z)


@pytest.mark.parametrize(
    "strategy", [InverseExact(), Regularized(lambda a: 0.5 / a, lambda v: 0.5 / v)], ids=["inverse", "own"]
)
def test_second_derivatives_through_a_solved_alpha(strategy):
    loss = AlphaCLLoss(strategy, detach_alpha=False)
    assert torch.autograd.gradgradcheck(loss, random_views(0, n=3, d=2))


def test_distances_of_many_temperatures_keep_the_precision_of_a_ring():
    """Its sums once held log Σ w alone: at D/τ = 1e8 its rounding lost even the number of negatives."""
    views = [(1000 * torch.eye(4)).requires_grad_() for _ in range(2)]
    losses = [AlphaCLLoss(Entropy(1e-2), l2_normalize=False, gather_distributed=way) for way in (False, "ring")]
    expected, got = ([loss(*views), *torch.autograd.grad(loss(*views), views)] for loss in losses)
    for g, e in zip(got, expected, strict=True):
        assert relative_error(g, e) < 1e-5
    entropies = [loss.last_stats["alpha_entropy"].item() for loss in losses]
    assert entropies[1] == pytest.approx(entropies[0], abs=1e-5)
