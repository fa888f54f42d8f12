"""KLBall: against bisection and central differences in float64."""

import functools
import math

import pytest
import torch
from oracles import random_distances, relative_error

from alphacl_plugins import metrics
from alphacl_plugins.strategies import Entropy, KLBall

WIDE = (1e-3, 1e3)


@functools.cache
def rows(negatives, dtype=torch.float64):
    """Rows of every kind, and how often each negative counts: fractions, some far below 1."""
    d = random_distances(0, 3, negatives)[1]
    d2_neg = torch.cat([d, (3 * d).round() / 3, 0 * d[:1] + 0.7, 1 + 1e-6 * d, 1e4 * d**4])
    return d2_neg.to(dtype), (0.05 + random_distances(1, len(d2_neg), negatives)[1] ** 3).to(dtype)


def divergence(d2, tau, count):
    """``KL(α ‖ u)`` over the copies, and the weights of all copies together."""
    alpha = torch.softmax(count.log() - d2 / tau, dim=1)
    uniform = count / count.sum(dim=1, keepdim=True)
    return torch.special.xlogy(alpha, alpha / uniform).sum(dim=1, keepdim=True), alpha


def by_bisection(d2, rho, bounds, count):
    """Weights and temperatures; each row's nearest bound where no temperature gives ρ."""
    low, high = (torch.full_like(d2[:, :1], math.log(bound)) for bound in bounds)
    for _ in range(100):
        middle = (low + high) / 2
        sharp = divergence(d2, middle.exp(), count)[0] > rho
        low, high = torch.where(sharp, middle, low), torch.where(sharp, high, middle)
    tau = ((low + high) / 2).exp()
    return divergence(d2, tau, count)[1], tau


@pytest.mark.parametrize("rho", [1e-2, 0.3, 2.0, 20.0])
@pytest.mark.parametrize("bounds", [(0.05, 0.7), WIDE], ids=str)
@pytest.mark.parametrize("counted", [False, True], ids=["once", "counted"])
def test_rows_are_those_of_bisection(rho, bounds, counted):
    for negatives in (1, 2, 60):
        d2_neg, count = rows(negatives)
        count = count if counted else torch.ones_like(count)
        got = KLBall(rho, bounds)(d2_neg[:, 0], d2_neg, *[count] * counted)
        assert float((got.neg - by_bisection(d2_neg, rho, bounds, count)[0]).abs().max()) < 1e-12 / min(rho, 1)
        assert got.value.isfinite().all()


@pytest.mark.parametrize("rho", [0.1, 0.3, 2.0])
def test_float32_is_exact_to_its_rounding(rho):
    d2_neg = rows(60, torch.float32)[0]
    got = KLBall(rho, WIDE)(d2_neg[:, 0], d2_neg)
    expected = KLBall(rho, WIDE)(d2_neg[:, 0].double(), d2_neg.double())
    assert float((got.neg - expected.neg).abs().max()) < 3e-6 / min(rho, 1)
    assert float(((got.value - expected.value) / d2_neg.max(dim=1).values).abs().max()) < 1e-6


def test_every_row_has_the_same_effective_negatives():
    d2_pos, d2_neg = random_distances(0, anchors=6, candidates=50)
    d2_neg = d2_neg * torch.linspace(0.1, 3, 6, dtype=torch.float64)[:, None]
    for row in KLBall(0.7, WIDE)(d2_pos, d2_neg).neg:
        assert float(metrics.effective_negatives(row[None])) == pytest.approx(50 * math.exp(-0.7), rel=1e-12)


def test_outside_the_bounds_it_is_the_softmax_at_the_nearest_bound():
    d2_pos = torch.zeros(3, dtype=torch.float64)
    d2_neg = torch.tensor([[0.0, 0.01, 0.02], [0.0, 5.0, 9.0], [0.7, 0.7, 0.7]], dtype=torch.float64)
    got = KLBall(0.3, (0.2, 0.5))(d2_pos, d2_neg)
    for row, tau in enumerate((0.2, 0.5, 0.2)):
        expected = Entropy(tau)(d2_pos, d2_neg)
        assert relative_error(got.neg[row], expected.neg[row]) < 1e-14
        assert relative_error(got.value[row], expected.value[row] + tau * (0.3 - math.log(3))) < 1e-12


