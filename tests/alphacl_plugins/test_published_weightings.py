"""The strategies that come from published losses: α and value against autograd of each loss, written out for one row.

The losses are in cosines, ``c = 1 - D``, and in their usual scale; ``.detach()`` is where the published code stops the
gradient.
"""

import math

import pytest
import torch
from oracles import is_finite, random_distances, relative_error
from torch.nn.functional import softplus

from alphacl_plugins import AlphaCLLoss, strategies
from alphacl_plugins.metrics import alpha_entropy
from alphacl_plugins.strategies import (
    ADNCE,
    RINCE,
    Circle,
    Debiased,
    Direct,
    DualTemperature,
    Entropy,
    Hardness,
    InfoNCE,
    Link,
    MultiSimilarity,
    Quadratic,
    Sigmoid,
    StudentT,
    Weighted,
)


def cross_entropy(pos, neg):
    """``-log(e^pos / (e^pos + Σ e^neg))``."""
    return torch.cat([pos[None], neg]).logsumexp(0) - pos


def hardness(d_pos, d, tau, a):
    return cross_entropy((1 - d_pos) / tau, (1 - d) / tau + a * (1 - d).detach())


def dual_temperature(d_pos, d, cold, warm):
    far = [1 - torch.softmax(torch.cat([-d_pos[None], -d]) / tau, 0)[0] for tau in (cold, warm)]
    return (far[1] / far[0]).detach() * cross_entropy(-d_pos / cold, -d / cold)


def adnce(d_pos, d, tau, mu, sigma):
    weight = torch.exp(-((1 - d - mu) ** 2) / (2 * sigma**2))
    weight = (weight / weight.mean()).detach()
    return cross_entropy((1 - d_pos) / tau, (1 - d) / tau + weight.log())


def debiased(d_pos, d, tau, tau_plus, beta, detach):
    pos, neg = torch.exp((1 - d_pos) / tau), torch.exp((1 - d) / tau)
    weight = neg**beta / (neg**beta).mean()
    weight = weight.detach() if detach else weight
    ng = ((weight * neg).sum() - tau_plus * len(d) * pos) / (1 - tau_plus)
    return -torch.log(pos / (pos + torch.clamp(ng, min=len(d) * math.exp(-1 / tau))))


def sigmoid(d_pos, d, t, b):
    return softplus(-(t * (1 - d_pos) + b)) + softplus(t * (1 - d) + b).sum()


def student_t(d_pos, d, nu, t):
    return cross_entropy(*(-(nu + 1) / 2 * torch.log(1 + t * 2 * x / nu) for x in (d_pos, d)))


def rince(d_pos, d, tau, q, lam):
    pos, neg = torch.exp((1 - d_pos) / tau), torch.exp((1 - d) / tau)
    return -(pos**q) / q + (lam * (pos + neg.sum())) ** q / q


def multi_similarity(d_pos, d, alpha, beta, base):
    pos, neg = 1 - d_pos - base, 1 - d - base
    return torch.log(1 + torch.exp(-alpha * pos)) / alpha + torch.log(1 + torch.exp(beta * neg).sum()) / beta


def circle(d_pos, d, m, gamma):
    pos, neg = 1 - d_pos, 1 - d
    l_pos = gamma * (1 + m - pos).clamp_min(0).detach() * (pos - 1 + m)
    l_neg = gamma * (neg + m).clamp_min(0).detach() * (neg - m)
    return softplus(l_neg.logsumexp(0) - l_pos)


