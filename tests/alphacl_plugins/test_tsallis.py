"""Tsallis: against bisection and central differences in float64, and its special cases."""

import functools
import math

import pytest
import torch
from oracles import random_distances, relative_error

from alphacl_plugins.strategies import Entropy, InverseExact, Square, Tsallis

INDICES = [-3.0, -1.0, 0.0, 0.5, 0.999, 1.0, 1.001, 1.5, 2.0]
every_index = pytest.mark.parametrize("index", INDICES)
TEMPERATURES = [1e-3, 0.05, 1.0, 1e3]


@functools.cache
def rows(negatives, dtype=torch.float64):
    """Rows of every kind, and how often each negative counts: fractions, some far below 1."""
    d = random_distances(0, 3, negatives)[1]
    d2_neg = torch.cat([d, (3 * d).round() / 3, 0 * d[:1] + 0.7, 1 + 1e-8 * d, 1e4 * d**4])
    return d2_neg.to(dtype), (0.05 + random_distances(1, len(d2_neg), negatives)[1] ** 3).to(dtype)


def by_bisection(d2, index, tau, count):
    """α of all copies, from the multiplier μ of ``α_j = [(a-1)(μ - D_j)/τ]_+^(1/(a-1))``; a softmax at a = 1."""
    if index == 1:
        return torch.softmax(count.log() - d2 / tau, dim=1)
    b, delta = index - 1, d2 - d2.amin(dim=1, keepdim=True)

    def alpha(log_largest):
        return count * (torch.exp(b * log_largest) - b * delta / tau).clamp_min(0) ** (1 / b)

    closest = torch.where(delta == 0, count, 0.0).sum(dim=1, keepdim=True)
    high, low = -closest.log(), -count.sum(dim=1, keepdim=True).log()
    for _ in range(80):
        middle = (low + high) / 2
        enough = alpha(middle).sum(dim=1, keepdim=True) >= 1
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return alpha((low + high) / 2)


@every_index
@pytest.mark.parametrize("counted", [False, True], ids=["once", "counted"])
def test_rows_are_those_of_bisection(index, counted):
    for negatives in (1, 2, 60):
        d2_neg, count = rows(negatives)
        count = count if counted else torch.ones_like(count)
        for tau in TEMPERATURES:
            got = Tsallis(index, tau)(d2_neg[:, 0], d2_neg, *[count] * counted).neg
            assert float((got.sum(dim=1) - 1).abs().max()) < 1e-12
            tolerance = 1e-11 if abs(index - 1) == pytest.approx(1e-3) else 1e-12  # there the oracle rounds
            assert float((got - by_bisection(d2_neg, index, tau, count)).abs().max()) < tolerance


@every_index
def test_float32_is_exact_to_its_rounding(index):
    d2_neg = rows(60, torch.float32)[0]
    for tau in TEMPERATURES:
        got = Tsallis(index, tau)(d2_neg[:, 0], d2_neg)
        expected = Tsallis(index, tau)(d2_neg[:, 0].double(), d2_neg.double())
        assert float((got.neg - expected.neg).abs().max()) < 1e-6
        if got.value is not None:
            scale = d2_neg.max(dim=1).values + tau * 60 ** max(1 - index, 0.5)
            assert float(((got.value - expected.value) / scale).abs().max()) < 2e-6


def test_special_cases():
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=9)
    d2_neg[1, 2] = math.inf
    for tau in (0.05, 0.5, 5.0):
        softmax, square = Entropy(tau)(d2_pos, d2_neg), Square(tau)(d2_pos, d2_neg)
        got = Tsallis(1.0, tau)(d2_pos, d2_neg)
        assert relative_error(got.neg, softmax.neg) < 1e-12
        assert relative_error(got.value, softmax.value) < 1e-12
        got = Tsallis(2.0, tau)(d2_pos, d2_neg)
        assert relative_error(got.neg, square.neg) < 1e-12
        assert relative_error(got.value, square.value + tau / 2) < 1e-12  # their regularisers differ by τ α / 2
        for gamma in (1.5, 3.0):
            inverse = InverseExact(tau, gamma)(d2_pos, d2_neg)
            got = Tsallis(1 - gamma, gamma * tau)(d2_pos, d2_neg)
            assert relative_error(got.neg, inverse.neg) < 1e-12
            assert got.value is inverse.value is None


@pytest.mark.parametrize("index", [1e-300, -1e-300, 1 - 1e-13, 1 + 1e-13, 1 - 1e-20])
def test_near_the_limits_there_is_no_jump(index):
    row = random_distances(0, anchors=5, candidates=9)
    near, limit = Tsallis(index)(*row), Tsallis(float(round(index)))(*row)
    assert relative_error(near.neg, limit.neg) < 1e-11
    if index > 0.5:
        assert relative_error(near.value, limit.value) < 1e-11


