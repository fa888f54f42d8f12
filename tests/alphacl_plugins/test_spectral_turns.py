"""α and the linear embedding by turns: where they end, against autograd, a search over all angles, and loops."""

import math
import re
from itertools import pairwise

import pytest
import torch

from alphacl_plugins import strategies
from alphacl_plugins.spectral import ContrastiveCovariance, leading_eigenvectors, take_turns


def draw(seed, n=60, d=8, noise=0.5):
    """Three clusters and a second view."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(3, d, generator=generator, dtype=torch.float64)
    x = centres[torch.arange(n) % 3] + torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, x + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)


def unit_of(x, n_components):
    """Root mean half squared distance of all pairs, i = j included, in the PCA of x."""
    centred = x - x.mean(dim=0)
    return (torch.linalg.svdvals(centred)[:n_components].square().sum() / len(x)).sqrt()


def infonce(components, x, x_aug, tau, unit):
    """Eq. 2, InfoNCE in the paper's scale, pair by pair, summed over anchors."""
    z, z_aug = x @ components.T / unit, x_aug @ components.T / unit
    total = z.new_zeros(())
    for i in range(len(z)):
        d2_pos = (z[i] - z_aug[i]).square().sum() / 2
        others = [j for j in range(len(z)) if j != i]
        d2_neg = (z[i] - z[others]).square().sum(dim=1) / 2
        total = total + tau * torch.log(1 + torch.exp((d2_pos - d2_neg) / tau).sum())
    return total


@pytest.mark.parametrize("tau", [0.2, 0.5, 2.0])
@pytest.mark.parametrize("n_components", [1, 3])
def test_the_turns_end_at_a_stationary_point_of_infonce(n_components, tau):
    x, x_aug = draw(0)
    unit = unit_of(x, n_components)
    found = take_turns(x, x_aug, strategies.InfoNCE(tau), n_components, tol=1e-7, max_iter=500)
    assert found.converged
    w = found.components.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(infonce(w, x, x_aug, tau, unit), w)
    tangent = gradient - gradient @ found.components.T @ found.components  # rotations within the span change nothing
    assert tangent.norm() < 1e-6 * gradient.norm()
    start = leading_eigenvectors((x - x.mean(dim=0)).T @ (x - x.mean(dim=0)), n_components).components
    assert infonce(found.components, x, x_aug, tau, unit) < infonce(start, x, x_aug, tau, unit)
    assert torch.dist(found.components @ found.components.T, torch.eye(n_components, dtype=x.dtype)) < 1e-12


@pytest.mark.parametrize("with_view", [True, False])
def test_with_labels_they_end_at_a_stationary_point_of_the_mean_over_the_positives(with_view):
    """As in the loss, an anchor with several positives has the mean of the losses with one."""
    x, x_aug = draw(5, n=24, d=5)
    x_aug = x_aug if with_view else None
    labels, unit = torch.arange(len(x)) % 3, unit_of(x, 2)
    found = take_turns(x, x_aug, strategies.InfoNCE(0.5), 2, labels=labels, tol=1e-7, max_iter=500)
    assert found.converged
    w = found.components.clone().requires_grad_()
    z = x @ w.T / unit
    total = z.new_zeros(())
    for i in range(len(z)):
        d2_neg = (z[i] - z[labels != labels[i]]).square().sum(dim=1) / 2
        positives = [z[j] for j in range(len(z)) if j != i and labels[j] == labels[i]]
        positives += [x_aug[i] @ w.T / unit] if with_view else []
        for p in positives:
            ratios = torch.exp(((z[i] - p).square().sum() / 2 - d2_neg) / 0.5)
            total = total + 0.5 * torch.log(1 + ratios.sum()) / len(positives)
    (gradient,) = torch.autograd.grad(total, w)
    tangent = gradient - gradient @ found.components.T @ found.components
    assert tangent.norm() < 1e-6 * gradient.norm()


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_gap_means_that_no_embedding_is_better(seed, tau):
    x, x_aug = draw(seed, n=30, d=2)
    found = take_turns(x, x_aug, strategies.InfoNCE(tau), 1, tol=1e-6, max_iter=500)
    unit = unit_of(x, 1)
    angles = torch.arange(0, math.pi, math.pi / 360, dtype=torch.float64)
    losses = [infonce(torch.stack([a.cos(), a.sin()])[None], x, x_aug, tau, unit).item() for a in angles]
    reached = infonce(found.components, x, x_aug, tau, unit).item()
    assert found.converged
    if found.gap < 1e-9:
        assert reached <= min(losses) + 1e-9
    else:  # still a local one: the neighbours on the grid are not better
        at = torch.atan2(found.components[0, 1], found.components[0, 0]).item()
        for step in (-0.05, 0.05):
            near = torch.tensor([[math.cos(at + step), math.sin(at + step)]], dtype=torch.float64)
            assert reached <= infonce(near, x, x_aug, tau, unit).item() + 1e-12


