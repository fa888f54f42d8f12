"""The flow of a deep linear network: its gradient by autograd, its normalisations, its plateaus."""

import pytest
import torch
from torch.testing import assert_close

import alphacl_plugins as acl
from flow import (
    FILTER,
    LAYER,
    NONE,
    ascend,
    feature_covariances,
    gradient,
    join,
    perturb,
    project,
    random_start,
    rescale,
    singular_values,
    split,
)
from problems import random_covariance, random_mixtures


def draw(seed=0, widths=(5, 4, 3, 2), normalization=LAYER):
    generator = torch.Generator().manual_seed(seed)
    covariance = random_covariance(widths[0], generator)
    return random_start(widths, generator, normalization), covariance


def test_lemma_1_is_the_gradient_of_the_energy():
    weights, covariance = draw()
    leaves = [w.clone().requires_grad_() for w in weights]
    end_to_end = leaves[2] @ leaves[1] @ leaves[0]
    energy = (end_to_end @ covariance @ end_to_end.T).trace() / 2
    got = gradient(weights, covariance)
    assert_close(got.energy, energy.detach(), rtol=1e-12, atol=0)
    for g, e in zip(got.direction, torch.autograd.grad(energy, leaves), strict=True):
        assert e.abs().max() > 1e-4
        assert_close(g, e, rtol=0, atol=1e-14)


def test_many_problems_at_once_are_each_alone():
    (one, a), (other, b) = draw(0), draw(1)
    both = gradient([torch.stack(pair) for pair in zip(one, other, strict=True)], torch.stack([a, b]))
    for i, alone in enumerate((gradient(one, a), gradient(other, b))):
        assert_close(both.energy[i], alone.energy, rtol=1e-12, atol=0)
        assert_close([g[i] for g in both.direction], alone.direction, rtol=1e-12, atol=1e-15)


def test_the_energy_is_that_of_the_networks_outputs():
    generator = torch.Generator().manual_seed(0)
    x, x_aug = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    alpha = torch.rand(12, 12, generator=generator, dtype=torch.float64)
    weights = random_start((5, 4, 3), generator)
    covariance = acl.contrastive_covariance(x, x, alpha, x_aug, x_aug)
    hidden, hidden_aug = x @ weights[0].T, x_aug @ weights[0].T
    z, z_aug = hidden @ weights[1].T, hidden_aug @ weights[1].T
    assert_close(gradient(weights, covariance).energy, acl.energy(z, z_aug, alpha), rtol=1e-12, atol=0)
    of_hidden = acl.contrastive_covariance(hidden, hidden, alpha, hidden_aug, hidden_aug)
    assert_close(feature_covariances(weights, covariance)[1], of_hidden, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("normalization", [LAYER, FILTER])
def test_a_projected_step_keeps_lengths_to_second_order(normalization):
    weights, covariance = draw(normalization=normalization)
    raw = gradient(weights, covariance).direction
    tangent = project(weights, raw, normalization)
    dims = (0, 1) if normalization == LAYER else (1,)
    for w, g, unprojected in zip(weights, tangent, raw, strict=True):
        assert_close((w * g).sum(dim=dims), torch.zeros_like((w * g).sum(dim=dims)), rtol=0, atol=1e-15)
        assert (w * unprojected).sum().abs() > 1e-4
    moved = rescale([w + 0.1 * g for w, g in zip(weights, tangent, strict=True)], normalization)
    for w, m in zip(weights, moved, strict=True):
        assert not torch.equal(w, m)
        lengths = [torch.linalg.vector_norm(part, dim=dims) for part in (w, m)]
        assert_close(lengths[0], lengths[1], rtol=1e-14, atol=0)


def test_without_normalisation_nothing_is_projected_or_rescaled():
    weights, covariance = draw()
    raw = gradient(weights, covariance).direction
    assert project(weights, raw, NONE) is raw
    assert rescale(raw, NONE) is raw


def test_rows_have_the_papers_length():
    weights, _ = draw(normalization=FILTER)
    assert_close(torch.linalg.vector_norm(weights[0], dim=1), torch.full((4,), 0.5, dtype=torch.float64))
    weights, _ = draw()
    assert_close(torch.stack([w.norm() for w in weights]), torch.ones(3, dtype=torch.float64))


def test_a_perturbation_has_its_size():
    weights, _ = draw()
    moved = perturb(weights, 1e-3, torch.Generator().manual_seed(0), LAYER)
    for w, m in zip(weights, moved, strict=True):
        assert 1e-4 < (w - m).norm() < 2e-3


def test_weights_come_back_from_a_vector():
    weights, _ = draw()
    rows = torch.stack([join(weights), join([2 * w for w in weights])])
    assert_close([w[1] for w in split(rows, weights)], [2 * w for w in weights])


def test_the_energy_never_falls_and_the_flow_ends_at_rest():
    weights, covariance = draw(3)
    ended = ascend(weights, covariance)
    energies = gradient(ended.path, covariance).energy
    assert (energies.diff() >= -1e-9).all()
    assert ended.energy > energies[0]
    assert ended.energy == pytest.approx(float(torch.linalg.eigvalsh(covariance)[-1]) / 2, rel=1e-6)
    assert ended.gradient_norm <= 1.01e-6 * ended.energy


def test_a_plateau_is_crossed():
    """A λ_max of 1 % and six layers: the gradient is below 1e-6 for most of the time, and the maximum is reached."""
    covariance = torch.diag(torch.tensor([0.01, -0.5, -0.8, -1.0], dtype=torch.float64))
    ended = ascend(random_start((4, *[5] * 6), torch.Generator().manual_seed(0)), covariance)
    assert ended.energy == pytest.approx(0.005, rel=1e-6)
    assert 1e4 < ended.times[-1] < 1e8
    assert len(ended.times) < 2000


def test_singular_values_are_the_two_largest():
    weights, _ = draw()
    got = singular_values(weights)
    assert got.shape == (3, 2)
    assert_close(got[1], torch.linalg.svdvals(weights[1])[:2])
    one_row = singular_values([torch.ones(7, 1, 4, dtype=torch.float64)])
    assert_close(one_row[0, 0], torch.tensor([2.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("most", [1.0, 0.2])
def test_covariances_have_the_largest_eigenvalue_asked_for_and_unit_norm(most):
    generator = torch.Generator().manual_seed(0)
    values = torch.stack([torch.linalg.eigvalsh(random_covariance(6, generator, most)) for _ in range(20)])
    assert (values[:, -1] > 0).all()
    assert (values[:, -1] <= most + 1e-12).all()
    assert (values[:, 0] < 0).any()
    assert_close(values.abs().amax(dim=1), torch.ones(20, dtype=torch.float64))


def test_mixtures_satisfy_assumption_1():
    mixtures = random_mixtures(30, 5, 20, torch.Generator().manual_seed(0))
    assert ((mixtures.x > 0).sum(dim=2) == 1).all()
    assert (mixtures.x >= 0).all()
    factor = mixtures.x_aug.sum(dim=2) / mixtures.x.sum(dim=2)
    assert (factor > 0).all()
    assert factor.std() > 0.1
    assert_close(mixtures.x_aug, factor[..., None] * mixtures.x)
    used = (mixtures.x.sum(dim=1) > 0).sum(dim=1)
    assert set(used.tolist()) == {2, 3, 4, 5}
    assert (mixtures.alpha.diagonal(dim1=1, dim2=2) == 0).all()
