"""The flow of a deep linear network: its gradient by autograd, its normalisations, its padding."""

import pytest
import torch
from torch.testing import assert_close

import alphacl_plugins as acl
from flow import FILTER, LAYER, NONE, ascend, gradient, perturb, project, random_start, retract, singular_values
from problems import random_covariances, random_mixtures


def draw(seed=0, widths=((5, 4, 3, 2), (5, 2, 4, 4)), normalization=LAYER):
    generator = torch.Generator().manual_seed(seed)
    covariance = random_covariances(len(widths), widths[0][0], generator)
    return random_start(torch.tensor(widths), generator, normalization), covariance


def test_lemma_1_is_the_gradient_of_the_energy():
    weights, covariance = draw()
    leaves = [w.clone().requires_grad_() for w in weights]
    end_to_end = leaves[2] @ leaves[1] @ leaves[0]
    energy = (end_to_end @ covariance @ end_to_end.mT).diagonal(dim1=1, dim2=2).sum(dim=1) / 2
    got = gradient(weights, covariance)
    assert_close(got.energy, energy.detach(), rtol=1e-12, atol=0)
    for g, e in zip(got.direction, torch.autograd.grad(energy.sum(), leaves), strict=True):
        assert e.abs().max() > 1e-4
        assert_close(g, e, rtol=0, atol=1e-14)


def test_the_energy_is_that_of_the_networks_outputs():
    generator = torch.Generator().manual_seed(0)
    x, x_aug = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    alpha = torch.rand(12, 12, generator=generator, dtype=torch.float64)
    weights = random_start(torch.tensor([[5, 4, 3]]), generator)
    end_to_end = (weights[1] @ weights[0])[0]
    covariance = acl.contrastive_covariance(x, x, alpha, x_aug, x_aug)[None]
    expected = acl.energy(x @ end_to_end.T, x_aug @ end_to_end.T, alpha)
    assert_close(gradient(weights, covariance).energy[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("normalization", [LAYER, FILTER])
def test_a_projected_step_keeps_lengths_to_second_order(normalization):
    weights, covariance = draw(normalization=normalization)
    tangent = project(weights, gradient(weights, covariance).direction, normalization)
    dims = (1, 2) if normalization == LAYER else (2,)
    for w, g in zip(weights, tangent, strict=True):
        assert_close((w * g).sum(dim=dims), torch.zeros_like((w * g).sum(dim=dims)), rtol=0, atol=1e-15)
    moved = retract([w + 0.1 * g for w, g in zip(weights, tangent, strict=True)], weights, normalization)
    for w, m in zip(weights, moved, strict=True):
        assert not torch.equal(w, m)
        lengths = [torch.linalg.vector_norm(part, dim=dims) for part in (w, m)]
        assert_close(lengths[0], lengths[1], rtol=1e-14, atol=0)
    raw = gradient(weights, covariance).direction
    assert project(weights, raw, NONE) is raw


def test_rows_have_the_papers_length():
    weights, _ = draw(normalization=FILTER)
    length = torch.linalg.vector_norm(weights[0], dim=2)
    assert_close(length[0], torch.full((4,), 0.5, dtype=torch.float64))
    assert_close(length[1], torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64).sqrt())


def test_padding_changes_nothing():
    weights, covariance = draw()
    both = ascend(weights, covariance, steps=50, tolerance=0.0)
    for which, sizes in enumerate(((5, 4, 3, 2), (5, 2, 4, 4))):
        alone = [w[which : which + 1, : sizes[i + 1], : sizes[i]] for i, w in enumerate(weights)]
        ended = ascend(alone, covariance[which : which + 1], steps=50, tolerance=0.0)
        assert_close(ended.energy[0], both.energy[which], rtol=1e-12, atol=0)
        for i, w in enumerate(both.weights):
            assert w[which, sizes[i + 1] :].abs().sum() == w[which, :, sizes[i] :].abs().sum() == 0
    moved = perturb(weights, 0.1, torch.Generator().manual_seed(0), LAYER)
    assert moved[0][1, 2:].abs().sum() == 0
    assert not torch.equal(moved[0], weights[0])


def test_the_energy_never_falls_along_small_steps():
    weights, covariance = draw(3)
    path = ascend(weights, covariance, steps=400, arc=0.01, keep=400).path
    energies = torch.stack([state.energy for state in path])
    assert (energies.diff(dim=0) >= -1e-12).all()
    assert (energies[-1] > energies[0]).all()


def test_singular_values_are_the_two_largest():
    weights, _ = draw()
    got = singular_values(weights)
    assert got.shape == (2, 3, 2)
    assert_close(got[0, 1], torch.linalg.svdvals(weights[1][0])[:2])


def test_covariances_have_a_positive_eigenvalue_and_unit_norm():
    values = torch.linalg.eigvalsh(random_covariances(30, 6, torch.Generator().manual_seed(0)))
    assert (values[:, -1] > 0).all()
    assert (values[:, 0] < 0).any()
    assert_close(values.abs().amax(dim=1), torch.ones(30, dtype=torch.float64))


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
