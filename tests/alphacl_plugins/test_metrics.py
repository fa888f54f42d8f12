"""Metrics against loops, SciPy and known values."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import random_views
from scipy.integrate import quad
from scipy.stats import beta

from alphacl_plugins import metrics, pairwise, sphere
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


SHAPES = {
    "spread": lambda: embeddings(90, 16),
    "one cluster": lambda: embeddings(90, 16) + 3,
    "two clusters": lambda: torch.cat([embeddings(45, 3) + 2, embeddings(45, 3, seed=1) - 2]),
    "one point": lambda: torch.ones(90, 5, dtype=torch.float64),
    "copies": lambda: torch.eye(6, dtype=torch.float64).repeat(15, 1),
    "a circle": lambda: embeddings(90, 2),
    "a line": lambda: embeddings(90, 1),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tile", [1, 7, 89, 90])
def test_metrics_in_tiles_are_those_of_the_whole_matrix(monkeypatch, shape, tile):
    z = SHAPES[shape]()
    expected = metrics.uniformity(z), metrics.wasserstein_uniformity(z)
    monkeypatch.setattr(pairwise, "ROWS_AT_ONCE", tile)
    assert metrics.uniformity(z).item() == pytest.approx(expected[0].item(), rel=1e-12, abs=1e-12)
    assert metrics.wasserstein_uniformity(z).item() == pytest.approx(expected[1].item(), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_counting_cosines_in_bins_moves_the_distance_by_less_than_a_bin(monkeypatch, shape):
    z = SHAPES[shape]()
    exact = metrics.wasserstein_uniformity(z).item()
    monkeypatch.setattr(sphere, "_EXACT_ROWS", 1)
    assert metrics.wasserstein_uniformity(z).item() == pytest.approx(exact, rel=0, abs=2e-6)


def test_intervals_some_at_a_time(monkeypatch):
    expected = metrics.wasserstein_uniformity(embeddings(40, 8)).item()
    monkeypatch.setattr(sphere, "_INTERVALS_AT_ONCE", 7)
    assert metrics.wasserstein_uniformity(embeddings(40, 8)).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("tile", [3, 1024])
def test_gradients(monkeypatch, tile):
    monkeypatch.setattr(pairwise, "ROWS_AT_ONCE", tile)
    z, z_aug = (embeddings(7, 4, seed).requires_grad_() for seed in (0, 1))
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 5])
    assert torch.autograd.gradcheck(metrics.uniformity, z)
    assert torch.autograd.gradcheck(metrics.alignment, (z, z_aug))
    assert torch.autograd.gradcheck(metrics.effective_rank, z)
    assert torch.autograd.gradcheck(lambda rows: metrics.tolerance(rows, labels), z)


def test_the_gradient_of_uniformity_is_that_of_the_whole_matrix_in_less_memory(monkeypatch):
    monkeypatch.setattr(pairwise, "ROWS_AT_ONCE", 200)
    z = embeddings(600, 4).requires_grad_()
    d2 = torch.pdist(z).square()
    expected = torch.autograd.grad(torch.logsumexp(-2 * d2, dim=0), z)[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        saved = []
        value = metrics.uniformity(z)
    assert sum(saved) < 20 * z.numel() < d2.numel()
    torch.testing.assert_close(torch.autograd.grad(value, z)[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own
def test_uniformity_under_the_transforms_of_torch():
    z = embeddings(6, 3)
    expected = torch.autograd.grad(metrics.uniformity(leaf := z.clone().requires_grad_()), leaf)[0]
    torch.testing.assert_close(torch.func.grad(metrics.uniformity)(z), expected)
    assert torch.func.hessian(metrics.uniformity)(z).shape == (6, 3, 6, 3)
    both = torch.func.vmap(metrics.uniformity)(torch.stack([z, 2 * z]))
    torch.testing.assert_close(both, torch.stack([metrics.uniformity(z), metrics.uniformity(2 * z)]))


def test_the_gradient_of_the_effective_rank_is_finite_without_full_rank():
    z = torch.ones(6, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.grad(metrics.effective_rank(z), z)[0].isfinite().all()


def test_tolerance_by_loops():
    z, labels = embeddings(9, 3), torch.tensor([4, 4, 4, 7, 7, 0, 1, 1, 4])
    unit = l2_normalize(z)
    cosines = [float(unit[i] @ unit[j]) for i in range(9) for j in range(i) if labels[i] == labels[j]]
    assert metrics.tolerance(z, labels).item() == pytest.approx(np.mean(cosines), rel=1e-12)
    assert metrics.tolerance(z, torch.arange(9)).isnan()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_rank_counts_directions(kind):
    z = (embeddings(50, 6) @ embeddings(6, 20, seed=1)).to(kind)
    assert metrics.rank(z).item() == 6
    assert 1 < metrics.effective_rank(z) < 6
    assert metrics.rank(torch.zeros(4, 3)).item() == 0
    assert metrics.rank(torch.full((4, 3), math.nan)).isnan()
    torch.testing.assert_close(metrics.singular_spectrum(z) * z.abs().max(), torch.linalg.svdvals(z))


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
        (lambda: metrics.uniformity(Z[:1]), ValueError, r"z: expected at least 2 rows, got shape \(1, "),
        (lambda: metrics.uniformity(Z.long()), TypeError, r"z: expected a floating-point tensor, got torch.int64"),
        (lambda: metrics.alignment(Z[:0], Z[:0]), ValueError, r"z: expected at least 1 row, got shape \(0, 2\)"),
        (lambda: metrics.alpha_entropy(Z[:0]), ValueError, r"alpha: expected at least 1 row, got shape \(0, 2\)"),
        (lambda: metrics.uniformity(Z, t=0), ValueError, r"t: expected a finite number > 0, got 0"),
        (
            lambda: metrics.wasserstein_uniformity(Z[:1]),
            ValueError,
            r"z: expected at least 2 rows, got shape \(1, ",
        ),
        (lambda: metrics.effective_rank(Z[:0]), ValueError, r"z: expected at least 1 row, got shape \(0, 2\)"),
        (lambda: metrics.effective_rank(Z.int()), TypeError, r"z: expected a floating-point tensor, got torch.int32"),
        (
            lambda: metrics.tolerance(Z, torch.zeros(2).long()),
            ValueError,
            r"labels: expected shape \[3\], .*got \(2,\)",
        ),
        (lambda: metrics.tolerance(Z, torch.zeros(3)), TypeError, r"labels: expected an integer tensor \[3\]"),
        (lambda: metrics.rank(Z[0]), ValueError, r"z: expected shape \[rows, columns\]"),
        (lambda: metrics.alpha_entropy((Z,)), TypeError, r"alpha: expected a tensor \[rows, columns\], got tuple"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_fifty_thousand_rows_take_less_than_a_minute_of_two_cores_and_500_mib():
    code = """
import resource, time, torch
from alphacl_plugins import metrics
z, labels = torch.randn(50_000, 128), torch.randint(0, 10, (50_000,))
metrics.uniformity(z[:100])
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for metric in (metrics.uniformity, metrics.wasserstein_uniformity, metrics.effective_rank, metrics.rank):
    assert metric(z).isfinite()
metrics.alignment(z, z.flip(0)), metrics.tolerance(z, labels)
print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    seconds, kib = map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert seconds < 120
    assert kib < 500 * 1024
