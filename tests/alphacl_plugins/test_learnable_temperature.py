"""A temperature that learns: the same α, and for log τ the gradient of the loss in its usual scale, L/τ."""

import dataclasses
import io
import math

import pytest
import torch
from oracles import random_distances, random_views, relative_error, strategy_id

from alphacl_plugins import AlphaCLLoss, PairWeights, build_strategy
from alphacl_plugins.strategies import (
    DHEL,
    KCL,
    MINE,
    Direct,
    Entropy,
    Family,
    InfoNCE,
    Inverse,
    InverseExact,
    LearnableTemperature,
    SoftTriplet,
    Square,
)

LEARNABLE = [
    InfoNCE(0.2),
    InfoNCE(0.2, eps=0.0),
    Entropy(0.3),
    SoftTriplet(0.3, 0.4),
    DHEL(0.2),
    Square(0.4),
    InverseExact(0.3),
]
SET_DIRECTLY = [Direct(0.3, p=3.0), Direct(0.3, normalize=False), Inverse(0.4)]
every_learnable = pytest.mark.parametrize("strategy", LEARNABLE, ids=strategy_id)
every_one = pytest.mark.parametrize("strategy", LEARNABLE + SET_DIRECTLY, ids=strategy_id)


def with_log_tau(strategy, **options):
    return LearnableTemperature(strategy, learnable=strategy in LEARNABLE, **options)


def fixed(module):
    """The strategy at the temperature in force, as a number."""
    return dataclasses.replace(module.strategy, tau=float(module.tau))


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
    alpha = type(strategy)(tau=float(tau))(d2_pos[None], d2_neg[None]).neg[0]
    cost = alpha.square() / 2 if isinstance(strategy, Square) else alpha ** (1 - strategy.gamma) / (strategy.gamma - 1)
    return d2_pos / tau - (alpha * d2_neg / tau + cost).sum()


@every_one
@pytest.mark.parametrize("tau", [0.05, 0.7, 20.0])
def test_alpha_and_value_are_those_of_the_strategy_at_that_temperature(strategy, tau):
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=6)
    d2_neg[0, 2] = math.inf
    moving = with_log_tau(strategy)
    moving.tau = tau
    assert moving.tau.item() == pytest.approx(tau, rel=1e-6)
    for answer in (moving, moving.current(), moving.current(detach=False)):
        for got, expected in zip(answer(d2_pos, d2_neg), fixed(moving)(d2_pos, d2_neg), strict=True):
            if expected is not None:
                assert relative_error(got, expected) < 1e-11


@every_one
def test_alpha_has_a_gradient_for_log_tau_on_request_only(strategy):
    moving = with_log_tau(strategy)
    row = random_distances(0, anchors=5, candidates=6)
    assert not moving(*row).neg.requires_grad
    assert not moving.current()(*row).neg.requires_grad
    assert moving.current(detach=False)(*row).neg.requires_grad == moving.learnable
    assert not moving.current().tau.requires_grad
    assert not moving.tau.requires_grad
    assert moving.tau.shape == moving.current().tau.shape == ()


@every_learnable
def test_log_tau_gets_the_gradient_of_the_loss_in_its_usual_scale(strategy):
    d2_pos, d2_neg = random_distances(1, anchors=4, candidates=6)
    moving = with_log_tau(strategy)
    moving(d2_pos, d2_neg).value.sum().backward()

    def total(log_tau):
        return sum(usual_loss(strategy, torch.exp(log_tau), p, n) for p, n in zip(d2_pos, d2_neg, strict=True))

    step = 1e-5
    here = moving.log_tau.detach().double()[0]
    numeric = (total(here + step) - total(here - step)) / (2 * step)
    assert moving.log_tau.grad.item() == pytest.approx(float(numeric), rel=1e-6)


