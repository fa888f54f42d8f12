"""Properties that every strategy has, those of the registry by iterating over it."""

import dataclasses
import math

import pytest
import torch
from oracles import (
    ALL_STRATEGIES,
    STRATEGIES_OF_TESTS,
    in_a_batch,
    is_finite,
    random_distances,
    relative_error,
    strategy_id,
)
from selection import slow_but

from alphacl_plugins import PairWeights, build_strategy, strategy_names
from alphacl_plugins.strategies import (
    DHEL,
    KCL,
    Direct,
    Entropy,
    Family,
    InfoNCE,
    Inverse,
    InverseExact,
    KLBall,
    LearnableTemperature,
    LiftedStructured,
    Regularized,
    Square,
    Strategy,
    Triplet,
    Tsallis,
    Uniform,
)
from alphacl_plugins.strategies.guarded import Guarded, plain
from alphacl_plugins.strategies.learnable_temperature import has_temperature
from alphacl_plugins.strategies.separable import Separable, Totals

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES_OF_TESTS, ids=strategy_id)
every_seed = pytest.mark.parametrize("seed", range(3))


def complete(weights):
    """Weights, positive weights and values as a list of tensors."""
    return [weights.neg, weights.neg.sum(dim=1) if weights.pos is None else weights.pos] + (
        [] if weights.value is None else [weights.value]
    )


def with_excluded(d2_neg, seed):
    """The same negatives between excluded ones, and where they are."""
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
def test_reordering_the_negatives_reorders_the_weights(strategy, seed):
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
def test_excluded_columns_weigh_exactly_nothing_and_change_nothing(strategy, seed):
    d2_pos, d2_neg = random_distances(seed, anchors=5, candidates=7)
    wide, places = with_excluded(d2_neg, seed)
    narrow, padded = complete(strategy(d2_pos, d2_neg)), complete(strategy(d2_pos, wide))
    assert (padded[0][torch.isinf(wide)] == 0).all()
    assert relative_error(padded[0][:, places], narrow[0]) < 1e-12
    for a, b in zip(padded[1:], narrow[1:], strict=True):
        assert relative_error(a, b) < 1e-12


@every_strategy
def test_no_gradient_reaches_an_excluded_column(strategy):
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
@pytest.mark.parametrize("negatives", [1, 2, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_duplicates_and_a_single_negative_are_finite(strategy, scale, negatives, dtype):
    d2_pos, d2_neg = random_distances(1, anchors=4, candidates=negatives)
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


WITHOUT_OWN_LOSS = {"direct", "uniform", "inverse", "inverse_exact"}
WITHOUT_OWN_LOSS |= {"hardness", "dual_temperature", "adnce", "circle", "macl"}  # parts of the loss are held fixed


def test_which_strategies_have_their_own_loss():
    row = random_distances(0, anchors=1, candidates=3)
    assert {name for name in strategy_names() if build_strategy(name)(*row).value is None} == WITHOUT_OWN_LOSS


@pytest.mark.parametrize("tau", [1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name",
    [
        *("infonce", "entropy", "inverse", "inverse_exact", "square", "tsallis", "direct", "dhel", "soft_triplet"),
        *("hardness", "adnce", "debiased", "rince"),
    ],
)
def test_extreme_temperatures_are_finite(name, tau, dtype):
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
            lambda: InverseExact(gamma=1),
            ValueError,
            r"InverseExact.gamma: expected a finite number > 1 \(at 1, .*Inverse takes γ > 0",
        ),
        (lambda: Inverse(gamma=0), ValueError, rf"Inverse.gamma: {POSITIVE}, got 0"),
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
    with pytest.raises(TypeError, match=r"Family.psi: expected a function of a tensor, got 3"):
        Family(torch.log, 3)
    with pytest.raises(TypeError, match=r"Regularized.derivative: expected a function of a tensor, got 'r'"):
        Regularized("r", torch.exp)


REGISTERED = {name: in_a_batch(build_strategy(name)) for name in strategy_names()}
every_separable = pytest.mark.parametrize("strategy", [s for s in ALL_STRATEGIES if s.separable], ids=strategy_id)
every_with_tau = pytest.mark.parametrize("strategy", [s for s in ALL_STRATEGIES if has_temperature(s)], ids=strategy_id)


@every_strategy
def test_ours_are_strategies_that_are_called_as_they_are(strategy):
    assert isinstance(strategy, Strategy)
    assert plain(strategy) is strategy


@every_strategy
def test_pure_strategies_leave_their_arguments_as_they_are(strategy):
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=7)
    d2_neg[1, 2] = math.inf
    before = d2_pos.clone(), d2_neg.clone()
    with torch.no_grad():
        strategy(d2_pos, d2_neg)
        if strategy.separable:
            finite = d2_neg.nan_to_num(posinf=0.0)
            assert strategy.log_weight(finite).data_ptr() != finite.data_ptr()
            assert torch.equal(finite, d2_neg.nan_to_num(posinf=0.0))
    assert torch.equal(d2_pos, before[0])
    assert torch.equal(d2_neg, before[1])


@every_strategy
def test_uses_positive_says_whether_the_row_depends_on_the_positive(strategy):
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=7)
    rows = [strategy(d2_pos + shift, d2_neg) for shift in (0.0, 0.25, 0.5)]
    if strategy.uses_positive:
        return
    for row in rows[1:]:
        assert relative_error(row.neg, rows[0].neg) < 1e-12
        assert relative_error(complete(row)[1], complete(rows[0])[1]) < 1e-12
    if rows[0].value is not None:
        assert relative_error(rows[0].value + rows[2].value, 2 * rows[1].value) < 1e-12


