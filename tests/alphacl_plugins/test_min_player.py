"""The regularised strategies solve their optimisation: KKT conditions, agreement with each other, Danskin's value."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracles import random_distances, relative_error
from scipy.optimize import minimize

from alphacl_plugins.strategies import Direct, Entropy, Inverse, InverseExact, Regularized, Square

TAUS = [1e-3, 0.1, 0.5, 5.0, 1e3]
CANDIDATES = [1, 2, 7, 254]
INVERSES = [(tau, gamma) for tau in TAUS for gamma in (1.01, 1.5, 2.0, 4.0)]


def rows(candidates: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random rows and awkward ones: ties, all equal, two levels, one near and the rest far."""
    g = torch.Generator().manual_seed(candidates)
    uniform = 2 * torch.rand(4, candidates, generator=g, dtype=torch.float64)
    ties = uniform.round()
    near = torch.full((1, candidates), 2.0, dtype=torch.float64)
    near[0, -1] = 0.0
    levels = [uniform, 1e-9 * uniform, uniform**8, ties, torch.zeros_like(near), torch.ones_like(near) + 1, near]
    return torch.cat(levels).to(dtype)


def kkt_spread(slope_minus_distance: torch.Tensor, weights: torch.Tensor) -> float:
    """How far ``r'(α_j) - D_j`` is from being one number per row where α_j > 0, relative to its size."""
    active = weights > 0
    high = slope_minus_distance.masked_fill(~active, -math.inf).amax(dim=1)
    low = slope_minus_distance.masked_fill(~active, math.inf).amin(dim=1)
    return float(((high - low) / (1 + high.abs())).max())


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize(("tau", "gamma"), INVERSES)
def test_inverse_rows_satisfy_kkt(tau, gamma, candidates):
    d2 = rows(candidates)
    weights = InverseExact(tau, gamma)(d2[:, 0], d2).neg
    assert (weights > 0).all()
    assert float((weights.sum(dim=1) - 1).abs().max()) < 1e-12
    assert kkt_spread(tau * weights**-gamma - d2, weights) < 1e-12


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("tau", TAUS)
def test_square_rows_satisfy_kkt(tau, candidates):
    d2 = rows(candidates)
    weights = Square(tau)(d2[:, 0], d2).neg
    assert (weights >= 0).all()
    assert float((weights.sum(dim=1) - 1).abs().max()) < 1e-12
    multiplier = -tau * weights - d2  # r'(α) - D
    assert kkt_spread(multiplier, weights) < 1e-12
    # Where α_j = 0 the derivative r'(0) - D_j = -D_j may not exceed the common value.
    common = multiplier.masked_fill(weights == 0, -math.inf).amax(dim=1, keepdim=True)
    assert (torch.where(weights == 0, -d2 - common, 0.0) <= 1e-12 * (1 + tau)).all()


REGULARISERS = {
    "inverse": (lambda a: 0.5 * a**-2, lambda v: (v / 0.5) ** -0.5, InverseExact(0.5, 2.0)),
    "square": (lambda a: -0.3 * a, lambda v: -v / 0.3, Square(0.3)),
    "entropy": (lambda a: -0.2 * (torch.log(a) + 1), lambda v: torch.exp(-v / 0.2 - 1), Entropy(0.2)),
}


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("name", REGULARISERS)
def test_regularized_finds_the_closed_solutions(name, candidates):
    derivative, inverse_derivative, closed = REGULARISERS[name]
    d2 = rows(candidates)
    weights = Regularized(derivative, inverse_derivative)(d2[:, 0], d2).neg
    assert relative_error(weights, closed(d2[:, 0], d2).neg) < 1e-12
    assert float((weights.sum(dim=1) - 1).abs().max()) < 1e-12