CASES = [  # ours, theirs, ours over theirs, whether values agree
    (Hardness(), lambda p, d: hardness(p, d, 0.5, 9), 0.5, False),
    (Hardness(0.1, 0.0), lambda p, d: hardness(p, d, 0.1, 0), 0.1, False),
    (DualTemperature(), lambda p, d: dual_temperature(p, d, 0.1, 1), 0.1, False),
    (ADNCE(), lambda p, d: adnce(p, d, 0.4, 0.7, 0.5), 0.4, False),
    (ADNCE(0.2, 0.8, 1.0), lambda p, d: adnce(p, d, 0.2, 0.8, 1.0), 0.2, False),
    (Debiased(), lambda p, d: debiased(p, d, 0.5, 0.1, 0, True), 0.5, True),
    (Debiased(tau_plus=0.6), lambda p, d: debiased(p, d, 0.5, 0.6, 0, True), 0.5, True),
    (Debiased(tau_plus=0.0), lambda p, d: debiased(p, d, 0.5, 0.0, 0, True), 0.5, True),
    (Debiased(0.4, 0.05, 1.0), lambda p, d: debiased(p, d, 0.4, 0.05, 1, True), 0.4, False),
    (Debiased(0.4, 0.0, 2.0), lambda p, d: debiased(p, d, 0.4, 0.0, 2, True), 0.4, False),
    (Debiased(0.4, 0.05, 1.0, detach=False), lambda p, d: debiased(p, d, 0.4, 0.05, 1, False), 0.4, True),
    (Debiased(0.4, 0.7, 1.0, detach=False), lambda p, d: debiased(p, d, 0.4, 0.7, 1, False), 0.4, True),
    (Sigmoid(), lambda p, d: sigmoid(p, d, 10, -10), 1, True),
    (Sigmoid(2.0, 0.0), lambda p, d: sigmoid(p, d, 2, 0), 1, True),
    (StudentT(), lambda p, d: student_t(p, d, 1, 1), 1, True),
    (StudentT(10.0, 4.0), lambda p, d: student_t(p, d, 10, 4), 1, True),
    (RINCE(), lambda p, d: rince(p, d, 0.5, 0.5, 0.01), 0.5 * math.exp(-1), True),
    (RINCE(0.2, 0.1, 0.5), lambda p, d: rince(p, d, 0.2, 0.1, 0.5), 0.2 * math.exp(-0.5), True),
    (RINCE(0.5, 1.0, 1.0), lambda p, d: rince(p, d, 0.5, 1.0, 1.0), 0.5 * math.exp(-2), True),
    (MultiSimilarity(), lambda p, d: multi_similarity(p, d, 2, 50, 0.5), 1, True),
    (Circle(), lambda p, d: circle(p, d, 0.4, 80), 1, False),
    (Circle(0.25, 8.0), lambda p, d: circle(p, d, 0.25, 8), 1, False),
]
IDS = [repr(case[0]) for case in CASES]
every_case = pytest.mark.parametrize(("ours", "theirs", "factor", "values_agree"), CASES, ids=IDS)


def published(loss, d_pos, d):
    """Value of the loss and the weights that its gradient says, ``[K]`` and a number."""
    d_pos, d = d_pos.clone().requires_grad_(), d.clone().requires_grad_()
    value = loss(d_pos, d)
    pos, neg = torch.autograd.grad(value, (d_pos, d))
    return value.detach(), -neg, pos


def ours_is_the_published(ours, theirs, factor, values_agree, d_pos, d, counts=None):
    row = (d_pos[None], d[None]) if counts is None else (d_pos[None], d[None], counts[None].to(d.dtype))
    neg, pos, value = ours(*row)
    copies = torch.arange(len(d)) if counts is None else torch.arange(len(d)).repeat_interleave(counts)
    their_value, their_neg, their_pos = published(theirs, d_pos, d[copies])
    their_neg = torch.zeros_like(d).index_add(0, copies, their_neg)
    pos = neg.sum(dim=1) if pos is None else pos
    assert (value is not None) == values_agree
    whole = torch.cat([their_neg, their_pos[None]])
    assert relative_error(torch.cat([neg[0], pos]), factor * whole) < 1e-10
    if value is not None:
        assert float(value) == pytest.approx(factor * float(their_value), rel=1e-10)


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_weights_and_value_are_those_of_the_published_loss(ours, theirs, factor, values_agree, seed):
    d_pos, d = random_distances(seed, anchors=1, candidates=9)
    ours_is_the_published(ours, theirs, factor, values_agree, d_pos[0], d[0])


@every_case
def test_the_usual_scale_is_that_of_the_published_loss(ours, theirs, factor, values_agree):
    assert ours.usual_scale == pytest.approx(1 / factor, rel=1e-12)