@pytest.mark.parametrize("index", [0.5, 0.999, 1.0, 1.5, 2.0])
def test_value_is_the_optimum_and_weights_are_its_slopes(index):
    """Central differences of ``D_+ - Σ α D - τ Σ (α^a - α) / (a (a-1))``, α from bisection."""
    d2_pos, d2_neg = random_distances(0, anchors=1, candidates=6)
    count = rows(6)[1][:1]

    def loss(d2_neg):
        alpha = by_bisection(d2_neg, index, 0.4, count) / count
        if index == 1:
            regulariser = torch.special.xlogy(alpha, alpha)
        else:
            regulariser = (alpha**index - alpha) / (index * (index - 1))
        return d2_pos - (count * (alpha * d2_neg + 0.4 * regulariser)).sum(dim=1)

    got = Tsallis(index, 0.4)(d2_pos, d2_neg, count)
    assert relative_error(got.value, loss(d2_neg)) < 1e-11
    for j, step in enumerate(1e-5 * torch.eye(6, dtype=torch.float64)):
        slope = (loss(d2_neg + step) - loss(d2_neg - step)) / 2e-5
        assert float((slope + got.neg[:, j]).abs()) < 1e-7  # at 0.999 the loss in the test rounds


@pytest.mark.parametrize("index", [-1.0, 0.0, 1.0, 1.25, 1.5, 2.0])
def test_derivatives_through_the_weights_are_exact(index):
    """Against autograd through the closed form at the multiplier, which is the implicit function's derivative."""
    d2_neg = random_distances(3, anchors=2, candidates=5)[1]
    d2_neg[0, 2] = math.inf
    real, count = d2_neg < math.inf, torch.full_like(d2_neg, 0.7)
    tau = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def weights(finite, tau, *count):
        d2 = d2_neg.masked_scatter(real, finite)
        return Tsallis(index, tau)(d2[:, 0], d2, *count).neg

    finite = d2_neg[real].requires_grad_()
    for counted in ([], [count]):
        assert torch.autograd.gradcheck(weights, (finite, tau, *counted))
        if index == 1.25:  # as some others have no second derivative where they reach 0
            assert torch.autograd.gradgradcheck(weights, (finite, tau, *counted))


def test_counts_are_copies():
    d2_pos, d2_neg = random_distances(0, anchors=3, candidates=4)
    times = torch.tensor([1, 3, 2, 1])
    for index in INDICES:
        counted = Tsallis(index)(d2_pos, d2_neg, times.double().expand(3, 4))
        copied = Tsallis(index)(d2_pos, d2_neg.repeat_interleave(times, dim=1))
        together = torch.stack([part.sum(dim=1) for part in copied.neg.split(times.tolist(), dim=1)], dim=1)
        assert relative_error(counted.neg, together) < 1e-12
        if counted.value is not None:
            assert relative_error(counted.value, copied.value) < 1e-12


def test_rows_are_sparse_above_index_1_alone():
    row = torch.zeros(1, dtype=torch.float64), torch.linspace(0, 2, 9, dtype=torch.float64)[None]
    support = {index: int((Tsallis(index, 0.3)(*row).neg > 0).sum()) for index in (0.0, 1.0, 1.5, 2.0)}
    assert support == {0.0: 9, 1.0: 9, 1.5: 3, 2.0: 2}


@pytest.mark.parametrize("index", [0.5, 1.0, 1.5, 2.0])
def test_it_runs_without_reading_a_value(index):
    row = (d.to("meta") for d in random_distances(0, anchors=5, candidates=7))
    weights = Tsallis(index, torch.tensor(0.3, device="meta"))(*row)
    assert weights.neg.shape == (5, 7)


@pytest.mark.parametrize(("index", "error"), [(2.5, ValueError), (math.nan, ValueError), ("1", TypeError)])
def test_bad_indices_are_refused(index, error):
    with pytest.raises(error, match=r"Tsallis.index: expected a finite number <= 2 \(above, .*\), got"):
        Tsallis(index)


@pytest.mark.slow
def test_index_1_5_is_that_of_the_entmax_package():
    entmax = pytest.importorskip("entmax")
    d2_pos, d2_neg = random_distances(0, anchors=50, candidates=254)
    for tau in (0.05, 0.5, 5.0):
        for index, function in ((1.5, entmax.entmax15), (1.25, functools.partial(entmax.entmax_bisect, alpha=1.25))):
            got = Tsallis(index, tau)(d2_pos, d2_neg).neg
            assert relative_error(got, function(-d2_neg / tau, dim=1)) < 1e-10