def test_regularized_solves_a_regulariser_of_the_users_own():
    """r(α) = sqrt(α): r' = ½ α^-½, against a generic constrained minimiser."""
    d2_pos, d2_neg = random_distances(3, anchors=3, candidates=6)
    weights = Regularized(lambda a: 0.5 * a**-0.5, lambda v: 0.25 * v**-2.0)(d2_pos, d2_neg).neg
    assert kkt_spread(0.5 * weights**-0.5 - d2_neg, weights) < 1e-12
    for row, distances in zip(weights, d2_neg, strict=True):
        cost = distances.numpy()
        result = minimize(
            lambda a, c=cost: float(a @ c - np.sum(np.sqrt(a))),
            x0=np.full(6, 1 / 6),
            bounds=[(1e-9, 1.0)] * 6,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        torch.testing.assert_close(row, torch.from_numpy(result.x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", [Square(0.3), Square(5.0), Entropy(0.2)])
def test_the_value_is_the_min_players_optimum(strategy):
    """Danskin: minus the optimal E - R is a loss, and its slope in each distance is the weight."""
    d2_pos, d2_neg = random_distances(5, anchors=3, candidates=6)
    weights = strategy(d2_pos, d2_neg)
    for j in range(6):
        step = torch.zeros_like(d2_neg)
        step[:, j] = 1e-5
        slope = (strategy(d2_pos, d2_neg + step).value - strategy(d2_pos, d2_neg - step).value) / 2e-5
        torch.testing.assert_close(slope, -weights.neg[:, j], rtol=0, atol=1e-8)
    slope = (strategy(d2_pos + 1e-5, d2_neg).value - strategy(d2_pos - 1e-5, d2_neg).value) / 2e-5
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "strategy", [InverseExact(0.2, 2.5), Square(0.3), REGULARISERS["inverse"], REGULARISERS["square"]]
)
def test_the_solvers_are_differentiable(strategy):
    """The last Newton step is inside autograd: dα/dD by the implicit function theorem, against finite differences."""
    strategy = Regularized(*strategy[:2]) if isinstance(strategy, tuple) else strategy
    d2_pos, d2_neg = random_distances(6, anchors=2, candidates=5)
    assert torch.autograd.gradcheck(lambda d: strategy(d2_pos, d).neg, d2_neg.requires_grad_())


def test_exact_inverse_is_another_rule_than_the_papers_table_row():
    """With many negatives the exact rows are nearly uniform, the others are not (see InverseExact)."""
    d2_pos, d2_neg = random_distances(0, anchors=8, candidates=254)
    exact, paper = InverseExact()(d2_pos, d2_neg).neg, Inverse()(d2_pos, d2_neg).neg
    assert float((exact.amax(dim=1) / exact.amin(dim=1)).max()) < 1.01
    assert float((paper.amax(dim=1) / paper.amin(dim=1)).min()) > 10


def test_direct_with_exponent_two_is_entropy():
    d2_pos, d2_neg = random_distances(0, anchors=4, candidates=9)
    assert relative_error(Direct(0.3, p=2.0)(d2_pos, d2_neg).neg, Entropy(0.3)(d2_pos, d2_neg).neg) < 1e-14


@pytest.mark.parametrize("gamma", [9.5, 16.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_takes_exponents_whose_multiplier_leaves_the_range_of_the_dtype(gamma, dtype):
    """D_min - μ is about τ K^γ, here up to 1e120; the solver never forms it."""
    d2 = rows(254, dtype)
    weights = InverseExact(0.5, gamma)(d2[:, 0], d2).neg
    tolerance = 50 * torch.finfo(dtype).eps
    assert float((weights.sum(dim=1) - 1).abs().max()) < tolerance
    assert float((weights * 254 - 1).abs().max()) < 0.1 or gamma < 3
    more = torch.cat([d2, torch.full_like(d2[:, :2], math.inf)], dim=1)
    with_excluded = InverseExact(0.5, gamma)(d2[:, 0], more).neg
    assert float((with_excluded[:, :-2] - weights).abs().max()) < tolerance
    assert not with_excluded[:, -2:].any()


def slow_row(candidates: int, share: float, tau: float) -> torch.Tensor:
    """A row on which each Newton step for Square's level keeps that share of the candidates, those dropped being just
    below the level before."""
    counts = [candidates]
    while counts[-1] > 2:
        counts.append(max(2, min(counts[-1] - 1, round(counts[-1] * share))))
    gaps, gap = [0.0], 1.0  # the way from the first level, in units of its first step
    for before, after in itertools.pairwise(counts):
        gaps.append(gaps[-1] + gap / before)
        gap *= 1 - after / before
    dropped = [before - after for before, after in itertools.pairwise(counts)]
    first = 1 / (1 - sum(d * g for d, g in zip(dropped, gaps[:-1], strict=True)))
    row = [0.0] * 2
    for d, g in zip(dropped, gaps[:-1], strict=True):
        row += [max(0.0, 1 - first * g - 1e-15)] * d
    return tau * torch.tensor(row, dtype=torch.float64)


@pytest.mark.parametrize("candidates", [64, 254, 1022, 5000])
@pytest.mark.parametrize("share", [0.5, 0.65, 0.71, 0.775, 0.82, 0.9])
def test_square_is_exact_on_rows_that_newton_takes_slowly(candidates, share):
    """Against the solution by sorting: μ = (τ + Σ of the k nearest) / k for the largest k whose k-th lies below it."""
    tau = 0.7
    row = slow_row(candidates, share, tau)
    ordered = row.sort().values
    levels = (tau + ordered.cumsum(dim=0)) / torch.arange(1, candidates + 1)
    level = levels[(levels > ordered).nonzero().max()]
    expected = (level - row).clamp_min(0) / tau
    got = Square(tau)(row[:1], row[None]).neg[0]
    assert float((got - expected).abs().max()) < 1e-12 * float(expected.max())