@every_case
def test_a_count_is_so_many_copies(ours, theirs, factor, values_agree):
    d_pos, d = random_distances(7, anchors=1, candidates=5)
    ours_is_the_published(ours, theirs, factor, values_agree, d_pos[0], d[0], torch.tensor([1, 3, 0, 2, 1]))


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-8, 1e6], ids=["spread", "zero", "near", "far"])
def test_odd_rows_are_finite(ours, theirs, factor, values_agree, dtype, scale):
    for candidates in (1, 2, 50):
        d_pos, d = (scale * x.to(dtype) for x in random_distances(1, anchors=4, candidates=candidates))
        d.requires_grad_()
        weights = ours(d_pos, d)
        (slope,) = torch.autograd.grad(weights.neg.sum() + weights.pos.sum(), d, allow_unused=True)
        assert is_finite(*(part for part in (*weights, slope) if part is not None))


# Which strategy is which at which options.

ROW = random_distances(3, anchors=4, candidates=20)


def shape(strategy):
    neg = strategy(*ROW).neg
    return neg / neg.sum(dim=1, keepdim=True)


def same(ours, other):
    """Whether two strategies weigh the pairs of random rows alike."""
    complete = [(w.neg, w.neg.sum(dim=1) if w.pos is None else w.pos) for w in (ours(*ROW), other(*ROW))]
    return all(relative_error(a, b) < 1e-12 for a, b in zip(*complete, strict=True))


def test_adnce_is_a_gaussian_and_contains_direct():
    tau, mu, sigma = 0.4, 0.7, 0.5
    centre = 1 - mu - sigma**2 / tau
    gaussian = torch.softmax(-((ROW[1] - centre) ** 2) / (2 * sigma**2), dim=1)
    assert relative_error(shape(ADNCE(tau, mu, sigma)), gaussian) < 1e-12
    around_zero = ADNCE(tau=0.5, mu=0.5, sigma=0.5)
    assert relative_error(shape(around_zero), Direct(tau=0.5, p=4)(*ROW).neg) < 1e-12


def test_hardness_and_hcl_held_fixed_are_softmaxes_at_a_lower_temperature():
    assert relative_error(shape(Hardness(0.5, 9.0)), Entropy(0.5 / 5.5)(*ROW).neg) < 1e-12
    assert relative_error(shape(Debiased(0.5, 0.0, 1.5)), Entropy(0.5 / 2.5)(*ROW).neg) < 1e-12


def test_hcl_as_published_is_signed_and_sharper():
    signed = Debiased(0.5, 0.0, 1.0, detach=False)(*ROW)
    q = [Entropy(0.5 / (1 + beta))(*ROW).neg for beta in (0, 1)]
    assert relative_error(signed.neg / signed.pos[:, None], 2 * q[1] - q[0]) < 1e-12
    assert (signed.neg < 0).any()


def test_debiased_above_its_floor_is_infonce_with_a_negative_eps():
    d_pos, d = ROW[0] + 1, ROW[1]  # far positives: nothing is at the floor
    xi = torch.exp((d_pos[:, None] - d) / 0.5)
    expected = xi / (1 - 0.05 * 21 + xi.sum(dim=1, keepdim=True))
    assert relative_error(Debiased(0.5, 0.05)(d_pos, d).neg, expected) < 1e-12


def test_debiased_without_false_negatives_is_infonce():
    assert same(Debiased(0.5, 0.0), InfoNCE(0.5))
    assert not same(Debiased(0.5, 0.1), InfoNCE(0.5))


def test_flatnce_is_entropy():
    def flatnce(d_pos, d):
        log_xi = ((d_pos - d) / 0.4).logsumexp(0)
        return torch.exp(log_xi - log_xi.detach())

    _, neg, pos = published(flatnce, ROW[0][0], ROW[1][0])
    weights = Entropy(0.4)(*ROW)
    assert relative_error(0.4 * neg, weights.neg[0]) < 1e-12
    assert float(0.4 * pos) == pytest.approx(1.0)


def test_eqco_and_an_additive_margin_are_eps():
    def with_margin(d_pos, d):
        return cross_entropy((1 - d_pos - 0.2) / 0.4, (1 - d) / 0.4)

    def eqco(d_pos, d):
        return cross_entropy((1 - d_pos) / 0.4, (1 - d) / 0.4 + math.log(64 / len(d)))

    for loss, eps in ((with_margin, math.exp(-0.2 / 0.4)), (eqco, 20 / 64)):
        _, neg, _ = published(loss, ROW[0][0], ROW[1][0])
        assert relative_error(0.4 * neg, InfoNCE(0.4, eps)(*ROW).neg[0]) < 1e-12


