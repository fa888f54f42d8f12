"""A temperature that learns: the same α, and for log τ the gradient of the loss in its usual scale, L/τ."""

import io
import math

import pytest
import torch
from oracles import random_distances, random_views, relative_error, strategy_id

from alphacl_plugins import AlphaCLLoss, PairWeights, build_strategy
from alphacl_plugins.strategies import (
    DHEL,
    KCL,
    Direct,
    Entropy,
    Family,
    InfoNCE,
    Inverse,
    SoftTriplet,
    Square,
    Tempered,
)

LEARNABLE = [
    InfoNCE(0.2),
    InfoNCE(0.2, eps=0.0),
    Entropy(0.3),
    SoftTriplet(0.3, 0.4),
    DHEL(0.2),
    Square(0.4),
    Inverse(0.3),
]
SET_DIRECTLY = [Direct(0.3, p=3.0), Direct(0.3, normalize=False), Inverse(0.4, exact=False)]
every_learnable = pytest.mark.parametrize("strategy", LEARNABLE, ids=strategy_id)
every_one = pytest.mark.parametrize("strategy", LEARNABLE + SET_DIRECTLY, ids=strategy_id)


def tempered(strategy, **options):
    module = Tempered(strategy, learnable=strategy in LEARNABLE, **options).double()
    module.tau = strategy.tau  # to float64, as it began in float32
    return module


def usual_loss(strategy, tau, d2_pos, d2_neg):
    """L/τ of one anchor by its own formula, for a τ that requires a gradient."""
    exponentials = torch.exp((d2_pos - d2_neg) / tau).sum()
    if isinstance(strategy, InfoNCE):
        return torch.log(strategy.eps + exponentials)
    if isinstance(strategy, Entropy):
        return torch.log(exponentials)
    if isinstance(strategy, SoftTriplet):
        return torch.log(1 + math.exp(strategy.eps) * exponentials)
    if isinstance(strategy, DHEL):
        return d2_pos / 2 / tau + torch.log(torch.exp(-d2_neg / tau).sum())
    fixed = type(strategy)(tau=float(tau))
    alpha = fixed(d2_pos[None], d2_neg[None]).neg[0]
    cost = alpha.square() / 2 if isinstance(strategy, Square) else alpha ** (1 - strategy.gamma) / (strategy.gamma - 1)
    return d2_pos / tau - (alpha * d2_neg / tau + cost).sum()


@every_one
@pytest.mark.parametrize("tau", [0.05, 0.7, 20.0])
def test_alpha_and_value_are_those_of_the_strategy_at_that_temperature(strategy, tau):
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=6)
    d2_neg[0, 2] = math.inf
    moving = tempered(strategy)
    moving.tau = tau
    fixed = type(strategy)(**{**vars(strategy), "tau": tau})
    for got, expected in zip(moving(d2_pos, d2_neg), fixed(d2_pos, d2_neg), strict=True):
        if expected is not None:
            assert relative_error(got, expected) < 1e-11


@every_learnable
def test_log_tau_gets_the_gradient_of_the_loss_in_its_usual_scale(strategy):
    d2_pos, d2_neg = random_distances(1, anchors=4, candidates=6)
    moving = tempered(strategy)
    moving(d2_pos, d2_neg).value.sum().backward()

    def total(log_tau):
        return sum(usual_loss(strategy, torch.exp(log_tau), p, n) for p, n in zip(d2_pos, d2_neg, strict=True))

    step = 1e-5
    here = moving.log_tau.detach()
    numeric = (total(here + step) - total(here - step)) / (2 * step)
    assert moving.log_tau.grad.item() == pytest.approx(float(numeric), rel=1e-6)


@every_one
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0, 2, 1])])
def test_embeddings_get_the_gradient_of_the_fixed_strategy(strategy, labels):
    views = [*random_views(0, n=5, d=3), *random_views(1, n=5, d=3)]
    loss = AlphaCLLoss(strategy)(*views, labels=labels)
    expected = torch.autograd.grad(loss, views)
    moving = AlphaCLLoss(tempered(strategy))(*views, labels=labels)
    assert relative_error(moving, loss) < 1e-11
    for got, e in zip(torch.autograd.grad(moving, views), expected, strict=True):
        assert relative_error(got, e) < 1e-10


