"""A gradient through α holds the spread of distances at the size of τ, for the reason that the experiment gives."""

import json

import torch
from torch.nn.functional import normalize

from alphacl_plugins import AlphaCLLoss
from through_alpha import Settings, main, train


def test_the_weights_are_those_of_the_formula():
    torch.manual_seed(0)
    tau, d2_neg = 0.3, torch.rand(1, 9, dtype=torch.float64, requires_grad=True)
    alpha = torch.softmax(-d2_neg / tau, dim=1)
    (slope,) = torch.autograd.grad(-(alpha * d2_neg).sum(), d2_neg)
    torch.testing.assert_close(-slope, alpha * (1 - (d2_neg - (alpha * d2_neg).sum()) / tau))
    views = [normalize(view, dim=1).requires_grad_() for view in torch.randn(2, 6, 4, dtype=torch.float64)]
    fixed, through = (AlphaCLLoss("entropy", tau=tau, detach_alpha=flag) for flag in (True, False))
    assert (
        torch.autograd.grad(fixed(*views), views)[0].sub(torch.autograd.grad(through(*views), views)[0]).abs().max() > 0
    )


def test_through_alpha_the_spread_follows_tau_and_with_alpha_fixed_it_does_not():
    fixed, through = ({tau: train(tau, flag, 100, seed=0) for tau in (0.05, 0.1)} for flag in (True, False))
    assert 0.8 < fixed[0.05]["spread"] / fixed[0.1]["spread"] < 1.4
    assert 0.4 < through[0.05]["spread"] / through[0.1]["spread"] < 0.65
    assert through[0.05]["effective_negatives"] > 2 * fixed[0.05]["effective_negatives"]


def test_it_saves_numbers_and_picture(tmp_path):
    report = main(Settings(steps=2, seeds=1, output=tmp_path))
    assert json.loads((tmp_path / "through_alpha.json").read_text(encoding="utf-8"))["trainings"] == report["trainings"]
    assert (tmp_path / "through_alpha.png").read_bytes().startswith(b"\x89PNG")