def test_which_registered_strategies_use_the_positive():
    uses = {"infonce", "soft_triplet", "n_plus_1_tuplet", "lifted_structured", "triplet", "modified_triplet", "kcl"}
    uses |= {"hardness", "dual_temperature", "adnce", "debiased", "sigmoid", "student_t", "rince", "multi_similarity"}
    uses |= {"circle", "dcl_weighted"}
    assert {name for name, strategy in REGISTERED.items() if strategy.uses_positive} == uses
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=7)
    for name in uses:
        weights, others = (complete(REGISTERED[name](d, d2_neg)) for d in (d2_pos, d2_pos + 0.25))
        assert relative_error(others[1], weights[1]) > 1e-3


def test_which_registered_strategies_have_a_loss_that_tau_can_learn_from():
    has = {"infonce", "entropy", "soft_triplet", "dhel", "square", "inverse_exact", "rince", "tsallis", "dcl_weighted"}
    assert {name for name, strategy in REGISTERED.items() if strategy.has_loss} == has


@every_separable
def test_without_totals_factors_are_the_same(strategy):
    d2_pos = random_distances(0, anchors=5, candidates=3)[1]
    totals = [Totals(*(torch.full((5, 1), y, dtype=torch.float64) for y in (x, x, 7, 2 * x))) for x in (0.5, 1.5)]
    first, second = (strategy.factors(d2_pos, t) for t in totals)
    changes = any(not torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None)
    assert changes == strategy.uses_totals
    assert all(part is None or part.shape == d2_pos.shape for part in first)


@every_separable
def test_exponent_is_that_of_the_weight(strategy):
    if strategy.exponent is None:
        return
    d2 = random_distances(0, anchors=5, candidates=7)[1]
    tau, power = strategy.exponent
    assert relative_error(strategy.log_weight(d2), -d2.pow(power) / tau) < 1e-12


@every_separable
def test_rows_are_softmaxes_of_log_weights(strategy):
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=7)
    weights = strategy(d2_pos, d2_neg).neg
    softmax = strategy.log_weight(d2_neg).exp() / strategy.log_weight(d2_neg).exp().sum(dim=1, keepdim=True)
    assert relative_error(weights, weights.sum(dim=1, keepdim=True) * softmax) < 1e-12


def test_totals_of_some_anchors():
    totals = Totals(torch.arange(4.0)[:, None], torch.arange(4.0)[:, None] + 1, 7).of(slice(1, 3))
    assert totals.log_sum_exp.tolist() == [[1.0], [2.0]]
    assert totals.potential.tolist() == [[2.0], [3.0]]
    assert totals.number == 7