@pytest.mark.parametrize("strategy", [s for s in LEARNABLE if getattr(s, "factored", None)], ids=strategy_id)
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0, 2, 1])])
def test_in_a_ring_it_learns_the_same(strategy, labels):
    views = random_views(0, n=5, d=3)
    gradients, losses = [], []
    for gather in (False, "ring"):
        criterion = AlphaCLLoss(tempered(strategy), gather_distributed=gather)
        losses.append(criterion(*views, labels=labels))
        gradients.append(torch.autograd.grad(losses[-1], [criterion.strategy.log_tau, *views]))
        assert criterion.last_stats["tau"].item() == pytest.approx(strategy.tau)
    assert relative_error(losses[1], losses[0]) < 1e-12
    for got, expected in zip(*gradients, strict=True):
        assert relative_error(got, expected) < 1e-11


@every_learnable
def test_through_alpha_the_gradient_is_exact_too(strategy):
    criterion = AlphaCLLoss(tempered(strategy), detach_alpha=False)
    views = random_views(2, n=4, d=3)

    def loss(log_tau, z, z_aug):
        return torch.func.functional_call(criterion, {"strategy.log_tau": log_tau}, (z, z_aug))

    log_tau = criterion.strategy.log_tau.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (log_tau, *views), atol=1e-6)


def test_anchors_without_candidates_teach_nothing():
    criterion = AlphaCLLoss(tempered(InfoNCE(0.2)))
    criterion(*random_views(0, n=4, d=3), labels=torch.zeros(4, dtype=torch.long)).backward()
    assert criterion.strategy.log_tau.grad == 0


@pytest.mark.parametrize(
    ("separated", "at_bound", "moves"), [(True, 0.1, False), (False, 0.1, True), (True, 1.0, True)]
)
def test_at_a_bound_only_the_way_back_is_open(separated, at_bound, moves):
    strategy = Tempered(InfoNCE(at_bound), bounds=(0.1, 1.0))
    d2_pos, d2_neg = torch.tensor([0.2]), torch.tensor([[1.0, 1.5]])
    if not separated:
        d2_pos, d2_neg = torch.tensor([1.5]), torch.tensor([[0.2, 0.1]])
    strategy(d2_pos, d2_neg).value.sum().backward()
    assert (strategy.log_tau.grad != 0) == moves
    assert (strategy.log_tau.grad >= 0) == separated  # descent lowers τ where positives are the closer ones


@pytest.mark.parametrize(("bound", "tau"), [("lower", 0.1), ("upper", 1.0)])
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_at_a_bound_the_whole_batch_decides(bound, tau, noise):
    """Anchors pull in both directions; only the sum of their gradients says whether τ wants to leave."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(32, 8, generator=g)
    views = [z + noise * torch.randn(32, 8, generator=g) for _ in range(2)]
    free, bounded = (Tempered(InfoNCE(tau), bounds=bounds) for bounds in ((0.01, 100.0), (0.1, 1.0)))
    for strategy in (free, bounded):
        AlphaCLLoss(strategy)(*views).backward()
    slope = free.log_tau.grad
    outward = slope > 0 if bound == "lower" else slope < 0
    torch.testing.assert_close(bounded.log_tau.grad, torch.zeros(()) if outward else slope)


def test_beyond_a_bound_the_bound_holds():
    strategy = Tempered(InfoNCE(0.2), bounds=(0.1, 1.0))
    with torch.no_grad():
        strategy.log_tau.fill_(math.log(0.05))
    d2 = random_distances(0, anchors=3, candidates=4)
    assert strategy.tau.item() == pytest.approx(0.1)
    torch.testing.assert_close(strategy(*d2).neg, InfoNCE(0.1)(*d2).neg, rtol=1e-6, atol=1e-7)


def test_training_moves_tau_and_the_state_dict_keeps_it():
    criterion = AlphaCLLoss(build_strategy("infonce", tau=0.5, learnable_tau=True))
    optimizer = torch.optim.SGD(criterion.parameters(), lr=1.0)
    views = random_views(0, n=16, d=8, dtype=torch.float32)
    taus = []
    for _ in range(20):
        optimizer.zero_grad()
        criterion(*views).backward()
        optimizer.step()
        taus.append(criterion.last_stats["tau"].item())
    assert taus == sorted(taus, reverse=True)  # these views are separated: τ falls, to sharpen
    assert taus[-1] < 0.4
    buffer = io.BytesIO()
    torch.save(criterion.state_dict(), buffer)
    buffer.seek(0)
    resumed = AlphaCLLoss(Tempered(InfoNCE()))
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(resumed.strategy.tau, criterion.strategy.tau)
    assert resumed(*views).item() == criterion(*views).item()


def test_a_schedule_sets_it():
    criterion = AlphaCLLoss(Tempered(Direct(0.5), learnable=False))
    views = random_views(0, n=5, d=3)
    assert not list(criterion.parameters())
    criterion.strategy.tau = 0.2
    assert criterion(*views).item() == pytest.approx(AlphaCLLoss(Direct(0.2))(*views).item(), rel=1e-6)
    assert criterion.state_dict()["strategy.log_tau"].exp().item() == pytest.approx(0.2)


def test_it_declares_what_its_strategy_declares():
    assert AlphaCLLoss(Tempered(DHEL())).negatives == "same"
    assert AlphaCLLoss(Tempered(DHEL(include_augs=False))).symmetric is False
    assert AlphaCLLoss(Tempered(InfoNCE())).negatives == "both"


@every_learnable
def test_it_compiles_without_graph_breaks(strategy):
    torch._dynamo.reset()
    criterion = AlphaCLLoss(tempered(strategy))
    inputs = [criterion.strategy.log_tau, *random_views(0, n=5, d=3)]
    expected = torch.autograd.grad(criterion(*inputs[1:]), inputs)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for got, e in zip(torch.autograd.grad(compiled(*inputs[1:]), inputs), expected, strict=True):
        assert relative_error(got, e) < 1e-12


def test_repr_shows_the_options():
    shown = repr(AlphaCLLoss(Tempered(InfoNCE(0.2), bounds=[0.05, 1])))
    assert "InfoNCE(tau=1.0, eps=1.0) in units of tau=0.2, learnable=True, bounds=(0.05, 1.0)" in shown


class OneParameter(torch.nn.Module):
    """A user's own strategy with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.factored = Entropy()

    def forward(self, d2_pos, d2_neg):
        weights = Entropy()(d2_pos, d2_neg)
        return PairWeights(weights.neg, value=self.scale * weights.value)