def test_more_turns_never_raise_the_loss_that_was_kept():
    """Every W whose α is formed is seen by the strategy; those that are kept have ever less loss."""
    x, x_aug = draw(1)
    strategy, values = strategies.InfoNCE(0.1), []

    def spy(d2_pos, d2_neg):
        answer = strategy(d2_pos, d2_neg)
        values.append(answer.value.sum().item())
        return answer

    found = take_turns(x, x_aug, spy, 2, tol=1e-5, max_iter=300)
    assert found.converged
    assert len(values) == found.n_iter
    assert max(later - before for before, later in pairwise(values)) > 0  # some went too far
    assert values[-1] == pytest.approx(min(values), rel=1e-9)


@pytest.mark.parametrize(("seed", "tau"), [(1, 0.1), (3, 0.1), (5, 0.05)])
def test_more_turns_are_never_worse_wherever_they_are_cut(seed, tau):
    """The loss of Eq. 2, and the residual and gap of the W that is returned, for every limit on the turns."""
    x, x_aug = draw(seed)
    unit, losses = unit_of(x, 2), []
    for max_iter in range(2, 16):
        found = take_turns(x, x_aug, strategies.InfoNCE(tau), 2, tol=0.0, max_iter=max_iter)
        w = found.components
        losses.append(infonce(w, x, x_aug, tau, unit).item())
        matrix = ContrastiveCovariance(
            x, x_aug, strategies.InfoNCE(tau), z=x @ w.T / unit, z_aug=x_aug @ w.T / unit
        ).dense()
        image = matrix @ w.T
        assert not found.converged
        assert found.residual == pytest.approx(((image - w.T @ (w @ image)).norm() / image.norm()).item(), rel=1e-6)
        best = torch.linalg.eigvalsh(matrix).flip(0)[:2]
        assert found.gap == pytest.approx(((best.sum() - torch.trace(w @ image)) / best.abs().sum()).item(), abs=1e-9)
    assert all(later <= before * (1 + 1e-12) for before, later in pairwise(losses))
    assert losses[-1] < losses[0]


def test_the_first_turn_is_the_closed_form_at_the_alpha_of_pca():
    x, x_aug = draw(2)
    centred = x - x.mean(dim=0)
    pca = torch.linalg.svd(centred, full_matrices=False).Vh[:2] / unit_of(x, 2)
    matrix = ContrastiveCovariance(x, x_aug, strategies.InfoNCE(0.3), z=x @ pca.T, z_aug=x_aug @ pca.T).dense()
    expected = leading_eigenvectors(matrix, 2)
    found = take_turns(x, x_aug, strategies.InfoNCE(0.3), 2, max_iter=1)
    torch.testing.assert_close(found.components, expected.components, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.eigenvalues, expected.eigenvalues)
    assert found.n_iter == 1


