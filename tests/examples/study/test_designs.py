"""The designs of α that the study tried: each is what its formula says, and contains registered strategies."""

import pytest
import torch
from torch import Tensor

import designs
from alphacl_lightly import AlphaCLLoss
from alphacl_plugins import strategies

D2_POS = torch.tensor([0.2, 0.5], dtype=torch.float64)
D2_NEG = torch.tensor([[0.1, 0.9, 1.3, torch.inf], [0.4, 0.6, 1.0, 1.1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("design", "same"),
    [
        (designs.curved(0.1, curvature=0), strategies.Entropy(0.1)),
        (designs.curved(0.1, curvature=1), strategies.Direct(tau=0.2, p=4)),
        (designs.mass_power(0.1, kappa=0), strategies.Entropy(0.1)),
        (designs.mass_power(0.1, kappa=1, tau_mass=1.0), strategies.DualTemperature(0.1, 1.0)),
        (designs.SoftMasked(0.1, margin=50.0), strategies.Entropy(0.1)),
        (designs.SoftMasked(0.1, margin=0.05, width=1e-5), strategies.Masked(strategies.Entropy(0.1), 0.05)),
    ],
    ids=str,
)
def test_a_design_contains_registered_strategies(design, same):
    torch.testing.assert_close(negatives(design), negatives(same))


@pytest.mark.parametrize("curvature", [-0.5, 0.5, 1.5])
def test_designs_of_any_curvature_have_one_slope_where_most_negatives_are(curvature):
    d2 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(designs.curved(0.1, curvature).log_weight(d2), d2)
    torch.testing.assert_close(slope, torch.full_like(slope, -10))


def test_a_soft_mask_leaves_half_of_the_weight_at_its_margin():
    soft = negatives(designs.SoftMasked(0.1, margin=0.1, width=0.05))[1]
    plain = negatives(strategies.Entropy(0.1))[1]
    ratios = soft / plain
    torch.testing.assert_close(
        ratios[0] / ratios[3], torch.sigmoid(torch.tensor(0.0)) / torch.sigmoid(D2_NEG[1, 3] * 20 - 8)
    )


@pytest.mark.parametrize("name", ["curved", "mass_power", "SoftMasked"])
def test_a_design_trains_by_its_import_path(name):
    z = torch.randn(16, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    AlphaCLLoss(f"designs.{name}", tau=0.2)(z, z.flip(1)).backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().sum() > 0


def negatives(strategy) -> Tensor:
    weights: Tensor = strategy(D2_POS, D2_NEG).neg
    return weights.masked_fill(torch.inf == D2_NEG, 0.0)
