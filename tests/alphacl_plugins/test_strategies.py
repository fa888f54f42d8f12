"""Properties that every strategy has, those of the registry by iterating over it."""

import math

import pytest
import torch
from oracles import ALL_STRATEGIES, is_finite, random_distances, relative_error, strategy_id

from alphacl_plugins.strategies import KCL, Direct, InfoNCE, Inverse, LiftedStructured, Square, Triplet

every_strategy = pytest.mark.parametrize("strategy", ALL_STRATEGIES, ids=strategy_id)
every_seed = pytest.mark.parametrize("seed", range(3))


def complete(weights):
    """Weights, positive weights and values as a list of tensors."""
    return [weights.neg, weights.neg.sum(dim=1) if weights.pos is None else weights.pos] + (
        [] if weights.value is None else [weights.value]
    )


def with_excluded(d2_neg, seed):
    """The same candidates between excluded ones, and where they are."""
    m, k = d2_neg.shape
    places = torch.randperm(k + 4, generator=torch.Generator().manual_seed(seed))[:k].sort().values
    wide = torch.full((m, k + 4), math.inf, dtype=d2_neg.dtype)
    wide[:, places] = d2_neg
    return wide, places


@every_strategy
@every_seed
def test_weights_are_non_negative_and_finite(strategy, seed):
    weights = complete(strategy(*random_distances(seed, anchors=5, candidates=7)))
    assert is_finite(*weights)
    assert (weights[0] >= 0).all()
    assert (weights[1] >= 0).all()
    assert weights[0].shape == (5, 7)
    assert weights[1].shape == (5,)


@every_strategy
@every_seed
def test_reordering_the_candidates_reorders_the_weights(strategy, seed):
    d2_pos, d2_neg = random_distances(seed, anchors=5, candidates=7)
    order = torch.arange(7).roll(3)  # never the identity
    assert relative_error(strategy(d2_pos, d2_neg[:, order]).neg, strategy(d2_pos, d2_neg).neg[:, order]) < 1e-12


@every_strategy
@every_seed
def test_rows_do_not_see_each_other(strategy, seed):
    d2_pos, d2_neg = random_distances(seed, anchors=5, candidates=7)
    together = complete(strategy(d2_pos, d2_neg))
    alone = zip(*[complete(strategy(d2_pos[i : i + 1], d2_neg[i : i + 1])) for i in range(5)], strict=True)
    for whole, parts in zip(together, alone, strict=True):
        assert relative_error(torch.cat(parts), whole) < 1e-12


@every_strategy
@every_seed
def test_excluded_candidates_weigh_exactly_nothing_and_change_nothing(strategy, seed):
    d2_pos, d2_neg = random_distances(seed, anchors=5, candidates=7)
    wide, places = with_excluded(d2_neg, seed)
    narrow, padded = complete(strategy(d2_pos, d2_neg)), complete(strategy(d2_pos, wide))
    assert (padded[0][torch.isinf(wide)] == 0).all()
    assert relative_error(padded[0][:, places], narrow[0]) < 1e-12
    for a, b in zip(padded[1:], narrow[1:], strict=True):
        assert relative_error(a, b) < 1e-12