def test_macl_at_a_given_temperature_is_entropy():
    def macl(d_pos, d):
        log_p = -cross_entropy(-d_pos / 0.3, -d / 0.3)
        return -log_p / (1 - log_p.exp()).detach()

    _, neg, pos = published(macl, ROW[0][0], ROW[1][0])
    assert relative_error(0.3 * neg, Entropy(0.3)(*ROW).neg[0]) < 1e-12
    assert float(0.3 * pos) == pytest.approx(1.0)


def test_adnce_is_a_quadratic_and_its_published_settings_only_sharpen():
    """Its Gaussian is centred below every distance: the nearest negative always has the largest weight."""
    settings = {(0.4, 0.7, 0.5): (-0.32, 0.19), (0.3, 0.5, 1.0): (-2.83, 0.26), (0.2, 0.8, 1.0): (-4.80, 0.17)}
    d2 = random_distances(3, anchors=4, candidates=9)[1]
    for (tau, mu, sigma), (centre, local_tau) in settings.items():
        slope = 1 / tau - (1 - mu) / sigma**2
        assert -slope * sigma**2 == pytest.approx(centre, abs=0.005)
        assert 1 / (slope + 1 / sigma**2) == pytest.approx(local_tau, abs=0.005)
        weights = ADNCE(tau, mu, sigma)(torch.ones(4, dtype=torch.float64), d2).neg
        shape = Quadratic(slope, 1 / (2 * sigma**2))(torch.ones(4, dtype=torch.float64), d2).neg
        assert relative_error(weights / weights.sum(dim=1, keepdim=True), shape) < 1e-12