@every_one
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0, 2, 1])])
def test_embeddings_get_the_gradient_of_the_fixed_strategy(strategy, labels):
    views = [*random_views(0, n=5, d=3), *random_views(1, n=5, d=3)]
    module = with_log_tau(strategy)
    loss = AlphaCLLoss(fixed(module))(*views, labels=labels)
    expected = torch.autograd.grad(loss, views)
    moving = AlphaCLLoss(module)(*views, labels=labels)
    assert relative_error(moving, loss) < 1e-11
    for got, e in zip(torch.autograd.grad(moving, views), expected, strict=True):
        assert relative_error(got, e) < 1e-10


@pytest.mark.parametrize("strategy", [s for s in LEARNABLE if s.separable], ids=strategy_id)
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0, 2, 1])])
def test_in_a_ring_it_learns_the_same(strategy, labels):
    views = random_views(0, n=5, d=3)
    gradients, losses = [], []
    for gather in (False, "ring"):
        criterion = AlphaCLLoss(with_log_tau(strategy), gather_distributed=gather)
        losses.append(criterion(*views, labels=labels))
        gradients.append(torch.autograd.grad(losses[-1], [criterion.strategy.log_tau, *views]))
        assert criterion.last_stats["tau"].item() == pytest.approx(strategy.tau)
    assert relative_error(losses[1], losses[0]) < 1e-12
    for got, expected in zip(*gradients, strict=True):
        assert relative_error(got, expected) < 4 * torch.finfo(got.dtype).eps


@every_learnable
def test_through_alpha_the_gradient_is_exact_too(strategy):
    criterion = AlphaCLLoss(with_log_tau(strategy), detach_alpha=False)
    views = random_views(2, n=4, d=3)

    def loss(log_tau, z, z_aug):
        return torch.func.functional_call(criterion, {"strategy.log_tau": log_tau}, (z, z_aug))

    log_tau = criterion.strategy.log_tau.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(loss, (log_tau, *views), atol=1e-6)


def test_anchors_without_negatives_teach_nothing():
    criterion = AlphaCLLoss(with_log_tau(InfoNCE(0.2)))
    criterion(*random_views(0, n=4, d=3), labels=torch.zeros(4, dtype=torch.long)).backward()
    assert criterion.strategy.log_tau.grad == 0


@pytest.mark.parametrize(
    ("separated", "at_bound", "moves"), [(True, 0.1, False), (False, 0.1, True), (True, 1.0, True)]
)
def test_at_a_bound_only_the_way_back_is_open(separated, at_bound, moves):
    strategy = LearnableTemperature(InfoNCE(at_bound), bounds=(0.1, 1.0))
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
    free, bounded = (LearnableTemperature(InfoNCE(tau), bounds=bounds) for bounds in ((0.01, 100.0), (0.1, 1.0)))
    for strategy in (free, bounded):
        AlphaCLLoss(strategy)(*views).backward()
    slope = free.log_tau.grad
    outward = slope > 0 if bound == "lower" else slope < 0
    torch.testing.assert_close(bounded.log_tau.grad, torch.zeros(1) if outward else slope)


def test_beyond_a_bound_the_bound_holds():
    strategy = LearnableTemperature(InfoNCE(0.2), bounds=(0.1, 1.0))
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
    resumed = AlphaCLLoss(LearnableTemperature(InfoNCE()))
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(resumed.strategy.tau, criterion.strategy.tau)
    assert resumed(*views).item() == criterion(*views).item()


def test_a_schedule_sets_it():
    criterion = AlphaCLLoss(LearnableTemperature(Direct(0.5), learnable=False))
    views = random_views(0, n=5, d=3)
    assert not list(criterion.parameters())
    criterion.strategy.tau = 0.2
    assert criterion(*views).item() == pytest.approx(AlphaCLLoss(Direct(0.2))(*views).item(), rel=1e-6)
    assert criterion.state_dict()["strategy.log_tau"].exp().item() == pytest.approx(0.2)