def test_a_users_parameter_learns_through_the_value_but_not_in_a_ring():
    strategy = OneParameter()
    loss = AlphaCLLoss(strategy)(*random_views(0, n=4, d=3))
    loss.backward()
    assert strategy.scale.grad.item() == pytest.approx(loss.item(), rel=1e-6)
    with pytest.raises(ValueError, match=r'gather_distributed: expected .* parameters of its own, got "ring"'):
        AlphaCLLoss(strategy, gather_distributed="ring")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Tempered(KCL()), TypeError, r"strategy: expected one with a temperature \(InfoNCE, .*, got KCL"),
        (lambda: Tempered(Family(torch.log, torch.exp)), TypeError, r"strategy: expected one with a temperature"),
        (lambda: Tempered(InfoNCE), TypeError, r"strategy: expected one with a temperature .* got <class"),
        (lambda: Tempered("infonce"), TypeError, r"strategy: expected one with a temperature .* got 'infonce'"),
        (lambda: Tempered(Direct()), ValueError, r"learnable: expected False with Direct\(.* set directly"),
        (lambda: Tempered(Inverse(exact=False)), ValueError, r"learnable: expected False with Inverse"),
        (lambda: Tempered(InfoNCE(), learnable=1), TypeError, r"learnable: expected True or False, got 1"),
        (lambda: Tempered(InfoNCE(), bounds=0.1), TypeError, r"bounds: expected \(least, largest\) τ, got 0.1"),
        (lambda: Tempered(InfoNCE(), bounds=(1.0, 0.1)), ValueError, r"bounds: expected \(least, largest\) τ, got"),
        (lambda: Tempered(InfoNCE(), bounds=(0.0, 1.0)), ValueError, r"bounds\[0\]: expected a finite number > 0"),
        (lambda: Tempered(InfoNCE(5.0), bounds=(0.1, 1.0)), ValueError, r"bounds: expected .* tau 5.0, got \(0.1, 1.0"),
        (lambda: build_strategy("direct", learnable_tau=True), ValueError, r"learnable: expected False with Direct"),
        (lambda: build_strategy("infonce", learnable_tau="yes"), TypeError, r"learnable_tau: expected True or False"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("tau", "error"), [(0.0, ValueError), (1000.0, ValueError), ("high", TypeError)])
def test_a_temperature_out_of_range_is_refused(tau, error):
    strategy = Tempered(InfoNCE())
    with pytest.raises(error, match=r"tau: expected a"):
        strategy.tau = tau
    assert strategy.tau.item() == pytest.approx(0.5)