@every_with_tau
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_tau", [torch.float32, torch.float64])
def test_a_temperature_may_be_a_tensor(strategy, dtype, of_tau):
    d2_pos, d2_neg = (d.to(dtype) for d in random_distances(0, anchors=5, candidates=7))
    d2_neg[0, 2] = math.inf
    tau = torch.tensor(0.25, dtype=of_tau, requires_grad=True)  # exact in either
    got = dataclasses.replace(strategy, tau=tau)(d2_pos, d2_neg)
    expected = dataclasses.replace(strategy, tau=0.25)(d2_pos, d2_neg)
    for g, e in zip(got, expected, strict=True):
        if e is not None:
            assert g.dtype == dtype
            assert relative_error(g, e) < 4 * torch.finfo(dtype).eps
    (slope,) = torch.autograd.grad(got.neg.square().sum(), tau)
    assert is_finite(slope)


@every_with_tau
def test_the_gradient_for_a_temperature_is_exact(strategy):
    d2_pos, d2_neg = random_distances(0, anchors=3, candidates=4)
    d2_neg[0, 2] = math.inf
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def weights(tau):
        return dataclasses.replace(strategy, tau=tau)(d2_pos, d2_neg).neg

    assert torch.autograd.gradcheck(weights, (tau,))
    by_transform = torch.func.grad(lambda tau: weights(tau).square().sum())(tau.detach())
    (expected,) = torch.autograd.grad(weights(tau).square().sum(), tau)
    torch.testing.assert_close(by_transform, expected)


@every_with_tau
def test_a_temperature_is_never_read_by_the_host(strategy):
    d2_pos, d2_neg = (d.to("meta") for d in random_distances(0, anchors=5, candidates=7))
    weights = dataclasses.replace(strategy, tau=torch.tensor(0.3, device="meta"))(d2_pos, d2_neg)
    assert weights.neg.shape == (5, 7)


@pytest.mark.parametrize("tau", [torch.tensor([0.3]), torch.tensor(1)])
def test_other_tensors_are_no_temperature(tau):
    with pytest.raises(TypeError, match=rf"InfoNCE.tau: {POSITIVE}, got tensor"):
        InfoNCE(tau)


class Steeper(InfoNCE):
    """A subclass with its own rule."""

    def __call__(self, d2_pos, d2_neg):
        return InfoNCE(self.tau / 2)(d2_pos, d2_neg)


