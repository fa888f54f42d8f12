"""Metrics against loops, SciPy and known values."""

import math

import numpy as np
import pytest
import torch
from oracles import random_views
from scipy.integrate import quad
from scipy.stats import beta

from alphacl_plugins import metrics
from alphacl_plugins.functional import l2_normalize
from alphacl_plugins.sphere import UniformCosines


def embeddings(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alignment_and_uniformity_by_loops():
    z, z_aug = (t.detach() for t in random_views(0, n=5, d=3))
    aligned = np.mean([float((a - b).square().sum()) for a, b in zip(z, z_aug, strict=True)])
    spread = [math.exp(-3 * float((z[i] - z[j]).square().sum())) for i in range(5) for j in range(i + 1, 5)]
    assert metrics.alignment(z, z_aug).item() == pytest.approx(aligned, rel=1e-12)
    assert metrics.uniformity(z, t=3).item() == pytest.approx(math.log(np.mean(spread)), rel=1e-12)


def test_effective_rank_counts_equal_directions():
    assert metrics.effective_rank(torch.eye(5)).item() == pytest.approx(5, rel=1e-5)
    assert metrics.effective_rank(torch.ones(6, 3)).item() == pytest.approx(1, rel=1e-4)
    assert metrics.effective_rank(torch.zeros(4, 3)).item() == 0


def test_alpha_entropy_normalises_rows():
    alpha = torch.tensor([[2.0, 2.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert metrics.alpha_entropy(alpha).item() == pytest.approx(math.log(2) / 3)
    assert metrics.effective_negatives(torch.ones(3, 7)).item() == pytest.approx(7)


@pytest.mark.parametrize("dim", [2, 3, 4, 16, 128, 2048])
def test_the_uniform_law_is_the_beta_law(dim):
    law = UniformCosines(dim, torch.device("cpu"))
    c = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    shape = (dim - 1) / 2
    np.testing.assert_allclose(law.cdf(c), beta.cdf((1 + c) / 2, shape, shape), rtol=0, atol=1e-10)
    np.testing.assert_allclose(law.quantile(p), 2 * beta.ppf(p, shape, shape) - 1, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 3, 5, 64])
def test_wasserstein_uniformity_is_the_integral_of_the_difference_of_the_laws(dim):
    z = embeddings(6, dim) + 0.3
    unit = l2_normalize(z)
    rows, columns = np.triu_indices(6, 1)
    edges = np.sort((unit @ unit.T).numpy()[rows, columns])
    pairs, shape = len(edges), (dim - 1) / 2
    edges = np.concatenate([[-1.0], edges, [1.0]])
    total = 0.0
    for k in range(pairs + 1):
        a, b = edges[k], edges[k + 1]
        turn = np.clip(2 * beta.ppf(k / pairs, shape, shape) - 1, a, b)

        def gap(c, level=k / pairs):
            return abs(level - beta.cdf((1 + c) / 2, shape, shape))

        total += sum(quad(gap, *ends, epsabs=1e-12, limit=200)[0] for ends in ((a, turn), (turn, b)))
    assert metrics.wasserstein_uniformity(z).item() == pytest.approx(total, abs=1e-8)


def test_wasserstein_uniformity_tells_collapse_from_spread():
    spread = metrics.wasserstein_uniformity(embeddings(300, 16)).item()
    collapsed = metrics.wasserstein_uniformity(embeddings(300, 16) + 100).item()
    # Two orthogonal clusters have the right mean cosine scale but the wrong law.
    clusters = metrics.wasserstein_uniformity(torch.eye(16, dtype=torch.float64).repeat(20, 1)).item()
    assert spread < 0.01 < clusters < collapsed
    assert collapsed == pytest.approx(1, abs=0.01)


def test_wasserstein_uniformity_on_a_line():
    z = torch.tensor([[1.0], [1.0], [-1.0]])  # cosines 1, -1, -1
    assert metrics.wasserstein_uniformity(z).item() == pytest.approx(2 * abs(2 / 3 - 1 / 2))
    assert metrics.wasserstein_uniformity(torch.zeros(4, 1)).item() == pytest.approx(1.0)  # cosines 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_metrics_take_any_precision(dtype):
    z = embeddings(20, 8)
    for metric in (metrics.uniformity, metrics.effective_rank, metrics.wasserstein_uniformity):
        assert metric(z.to(dtype)).item() == pytest.approx(metric(z).item(), rel=0.05)


Z = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.alignment(Z, Z[:2]), ValueError, r"z_aug: expected the shape of z \(3, 2\), got \(2, 2\)"),
        (lambda: metrics.uniformity(Z[:1]), ValueError, r"z: expected at least 2 rows to compare, got 1"),
        (lambda: metrics.uniformity(Z.long()), TypeError, r"z: expected a floating-point tensor, got torch.int64"),
        (lambda: metrics.alignment(Z[:0], Z[:0]), ValueError, r"z: expected at least 1 row, got shape \(0, 2\)"),
        (lambda: metrics.alpha_entropy(Z[:0]), ValueError, r"alpha: expected at least 1 row, got shape \(0, 2\)"),
        (lambda: metrics.uniformity(Z, t=0), ValueError, r"t: expected a finite number > 0, got 0"),
        (lambda: metrics.wasserstein_uniformity(Z[:1]), ValueError, r"z: expected at least 2 rows to compare, got 1"),
        (lambda: metrics.effective_rank(Z[:0]), ValueError, r"z: expected at least 1 row, got shape \(0, 2\)"),
        (lambda: metrics.effective_rank(Z.int()), TypeError, r"z: expected a floating-point tensor, got torch.int32"),
        (lambda: metrics.alpha_entropy((Z,)), TypeError, r"alpha: expected a tensor \[rows, columns\], got tuple"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()