@every_strategy
def test_no_gradient_reaches_an_excluded_candidate(strategy):
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=7)
    wide, places = with_excluded(d2_neg, seed=0)
    wide.requires_grad_()
    weights = strategy(d2_pos, wide)
    steep = torch.rand(weights.neg.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (slope,) = torch.autograd.grad((weights.neg * steep + 0 * wide.nan_to_num(posinf=0.0)).sum(), wide)
    assert is_finite(slope)
    others = torch.ones(wide.shape[1], dtype=torch.bool)
    others[places] = False
    assert (slope[:, others] == 0).all()


@every_strategy
@pytest.mark.parametrize("scale", [1.0, 1e-8, 0.0], ids=["spread", "near", "equal"])
@pytest.mark.parametrize("candidates", [1, 2, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_duplicates_and_a_single_candidate_are_finite(strategy, scale, candidates, dtype):
    d2_pos, d2_neg = random_distances(1, anchors=4, candidates=candidates)
    weights = complete(strategy((scale * d2_pos).to(dtype), (scale * d2_neg).to(dtype)))
    assert is_finite(*weights)
    assert all(w.dtype == dtype for w in weights)


@every_strategy
@every_seed
def test_value_and_weights_belong_together(strategy, seed):
    """Where a strategy has its own loss, its slopes are the weights, by autograd and by finite differences."""
    d2_pos, d2_neg = random_distances(seed, anchors=3, candidates=5)
    weights = strategy(d2_pos, d2_neg)
    if weights.value is None:
        return
    pos, neg = d2_pos.clone().requires_grad_(), d2_neg.clone().requires_grad_()
    slopes = torch.autograd.grad(strategy(pos, neg).value.sum(), (pos, neg))
    assert relative_error(slopes[0], complete(weights)[1]) < 1e-12
    assert relative_error(slopes[1], -weights.neg) < 1e-12
    direction = torch.rand(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rise = (strategy(pos, neg + 1e-6 * direction).value - strategy(pos, neg - 1e-6 * direction).value) / 2e-6
    torch.testing.assert_close(rise, -(weights.neg * direction).sum(dim=1), rtol=1e-6, atol=1e-8)


WITHOUT_OWN_LOSS = {"direct", "uniform", "inverse"}


def test_which_strategies_have_their_own_loss():
    from alphacl_plugins import build_strategy, strategy_names

    row = random_distances(0, anchors=1, candidates=3)
    assert {name for name in strategy_names() if build_strategy(name)(*row).value is None} == WITHOUT_OWN_LOSS


@pytest.mark.parametrize("tau", [1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["infonce", "entropy", "inverse", "square", "direct", "dhel", "soft_triplet"])
def test_extreme_temperatures_are_finite(name, tau, dtype):
    from alphacl_plugins import build_strategy

    d2_pos, d2_neg = (d.to(dtype) for d in random_distances(0, anchors=6, candidates=50))
    assert is_finite(*complete(build_strategy(name, tau=tau)(d2_pos, d2_neg)))


@pytest.mark.parametrize("p", [1e-3, 0.5, 40.0, 1e4])
@pytest.mark.parametrize("normalize", [True, False])
def test_extreme_exponents_of_direct_are_finite(p, normalize):
    d2_pos, d2_neg = random_distances(0, anchors=6, candidates=50)
    d2_neg = (1 + d2_neg).float().requires_grad_()  # all above 1, where large powers overflow
    weights = Direct(tau=1e-3, p=p, normalize=normalize)(d2_pos.float(), d2_neg).neg
    (slope,) = torch.autograd.grad(weights.square().sum(), d2_neg)
    assert is_finite(weights, slope)
    if normalize:
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(6))


def test_direct_at_distance_zero_is_exact_for_small_exponents():
    weights = Direct(0.5, p=0.1)(torch.zeros(1), torch.tensor([[0.0, 1.0]])).neg
    torch.testing.assert_close(weights, torch.softmax(torch.tensor([[0.0, -2.0]]), dim=1))


@pytest.mark.parametrize("kernel", ["riesz", "gaussian_riesz"])
def test_the_steepest_riesz_kernel_is_finite_for_duplicates(kernel):
    weights = KCL(kernel, t=8, gamma=1e3)(torch.zeros(2), torch.zeros(2, 3))
    assert is_finite(*complete(weights))


def test_a_users_psi_may_overflow_at_distance_zero():
    from alphacl_plugins.strategies import Family

    steep = Family(lambda x: 0.01 * torch.log1p(x), lambda x: torch.exp(x / 0.01))
    d2_pos = torch.tensor([1.5], requires_grad=True)
    with_excluded = steep(d2_pos, torch.tensor([[1.9, 1.6, math.inf]])).neg.sum()
    without = steep(d2_pos, torch.tensor([[1.9, 1.6]])).neg.sum()
    slopes = [torch.autograd.grad(total, d2_pos)[0] for total in (with_excluded, without)]
    torch.testing.assert_close(*slopes)
    assert float(slopes[0]) > 0


def test_triplet_counts_only_violations():
    weights = Triplet(eps=0.5)(torch.tensor([0.2]), torch.tensor([[0.1, 0.6, 0.8]]))
    torch.testing.assert_close(weights.neg, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(weights.value, torch.tensor([0.6 + 0.1]))


def test_lifted_structured_ignores_a_separated_anchor():
    weights = LiftedStructured(eps=-3.0)(torch.tensor([0.1]), torch.tensor([[1.0, 1.5]]))
    assert weights.neg.abs().sum() == 0
    assert weights.value.abs().sum() == 0


def test_riesz_value_and_weight_agree_below_the_floor():
    d2 = torch.tensor([1e-7], dtype=torch.float64, requires_grad=True)
    weights = KCL("riesz", t=2.0)(d2, torch.ones(1, 2, dtype=torch.float64))
    (slope,) = torch.autograd.grad(weights.value.sum(), d2)
    torch.testing.assert_close(slope, weights.pos.detach())
    assert float(slope) > 0


POSITIVE = "expected a finite number > 0"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: InfoNCE(tau=0), ValueError, rf"InfoNCE.tau: {POSITIVE}, got 0"),
        (lambda: InfoNCE(tau=-0.5), ValueError, rf"InfoNCE.tau: {POSITIVE}, got -0.5"),
        (lambda: InfoNCE(tau=math.nan), ValueError, rf"InfoNCE.tau: {POSITIVE}, got nan"),
        (lambda: InfoNCE(tau="0.5"), TypeError, rf"InfoNCE.tau: {POSITIVE}, got '0.5'"),
        (lambda: InfoNCE(tau=True), TypeError, rf"InfoNCE.tau: {POSITIVE}, got True"),
        (lambda: InfoNCE(eps=-1), ValueError, r"InfoNCE.eps: expected a finite number >= 0, got -1"),
        (lambda: Direct(p=0), ValueError, rf"Direct.p: {POSITIVE}, got 0"),
        (lambda: Direct(tau=math.inf), ValueError, rf"Direct.tau: {POSITIVE}, got inf"),
        (lambda: Direct(normalize=1), TypeError, r"Direct.normalize: expected True or False, got 1"),
        (
            lambda: Inverse(gamma=1),
            ValueError,
            r"Inverse.gamma: expected a finite number > 1 \(at 1, .*exact=F",
        ),
        (lambda: Inverse(gamma=0, exact=False), ValueError, rf"Inverse.gamma: {POSITIVE}, got 0"),
        (lambda: Square(tau=None), TypeError, rf"Square.tau: {POSITIVE}, got None"),
        (lambda: KCL("cubic"), ValueError, r"KCL.kernel: expected one of 'gaussian', .*, got 'cubic'"),
        (lambda: KCL("riesz", t=12.0), ValueError, r"KCL.t: expected a number <= 8 with a riesz kernel .*, got 12.0"),
        (lambda: KCL(t=0), ValueError, rf"KCL.t: {POSITIVE}, got 0"),
        (lambda: Triplet(eps=math.inf), ValueError, r"Triplet.eps: expected a finite number, got inf"),
    ],
)
def test_bad_options_are_refused_by_name(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_functions_that_cannot_be_called_are_refused():
    from alphacl_plugins.strategies import Family, Regularized

    with pytest.raises(TypeError, match=r"Family.psi: expected a function of a tensor, got 3"):
        Family(torch.log, 3)
    with pytest.raises(TypeError, match=r"Regularized.derivative: expected a function of a tensor, got 'r'"):
        Regularized("r", torch.exp)