def test_it_declares_what_its_strategy_declares():
    assert AlphaCLLoss(LearnableTemperature(DHEL())).negatives == "same"
    assert AlphaCLLoss(LearnableTemperature(DHEL(include_augs=False))).symmetric is False
    assert AlphaCLLoss(LearnableTemperature(InfoNCE())).negatives == "both"


@every_learnable
def test_it_compiles_without_graph_breaks(strategy):
    torch._dynamo.reset()
    criterion = AlphaCLLoss(with_log_tau(strategy))
    inputs = [criterion.strategy.log_tau, *random_views(0, n=5, d=3)]
    expected = torch.autograd.grad(criterion(*inputs[1:]), inputs)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for got, e in zip(torch.autograd.grad(compiled(*inputs[1:]), inputs), expected, strict=True):
        assert relative_error(got, e) < 4 * torch.finfo(got.dtype).eps


def test_repr_shows_the_options():
    shown = repr(AlphaCLLoss(LearnableTemperature(InfoNCE(0.2), bounds=[0.05, 1])))
    assert "InfoNCE(tau=0.2, eps=1.0), tau=0.2, learnable=True, bounds=(0.05, 1.0)" in shown


class OneParameter(torch.nn.Module):
    """A user's own strategy with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, d2_pos, d2_neg):
        weights = Entropy()(d2_pos, d2_neg)
        return PairWeights(weights.neg, value=self.scale * weights.value)


def test_a_users_parameter_learns_through_the_value_but_not_in_a_ring():
    strategy = OneParameter()
    loss = AlphaCLLoss(strategy)(*random_views(0, n=4, d=3))
    loss.backward()
    assert strategy.scale.grad.item() == pytest.approx(loss.item(), rel=1e-6)
    with pytest.raises(ValueError, match=r'gather_distributed: expected .*got "ring"'):
        AlphaCLLoss(strategy, gather_distributed="ring")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: LearnableTemperature(KCL()),
            TypeError,
            r"strategy: expected one with a temperature, .* got KCL",
        ),
        (
            lambda: LearnableTemperature(Family(torch.log, torch.exp)),
            TypeError,
            r"strategy: expected one with a temperature",
        ),
        (lambda: LearnableTemperature(InfoNCE), TypeError, r"strategy: expected one with a temperature, .* got <class"),
        (
            lambda: LearnableTemperature("infonce"),
            TypeError,
            r"strategy: expected one with a temperature, .* got 'infonce'",
        ),
        (
            lambda: LearnableTemperature(MINE()),
            TypeError,
            r"strategy: expected one with a temperature, .* got MINE\(\)",
        ),
        (
            lambda: LearnableTemperature(Direct()),
            ValueError,
            r"learnable: expected False with Direct\(.* no loss of its own",
        ),
        (lambda: LearnableTemperature(Inverse()), ValueError, r"learnable: expected False with Inverse"),
        (lambda: LearnableTemperature(InfoNCE(), learnable=1), TypeError, r"learnable: expected True or False, got 1"),
        (
            lambda: LearnableTemperature(InfoNCE(), bounds=0.1),
            TypeError,
            r"bounds: expected \(least, largest\), got 0.1",
        ),
        (
            lambda: LearnableTemperature(InfoNCE(), bounds=(1.0, 0.1)),
            ValueError,
            r"bounds: expected \(least, largest\), got",
        ),
        (
            lambda: LearnableTemperature(InfoNCE(), bounds=(0.0, 1.0)),
            ValueError,
            r"bounds\[0\]: expected a finite number > 0",
        ),
        (
            lambda: LearnableTemperature(InfoNCE(5.0), bounds=(0.1, 1.0)),
            ValueError,
            r"bounds: expected .* tau 5.0, got \(0.1, 1.0",
        ),
        (lambda: build_strategy("infonce", learnable_tau="yes"), TypeError, r"learnable_tau: expected True or False"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_log_tau_has_the_shape_that_fsdp_takes():
    for learnable in (True, False):
        module = LearnableTemperature(InfoNCE(0.2), learnable=learnable)
        assert module.log_tau.shape == (1,)
        assert module.log_tau.dtype == torch.float32
        assert isinstance(module.log_tau, torch.nn.Parameter) == learnable


@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.bfloat16(),
        lambda module: module.half(),
        lambda module: module.double(),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.to("cpu", torch.float64),
        lambda module: torch.nn.Sequential(module).bfloat16()[0],
    ],
)
def test_casts_leave_log_tau(cast, learnable):
    module = LearnableTemperature(InfoNCE(0.2), learnable=learnable)
    before = module.log_tau.detach().clone()
    module.log_tau.grad = torch.ones(1) if learnable else None
    moved = cast(module)
    assert moved is module
    assert module.log_tau.dtype == torch.float32
    assert torch.equal(module.log_tau, before)
    assert not learnable or module.log_tau.grad.dtype == torch.float32


def test_log_tau_moves_to_devices():
    module = LearnableTemperature(InfoNCE(0.2)).to("meta")
    assert module.log_tau.device.type == "meta"
    assert module.to_empty(device="cpu").log_tau.device.type == "cpu"
    assert LearnableTemperature(InfoNCE(0.2)).to("meta", torch.bfloat16).log_tau.dtype == torch.float32


def test_the_default_dtype_does_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        assert LearnableTemperature(InfoNCE(0.2)).log_tau.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("steps", [1, 2])
def test_small_steps_of_an_optimiser_move_tau_in_bfloat16(steps):
    criterion = AlphaCLLoss(LearnableTemperature(InfoNCE(0.2))).bfloat16()
    optimizer = torch.optim.Adam(criterion.parameters(), lr=1e-3)
    before = criterion.strategy.log_tau.item()
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(*random_views(0, n=8, d=4, dtype=torch.bfloat16)).backward()
        optimizer.step()
    assert criterion.strategy.log_tau.item() == pytest.approx(before - steps * 1e-3, rel=1e-4)


def test_tau_can_be_set_from_what_it_is():
    strategy = LearnableTemperature(InfoNCE(0.2), bounds=(0.17, 1.0))
    strategy.tau *= 0.9
    assert strategy.tau.item() == pytest.approx(0.18)
    strategy.tau *= 0.9  # beyond the bound
    assert strategy.tau.item() == pytest.approx(0.17)
    assert strategy.log_tau.item() == pytest.approx(math.log(0.17))
    strategy.tau = torch.tensor(0.5, dtype=torch.float64)
    assert strategy.tau.item() == pytest.approx(0.5)
    assert strategy.log_tau.dtype == torch.float32
    with pytest.raises(TypeError, match=r"tau: expected a finite number > 0, got tensor\(\[0.5"):
        strategy.tau = torch.tensor([0.5])


def test_a_users_dataclass_can_learn():
    @dataclasses.dataclass(frozen=True)
    class Mine:
        tau: float = 0.2
        has_loss = True

        def __call__(self, d2_pos, d2_neg):
            d2_neg.div_(-self.tau)  # its own copy
            return PairWeights(torch.softmax(d2_neg, dim=1))

    views = random_views(0, n=5, d=3)
    criteria = [AlphaCLLoss(LearnableTemperature(strategy)) for strategy in (Mine(), Entropy(0.2))]
    for criterion in criteria:
        criterion(*views).backward()
    torch.testing.assert_close(criteria[0].strategy.log_tau.grad, criteria[1].strategy.log_tau.grad)


@pytest.mark.parametrize(("tau", "error"), [(0.0, ValueError), (1000.0, ValueError), ("high", TypeError)])
def test_a_temperature_out_of_range_is_refused(tau, error):
    strategy = LearnableTemperature(InfoNCE())
    with pytest.raises(error, match=r"tau: expected a"):
        strategy.tau = tau
    assert strategy.tau.item() == pytest.approx(0.5)
