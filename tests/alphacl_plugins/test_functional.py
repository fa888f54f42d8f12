"""Distances, energy and covariance against loops; normalisation at its edges."""

import pytest
import torch
from oracles import half_squared, is_finite, random_views, relative_error

from alphacl_plugins import contrastive_covariance, energy, squared_distances, strategies
from alphacl_plugins.functional import l2_normalize


def random_alpha(n, seed=0):
    return torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_squared_distances_by_loops():
    a, b = random_views(0, n=4, d=3)
    b = b[:3]
    loops = torch.stack([torch.stack([half_squared(x, y) for y in b]) for x in a])
    assert relative_error(squared_distances(a, b), loops) < 1e-13


def test_squared_distances_of_duplicates_are_not_negative():
    z = l2_normalize(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)))
    assert float(squared_distances(z, z).min()) >= 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_of_half_precision_are_formed_in_float32_even_under_autocast(dtype):
    z = random_views(0, n=6, d=32)[0].detach().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        d2 = squared_distances(z, z)
    assert d2.dtype == torch.float32
    assert relative_error(d2, squared_distances(z.double(), z.double())) < 1e-6


def test_an_offset_does_not_cost_precision():
    z = random_views(6, n=20, d=8)[0].detach() + 1000
    assert (
        relative_error(
            squared_distances(z.float(), z.float()), squared_distances(z.float().double(), z.float().double())
        )
        < 1e-5
    )


def test_energy_by_loops_ignores_the_diagonal_and_holds_alpha_fixed():
    z, z_aug = random_views(1, n=5, d=3)
    alpha = random_alpha(5).requires_grad_()
    loops = sum(
        alpha[i, j].detach() * (half_squared(z[i], z[j]) - half_squared(z[i], z_aug[i]))
        for i in range(5)
        for j in range(5)
        if i != j
    )
    value = energy(z, z_aug, alpha)
    assert value.item() == pytest.approx(loops.item(), rel=1e-12)
    value.backward()
    assert alpha.grad is None
    for got, expected in zip((z.grad, z_aug.grad), torch.autograd.grad(loops, (z, z_aug)), strict=True):
        assert relative_error(got, expected) < 1e-12


def test_energy_of_a_strategy_is_that_of_its_negatives():
    z, z_aug = random_views(2, n=5, d=3)
    for strategy in (strategies.Direct(), strategies.DHEL(), strategies.KCL()):
        d2 = squared_distances(z, z).detach().masked_fill(torch.eye(5, dtype=torch.bool), torch.inf)
        alpha = strategy((z - z_aug).detach().square().sum(dim=1) / 2, d2).neg
        assert energy(z, z_aug, strategy).item() == pytest.approx(energy(z, z_aug, alpha).item(), rel=1e-13)


def test_contrastive_covariance_by_loops():
    a, a_aug = (t.detach() for t in random_views(3, n=5, d=3))
    b, b_aug = (t.detach() for t in random_views(4, n=5, d=2))
    alpha = random_alpha(5)
    loops = torch.zeros(3, 2, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            if i != j:
                between = torch.outer(a[i] - a[j], b[i] - b[j])
                loops += alpha[i, j] * (between - torch.outer(a[i] - a_aug[i], b[i] - b_aug[i]))
    assert relative_error(contrastive_covariance(a, b, alpha, a_aug, b_aug), loops) < 1e-12


def test_l2_normalize_gives_unit_rows_from_tiny_to_huge():
    z = torch.tensor([[3.0, 4.0], [3e-11, 4e-11], [3e30, 4e30], [1.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
    torch.testing.assert_close(l2_normalize(z), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_l2_normalize_keeps_zero_rows_with_zero_gradient(dtype):
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1e-30, 0.0]], dtype=dtype, requires_grad=True)
    unit = l2_normalize(z)
    (unit * torch.tensor([[1.0, 2.0]])).sum().backward()
    torch.testing.assert_close(unit.detach().double(), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]).double())
    torch.testing.assert_close(z.grad.double(), torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]).double())


def test_l2_normalize_gradient():
    z = random_views(5, n=4, d=3)[0]
    assert torch.autograd.gradcheck(l2_normalize, z)


def test_l2_normalize_in_half_precision_has_a_representable_gradient():
    z = torch.full((1, 4), 1e-4, dtype=torch.float16, requires_grad=True)
    (l2_normalize(z) * torch.tensor([1.0, -1.0, 1.0, -1.0])).sum().backward()
    assert is_finite(z.grad)


Z = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: squared_distances(Z.long(), Z), TypeError, r"a: expected a floating-point tensor, got torch.int64"),
        (lambda: squared_distances(Z, [1.0]), TypeError, r"b: expected a tensor \[rows, columns\], got list"),
        (lambda: squared_distances(Z, torch.zeros(3, 4)), ValueError, r"b: expected 2 columns as a has, got \(3, 4\)"),
        (lambda: squared_distances(torch.zeros(3), Z), ValueError, r"a: expected shape \[rows, columns\], got \(3,\)"),
        (lambda: energy(Z, Z[:2], Z), ValueError, r"z_aug: expected the shape of z \(3, 2\), got \(2, 2\)"),
        (lambda: energy(Z[:1], Z[:1], Z), ValueError, r"z: expected at least 2 rows, got shape \(1, "),
        (lambda: energy(Z, Z, Z), ValueError, r"alpha: expected shape \[3, 3\], got \(3, 2\)"),
        (
            lambda: energy(Z, Z, 0.5),
            TypeError,
            r"alpha: expected a tensor \[N, N\], a strategy object or its name, got 0.5",
        ),
        (lambda: energy(Z, Z, strategies.Direct), TypeError, r"alpha: expected a .* or a strategy object, got <class"),
        (lambda: energy(Z, Z, lambda p, n: n), TypeError, r"strategy: expected one that returns PairWeights"),
        (
            lambda: contrastive_covariance(Z, Z[:2], Z, Z, Z[:2]),
            ValueError,
            r"b: expected 3 rows as a has, got \(2, 2\)",
        ),
        (
            lambda: contrastive_covariance(Z, Z, "uniform", Z, Z),
            TypeError,
            r"alpha: expected a tensor \[3, 3\], got 'un",
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()