def test_value_is_the_optimum_and_weights_are_its_slopes():
    """Central differences of ``D_+ + τ log mean_j exp(-D_j/τ) + τ ρ``, τ from bisection; rows inside and outside."""
    d2_pos, d2_neg = random_distances(0, anchors=4, candidates=6)
    d2_neg = d2_neg * torch.tensor([[0.02], [0.5], [1.0], [30.0]], dtype=torch.float64)
    count = rows(6)[1][:4]

    def loss(d2_neg):
        tau = by_bisection(d2_neg, 0.3, (0.05, 0.7), count)[1]
        mean = (count * torch.exp(-d2_neg / tau)).sum(dim=1) / count.sum(dim=1)
        return d2_pos + tau[:, 0] * (mean.log() + 0.3)

    got, tau = KLBall()(d2_pos, d2_neg, count), by_bisection(d2_neg, 0.3, (0.05, 0.7), count)[1]
    assert tau[0] == pytest.approx(0.05)
    assert tau[3] == pytest.approx(0.7)
    assert ((tau[1:3] > 0.06) & (tau[1:3] < 0.69)).all()
    assert relative_error(got.value, loss(d2_neg)) < 1e-12
    for j, step in enumerate(1e-5 * torch.eye(6, dtype=torch.float64)):
        slope = (loss(d2_neg + step) - loss(d2_neg - step)) / 2e-5
        assert float((slope + got.neg[:, j]).abs().max()) < 1e-8


def test_derivatives_through_the_weights_are_exact():
    d2_neg = random_distances(3, anchors=4, candidates=5)[1]
    d2_neg = d2_neg * torch.tensor([[0.02], [0.5], [1.0], [30.0]], dtype=torch.float64)
    d2_neg[1, 2] = math.inf
    real, count = d2_neg < math.inf, torch.full_like(d2_neg, 0.7)

    def weights(finite):
        d2 = d2_neg.masked_scatter(real, finite)
        return KLBall(0.3)(d2[:, 0], d2, count).neg

    finite = d2_neg[real].requires_grad_()
    assert torch.autograd.gradcheck(weights, (finite,))
    assert torch.autograd.gradgradcheck(weights, (finite,), atol=1e-4)


def test_counts_are_copies():
    d2_pos, d2_neg = random_distances(0, anchors=3, candidates=4)
    times = torch.tensor([1, 3, 2, 1])
    counted = KLBall()(d2_pos, d2_neg, times.double().expand(3, 4))
    copied = KLBall()(d2_pos, d2_neg.repeat_interleave(times, dim=1))
    together = torch.stack([part.sum(dim=1) for part in copied.neg.split(times.tolist(), dim=1)], dim=1)
    assert relative_error(counted.neg, together) < 1e-12
    assert relative_error(counted.value, copied.value) < 1e-12


def test_it_runs_without_reading_a_value():
    row = (d.to("meta") for d in random_distances(0, anchors=5, candidates=7))
    assert KLBall()(*row).neg.shape == (5, 7)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rho": 0}, ValueError, r"KLBall.rho: expected a finite number > 0, got 0"),
        ({"bounds": 0.5}, TypeError, r"KLBall.bounds: expected \(least, largest\), got 0.5"),
        ({"bounds": (0.7, 0.05)}, ValueError, r"KLBall.bounds: expected \(least, largest\), got \(0.7, 0.05\)"),
        ({"bounds": (0, 1)}, ValueError, r"KLBall.bounds\[0\]: expected a finite number > 0, got 0"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        KLBall(**options)


def test_bounds_may_be_a_list():
    assert KLBall(bounds=[0.1, 1]) == KLBall(bounds=(0.1, 1.0))
