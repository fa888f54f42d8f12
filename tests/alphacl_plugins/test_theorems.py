"""The paper's Theorems 1 and 2, for every member of the φ/ψ family."""

import math

import numpy as np
import pytest
import torch
from oracles import random_distances, random_views, relative_error
from scipy.optimize import minimize

from alphacl_plugins import AlphaCLLoss, contrastive_covariance, energy
from alphacl_plugins.strategies import (
    MINE,
    Entropy,
    Family,
    InfoNCE,
    LiftedStructured,
    ModifiedTriplet,
    NPlus1Tuplet,
    SoftTriplet,
    Triplet,
    TripletContrastive,
)

# strategy, φ, ψ as the paper's Figure 1 has them, and the τ of an exponential ψ
MEMBERS = [
    (InfoNCE(0.3, eps=1.0), lambda x: 0.3 * torch.log(1.0 + x), lambda x: torch.exp(x / 0.3), 0.3),
    (InfoNCE(0.7, eps=0.2), lambda x: 0.7 * torch.log(0.2 + x), lambda x: torch.exp(x / 0.7), 0.7),
    (InfoNCE(0.3, eps=0.0), lambda x: 0.3 * torch.log(x), lambda x: torch.exp(x / 0.3), 0.3),
    (MINE(), torch.log, torch.exp, 1.0),
    (Triplet(0.2), lambda x: x, lambda x: torch.clamp(x + 0.2, min=0), None),
    (SoftTriplet(0.4, 0.3), lambda x: 0.4 * torch.log(1 + x), lambda x: torch.exp(x / 0.4 + 0.3), 0.4),
    (NPlus1Tuplet(), lambda x: torch.log(1 + x), torch.exp, 1.0),
    (LiftedStructured(1.0), lambda x: torch.clamp(torch.log(x), min=0) ** 2, lambda x: torch.exp(x + 1), 1.0),
    (ModifiedTriplet(3.0), lambda x: x, lambda x: torch.sigmoid(3 * x), None),
    (TripletContrastive(), lambda x: x, lambda x: x, None),
]
EXPONENTIAL = [member for member in MEMBERS if member[3] is not None]


def ids(members):
    return [repr(member[0]) for member in members]


def loss_by_definition(phi, psi, z, z_aug):
    """Eq. 1, pair by pair."""
    total = 0.0
    for i in range(len(z)):
        d2_pos = (z[i] - z_aug[i]).square().sum() / 2
        xi = sum(psi(d2_pos - (z[i] - z[j]).square().sum() / 2) for j in range(len(z)) if j != i)
        total = total + phi(xi)
    return total


@pytest.mark.parametrize(("strategy", "phi", "psi", "tau"), MEMBERS, ids=ids(MEMBERS))
@pytest.mark.parametrize("seed", range(3))
def test_theorem_1_the_losses_gradient_is_that_of_minus_the_energy(strategy, phi, psi, tau, seed):
    z, z_aug = random_views(seed, n=6, d=3)
    of_loss = torch.autograd.grad(loss_by_definition(phi, psi, z, z_aug), (z, z_aug))
    for alpha in (strategy, Family(phi, psi)):
        of_energy = torch.autograd.grad(energy(z, z_aug, alpha), (z, z_aug))
        for got, expected in zip(of_energy, of_loss, strict=True):
            assert relative_error(-got, expected) < 1e-12


@pytest.mark.parametrize(("strategy", "phi", "psi", "tau"), MEMBERS, ids=ids(MEMBERS))
def test_the_loss_module_has_the_members_value_and_gradient(strategy, phi, psi, tau):
    z, z_aug = random_views(0, n=5, d=3)
    module = AlphaCLLoss(strategy, negatives="same", symmetric=False, l2_normalize=False)
    expected = loss_by_definition(phi, psi, z, z_aug) / 5
    loss = module(z, z_aug)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    got = torch.autograd.grad(loss, (z, z_aug))
    for g, e in zip(got, torch.autograd.grad(expected, (z, z_aug)), strict=True):
        assert relative_error(g, e) < 1e-12


@pytest.mark.parametrize(("strategy", "phi", "psi", "tau"), MEMBERS, ids=ids(MEMBERS))
def test_family_by_autograd_gives_the_closed_weights(strategy, phi, psi, tau):
    d2_pos, d2_neg = random_distances(1, anchors=4, candidates=6)
    by_autograd, closed = Family(phi, psi)(d2_pos, d2_neg), strategy(d2_pos, d2_neg)
    assert relative_error(by_autograd.neg, closed.neg) < 1e-12
    assert relative_error(by_autograd.value, closed.value) < 1e-12


def numerical_min_player(d2_pos, d2_neg, tau, mass):
    """argmin of E_α - R_H(α) for one anchor, by a generic constrained minimiser."""
    cost = (d2_neg - d2_pos).numpy()
    result = minimize(
        lambda a: float(a @ cost + tau * np.sum(a * np.log(a))),
        x0=np.full(len(cost), mass / len(cost)),
        jac=lambda a: cost + tau * (np.log(a) + 1),
        bounds=[(1e-12, None)] * len(cost),
        constraints={"type": "eq", "fun": lambda a: a.sum() - mass, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return torch.from_numpy(result.x)


@pytest.mark.parametrize(("strategy", "phi", "psi", "tau"), EXPONENTIAL, ids=ids(EXPONENTIAL))
@pytest.mark.parametrize("seed", range(3))
def test_theorem_2_alpha_minimises_the_energy_minus_its_entropy(strategy, phi, psi, tau, seed):
    d2_pos, d2_neg = random_distances(seed, anchors=2, candidates=5)
    weights = strategy(d2_pos, d2_neg).neg
    for i in range(2):
        xi = psi(d2_pos[i] - d2_neg[i]).sum().requires_grad_()
        (phi_slope,) = torch.autograd.grad(phi(xi), xi)
        mass = float((xi * phi_slope / tau).detach())
        assert weights[i].sum().item() == pytest.approx(mass, rel=1e-12)
        assert mass > 0.01  # else the comparison below would be empty
        numerical = numerical_min_player(d2_pos[i], d2_neg[i], tau, mass)
        torch.testing.assert_close(weights[i], numerical, rtol=0, atol=1e-5 * mass)


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_entropy_is_infonce_without_the_positive_in_the_denominator(tau):
    d2_pos, d2_neg = random_distances(0, anchors=4, candidates=9)
    entropy, infonce = Entropy(tau)(d2_pos, d2_neg), InfoNCE(tau, eps=0.0)(d2_pos, d2_neg)
    assert relative_error(entropy.neg, infonce.neg) < 1e-12
    assert relative_error(entropy.value, infonce.value) < 1e-12


def test_energy_is_half_the_trace_of_the_contrastive_covariance():
    z, z_aug = random_views(4, n=7, d=3)
    alpha = torch.rand(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trace = contrastive_covariance(z, z, alpha, z_aug, z_aug).trace()
    assert energy(z, z_aug, alpha).item() == pytest.approx(trace.item() / 2, rel=1e-12)
    assert not math.isclose(trace.item(), 0.0, abs_tol=1e-3)