def test_the_rows_of_table_1_are_not_equally_sharp():
    """Effective negatives of 254 at distances of a spread of 0.15 and 0.25 around 1."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, 254, generator=generator, dtype=torch.float64)
    for spread, expected in ((0.15, (243, 213, 219, 196, 42)), (0.25, (225, 156, 183, 145, 28))):
        d2 = (1 + spread * normal).clamp_min(0)
        rows = InfoNCE(0.5), InfoNCE(0.25), Direct(), ADNCE(), strategies.Square(5.0)
        for strategy, number in zip(rows, expected, strict=True):
            weights = strategy(torch.full((2000,), 0.2, dtype=torch.float64), d2).neg
            assert alpha_entropy(weights).exp().item() == pytest.approx(number, abs=1.5), strategy


def test_with_labels_infonce_is_sincere():
    """SINCERE: each positive against the negatives alone, a mean over positives, then over anchors."""
    z = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    labels, tau, total = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), 0.3, 0.0
    for i, anchor in enumerate(z):
        logits = z @ anchor / tau
        others = logits[labels != labels[i]].exp().sum()
        positives = [j for j in range(8) if j != i and labels[j] == labels[i]]
        total -= sum(torch.log(logits[j].exp() / (logits[j].exp() + others)) for j in positives) / len(positives)
    got = AlphaCLLoss("infonce", tau=tau, scale="ntxent")(z, labels=labels)
    assert got.item() == pytest.approx((total / 8).item(), rel=1e-12)


def test_a_mass_of_zero_counts_zero_and_a_small_one_is_bounded():
    rows = torch.tensor([0.01]), torch.tensor([[1.0, 1.1, 0.9]])
    assert Weighted(Direct(), InfoNCE(0.02), kappa=-1.0)(*rows).neg.sum().item() == pytest.approx(1e6, rel=1e-4)
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    floored = AlphaCLLoss(Weighted(Direct(), Debiased(tau=0.3), kappa=-0.5), reduction="none")
    assert floored(z, z + 0.3).abs().max() < 1e4


def test_rince_tends_to_infonce():
    q = 1e-7
    weights, limit = RINCE(0.5, q, 1.0)(*ROW), InfoNCE(0.5)(*ROW)
    assert relative_error(weights.neg, limit.neg) < 1e-5


def test_the_temperature_of_rince_learns_from_the_energy():
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    neg, pos, value = RINCE(tau)(*ROW)
    (slope,) = torch.autograd.grad((value / tau).sum(), tau)
    energy = (neg * ROW[1]).sum(dim=1) - pos * ROW[0]
    assert float(tau.detach() * slope) == pytest.approx(float((energy / tau).sum().detach()), rel=1e-12)


def test_scales_that_leave_the_dtype_are_inf():
    assert RINCE(tau=1e-3).usual_scale == pytest.approx(math.exp(500) * 1e3)
    assert RINCE(tau=1e-4).usual_scale == math.inf


def test_a_link_of_ones_own_is_the_named_one():
    link, named = Link(lambda d2: -torch.log1p(2 * d2))(*ROW), StudentT()(*ROW)
    for a, b in zip(link, named, strict=True):
        assert relative_error(a, b) < 1e-12
    over_tau = Link(lambda d2: d2.neg_().div_(0.3))(*ROW)
    assert relative_error(0.3 * over_tau.neg, InfoNCE(0.3)(*ROW).neg) < 1e-12


# The algebra.


@pytest.mark.parametrize(
    ("composed", "named"),
    [
        (Weighted(Entropy(0.1), InfoNCE(1.0)), DualTemperature(0.1, 1.0)),
        (Weighted(Entropy(0.3), InfoNCE(0.3)), InfoNCE(0.3)),
        (Weighted(Direct(0.3)), Direct(0.3)),
        (Weighted(Entropy(0.5), Debiased(0.5, 0.1)), Debiased(0.5, 0.1)),
        (Weighted(Direct(0.3), Direct(0.3, normalize=False)), Direct(0.3, normalize=False)),
        (Weighted(Entropy(0.5), InfoNCE(0.2), kappa=0.0), Entropy(0.5)),
        (Quadratic(a=4.0, b=0.0), Entropy(0.25)),
        (Quadratic(a=0.0, b=2.0), Direct(0.5, p=4.0)),
    ],
    ids=repr,
)
def test_compositions_are_the_named_strategies(composed, named):
    assert same(composed, named)


def test_mass_and_pull_have_options_of_their_own():
    mass = InfoNCE(0.2)(*ROW).neg.sum(dim=1)
    weights = Weighted(Direct(0.5), InfoNCE(0.2), kappa=-0.5, pull=1)(*ROW)
    assert relative_error(weights.neg, mass[:, None] ** -0.5 * Direct(0.5)(*ROW).neg) < 1e-12
    assert torch.equal(weights.pos, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Hardness(a=-1), ValueError, r"Hardness.a: expected a finite number >= 0, got -1"),
        (lambda: DualTemperature(tau_beta=0), ValueError, r"DualTemperature.tau_beta: expected a finite number > 0"),
        (lambda: ADNCE(sigma=0), ValueError, r"ADNCE.sigma: expected a finite number > 0, got 0"),
        (lambda: Debiased(tau_plus=1), ValueError, r"Debiased.tau_plus: expected a number >= 0 and < 1, got 1"),
        (lambda: Debiased(detach=1), TypeError, r"Debiased.detach: expected True or False, got 1"),
        (lambda: Sigmoid(t=-1), ValueError, r"Sigmoid.t: expected a finite number > 0, got -1"),
        (lambda: RINCE(q=1.5), ValueError, r"RINCE.q: expected a number > 0 and <= 1, got 1.5"),
        (lambda: Link(3), TypeError, r"Link.logit: expected a function of a tensor, got 3"),
        (lambda: Circle(m=0), ValueError, r"Circle.m: expected a finite number > 0, got 0"),
        (lambda: Weighted(strategies.Square()), TypeError, r"Weighted.shape: expected a strategy whose weights factor"),
        (lambda: Weighted(Direct(), ADNCE()), ValueError, r"Weighted.mass: expected .* one sum of exp.*, got ADNCE"),
        (lambda: Weighted(Direct(), kappa=-2), ValueError, r"Weighted.kappa: expected a number >= -1, got -2"),
        (lambda: Weighted(Direct(), pull="x"), TypeError, r"Weighted.pull: expected a finite number, got 'x'"),
        (lambda: AlphaCLLoss(ADNCE(), block_size="kernel"), ValueError, r"the sum of these alone: the softmax types"),
        (
            lambda: AlphaCLLoss(Debiased(beta=1.0, detach=False), gather_distributed="ring"),
            ValueError,
            r"that needs all negatives of an anchor at once, got .ring. with Debiased",
        ),
    ],
)
def test_bad_options_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