class WithParameters(torch.nn.Module, Separable):
    """Separable, with a parameter that needs a gradient."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def log_weight(self, d2):
        return -self.scale * d2

    def forward(self, d2_pos, d2_neg):
        return PairWeights(torch.softmax(self.log_weight(d2_neg), dim=1))


def test_a_subclass_with_its_own_call_is_neither_pure_nor_separable():
    assert InfoNCE().separable
    for strategy in (Steeper(), WithParameters()):
        assert not strategy.pure
        assert not strategy.separable
        assert isinstance(plain(strategy), Guarded)
    row = random_distances(0, anchors=3, candidates=4)
    assert torch.equal(plain(Steeper(0.4))(*row).neg, InfoNCE(0.2)(*row).neg)


def test_a_subclass_may_say_that_it_is_pure():
    class Pure(InfoNCE):
        pure = True

        def __call__(self, d2_pos, d2_neg):
            return Uniform()(d2_pos, d2_neg)

    class Renamed(Pure):
        pass

    for strategy in (Pure(), Renamed()):
        assert plain(strategy) is strategy
        assert not strategy.separable


def in_place(d2_pos, d2_neg):
    """InfoNCE at ε = 0 and τ = 0.3 by a function that writes into its arguments."""
    d2_neg.div_(-0.3)
    d2_pos.zero_()
    return PairWeights(d2_neg.softmax(dim=1))


def test_a_function_that_writes_into_its_arguments_changes_nothing():
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=7)
    d2_neg.requires_grad_()
    before = d2_pos.clone(), d2_neg.detach().clone()
    got = plain(in_place)(d2_pos, d2_neg)
    expected = Entropy(0.3)(d2_pos, d2_neg)
    assert torch.equal(d2_pos, before[0])
    assert torch.equal(d2_neg.detach(), before[1])
    assert relative_error(got.neg, expected.neg) < 1e-12
    slopes = [torch.autograd.grad(weights.neg.square().sum(), d2_neg)[0] for weights in (got, expected)]
    assert relative_error(*slopes) < 1e-12


def test_what_a_users_strategy_declares_holds():
    class Mine:
        negatives, symmetric, uses_positive, has_loss = "same", False, False, True

        def __call__(self, d2_pos, d2_neg):
            return Entropy()(d2_pos, d2_neg)

    got = plain(Mine())
    assert (got.negatives, got.symmetric, got.uses_positive, got.has_loss) == ("same", False, False, True)
    of_function = plain(in_place)
    assert (of_function.negatives, of_function.symmetric) == (None, None)
    assert (of_function.uses_positive, of_function.has_loss) == (True, False)
    assert plain(got) is got
    assert DHEL(include_augs=False).symmetric is False


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_weights_of_any_dtype_are_converted(dtype):
    d2_pos, d2_neg = (d.float() for d in random_distances(0, anchors=5, candidates=7))
    nearest = d2_neg < 1
    pos = nearest.sum(dim=1)
    weights = plain(lambda a, b: PairWeights(nearest.to(dtype), pos.to(dtype), pos.to(dtype)))(d2_pos, d2_neg)
    assert all(part.dtype == torch.float32 for part in weights)
    assert torch.equal(weights.neg, nearest.float())


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda p, n: n, TypeError, r"strategy: expected one that returns PairWeights, got one that returns Tensor"),
        (lambda p, n: (n, p), TypeError, r"strategy: expected one that returns PairWeights, .* returns 2 values"),
        (lambda p, n: PairWeights(n[:, :1]), ValueError, r"expected PairWeights.neg \(5, 7\), got \(5, 1\)"),
        (lambda p, n: PairWeights(None), ValueError, r"expected PairWeights.neg \(5, 7\), got None"),
        (lambda p, n: PairWeights(n, pos=1.0), ValueError, r"expected PairWeights.pos \(5,\), got 1.0"),
        (lambda p, n: PairWeights(n, value=n), ValueError, r"expected PairWeights.value \(5,\), got \(5, 7\)"),
    ],
)
def test_a_wrong_answer_is_refused(answer, error, message):
    with pytest.raises(error, match=message):
        plain(answer)(*random_distances(0, anchors=5, candidates=7))


def test_functions_of_the_user_may_work_in_place():
    row = random_distances(0, anchors=4, candidates=6)
    row[1][0, 2] = math.inf
    row[1].requires_grad_()
    pairs = [
        (Family(lambda x: x.log_(), lambda x: x.exp_()), Family(torch.log, torch.exp)),
        (
            Regularized(lambda a: a.mul_(2.0).reciprocal_(), lambda v: v.mul_(2.0).reciprocal_()),
            Regularized(lambda a: 0.5 / a, lambda v: 0.5 / v),
        ),
    ]
    for own, expected in pairs:
        got, wanted = own(*row), expected(*row)
        assert relative_error(got.neg, wanted.neg) < 1e-12
        if wanted.value is not None:
            assert relative_error(got.value, wanted.value) < 1e-12
        slopes = [torch.autograd.grad(w.neg.square().sum(), row[1])[0] for w in (got, wanted)]
        assert relative_error(*slopes) < 1e-10


class Loss(torch.nn.Module):
    """As the loss calls a strategy."""

    def __init__(self, strategy):
        super().__init__()
        self.strategy = strategy

    def forward(self, d2_pos, d2_neg):
        strategy = plain(self.strategy)
        factor = 2.0 if strategy.separable else 1.0
        return factor * strategy(d2_pos, d2_neg).neg


@pytest.mark.parametrize(
    "strategy",
    [InfoNCE(), Square(), LearnableTemperature(InfoNCE()), WithParameters(), in_place,
     *slow_but([], [Direct(), InverseExact(), Tsallis(), Tsallis(0.5), KLBall(), LearnableTemperature(Square()),
                    LearnableTemperature(Direct(), learnable=False), Steeper()])],
    ids=strategy_id,
)  # fmt: skip
def test_plain_compiles_without_graph_breaks(strategy):
    torch._dynamo.reset()
    row = random_distances(0, anchors=4, candidates=6)
    loss = Loss(strategy)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(*row), loss(*row)) < 1e-12