@pytest.mark.parametrize(
    ("strategy", "labelled", "least_gap"), [(strategies.Direct(), True, 0.0), (strategies.InfoNCE(0.1), False, 0.1)]
)
def test_residual_gap_and_eigenvalues_are_those_of_the_last_alpha(strategy, labelled, least_gap):
    x, x_aug = draw(3)
    labels = torch.arange(len(x)) % 3 if labelled else None
    found = take_turns(x, x_aug, strategy, 2, labels=labels, tol=1e-4, max_iter=300)
    w, unit = found.components, unit_of(x, 2)
    matrix = ContrastiveCovariance(
        x, x_aug, strategy, z=x @ w.T / unit, z_aug=x_aug @ w.T / unit, labels=labels
    ).dense()
    image = matrix @ w.T
    residual = (image - w.T @ (w @ image)).norm() / image.norm()
    assert found.converged
    assert found.residual == pytest.approx(residual.item(), rel=1e-3, abs=1e-9)
    torch.testing.assert_close(found.eigenvalues, torch.diag(w @ image), rtol=1e-9, atol=0)
    best = torch.linalg.eigvalsh(matrix).flip(0)[:2]
    gap = (best.sum() - torch.trace(w @ image)) / best.abs().sum()
    assert found.gap == pytest.approx(gap.item(), rel=1e-3, abs=1e-9)
    assert found.gap >= least_gap


def test_the_unit_and_the_origin_of_the_data_do_not_matter():
    x, x_aug = draw(4)
    one = take_turns(x, x_aug, "infonce", 2)
    other = take_turns(1000 * x + 5, 1000 * x_aug + 5, "infonce", 2)
    torch.testing.assert_close(other.components, one.components, rtol=0, atol=1e-6)


def test_eigenvectors_that_are_no_maximum_are_left():
    """Mirror images: X_α is diagonal whatever α, so PCA spans an eigenvector; but there the views differ most."""
    corners = torch.cartesian_prod(torch.tensor([-3.0, 3.0]), torch.tensor([-1.0, 1.0]), torch.tensor([-5.0, 5.0]))
    x = corners[:, :2].double()
    x_aug = x + torch.stack([corners[:, 2], torch.zeros(8)], dim=1)
    found = take_turns(x, x_aug, "infonce", 1)
    assert found.converged
    torch.testing.assert_close(found.components, torch.tensor([[0.0, 1.0]], dtype=torch.float64))


def test_identical_samples_end_at_once():
    x = torch.ones(5, 3)
    found = take_turns(x, x, "infonce", 2)
    assert found.converged
    assert found.n_iter == 1
    assert found.components.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_iter": 0}, ValueError, "max_iter: expected an int >= 1, got 0"),
        ({"tol": -1.0}, ValueError, "tol: expected a finite number >= 0, got -1.0"),
        ({"strategy": "infonc"}, ValueError, "did you mean 'infonce'"),
        ({"strategy": torch.ones(60, 60)}, TypeError, "strategy: expected a strategy object or its name, got a tensor"),
        ({"n_components": 9}, ValueError, "n_components: expected at most the width of x, 8, got 9"),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        take_turns(*draw(0), **{"strategy": "infonce", "n_components": 2, **options})


@pytest.mark.parametrize(
    ("factor", "aug_factor", "message"),
    [
        (math.nan, 1.0, "x: expected finite entries, got nan or inf"),
        (1.0, math.inf, "x_aug: expected finite entries, got nan or inf"),
        (1e200, 1.0, "x: expected samples and weights whose X_α is finite, got nan or inf"),
        (1.0, 1e200, "x: expected samples and weights whose X_α is finite, got nan or inf"),
    ],
)
def test_samples_that_are_not_finite_or_too_large_are_named(factor, aug_factor, message):
    x, x_aug = draw(0)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        take_turns(factor * x, aug_factor * x_aug, "infonce", 2)


def test_one_class_leaves_no_pair_to_weigh():
    x, x_aug = draw(0)
    with pytest.raises(
        ValueError, match=r"^alpha: expected a weight > 0 for some pair of samples of different classes"
    ):
        take_turns(x, x_aug, "infonce", 2, labels=torch.zeros(len(x), dtype=torch.long))
