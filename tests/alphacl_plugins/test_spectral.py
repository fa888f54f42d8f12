"""The contrastive covariance at scale, as a matrix and as an operator, against loops over pairs; contrastive PCA."""

import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from oracles import STRATEGIES_OF_TESTS, relative_error, strategy_id
from sklearn.decomposition import PCA
from torch.testing import assert_close

import alphacl_plugins as acl
from alphacl_plugins import PairWeights, strategies
from alphacl_plugins.spectral import (
    ContrastiveCovariance,
    contrastive_pca,
    leading_eigenvectors,
)

N, D = 23, 6


def covariance(*args, **options):
    return ContrastiveCovariance(*args, **options).dense()


def draw(seed=0, n=N, d=D):
    generator = torch.Generator().manual_seed(seed)
    x = 3 + torch.randn(n, d, generator=generator, dtype=torch.float64)
    x_aug = x + 0.7 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, x_aug, torch.rand(n, n, generator=generator, dtype=torch.float64)


def neighbours(i, x, x_aug, labels):
    """The negatives of an anchor, as numbers, and its positives, as samples."""
    rest = [j for j in range(len(x)) if j != i]
    negatives = [j for j in rest if labels is None or labels[j] != labels[i]]
    return negatives, [x[j] for j in rest if j not in negatives] + ([] if x_aug is None else [x_aug[i]])


def loop_alpha(strategy, z, z_aug, labels=None):
    """α row by row, each strategy call seeing one anchor, one of its positives and its negatives alone."""
    alpha = torch.zeros(len(z), len(z), dtype=z.dtype)
    for i in range(len(z)):
        negatives, positives = neighbours(i, z, z_aug, labels)
        positives = positives or [z[i]]
        d2_neg = torch.stack([(z[i] - z[j]).square().sum() / 2 for j in negatives])
        for p in positives:
            d2_pos = (z[i] - p).square().sum() / 2
            alpha[i, negatives] += strategy(d2_pos[None], d2_neg[None]).neg[0] / len(positives)
    return alpha


def loop_covariance(x, x_aug, alpha, labels=None):
    """Eq. 5 pair by pair; with labels, the mean over all positives of the anchor, which a given α weighs alike."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    for i in range(len(x)):
        negatives, positives = neighbours(i, x, x_aug, labels)
        for j in negatives:
            total += alpha[i, j] * torch.outer(x[i] - x[j], x[i] - x[j])
        for p in positives:
            total -= alpha[i, negatives].sum() / len(positives) * torch.outer(x[i] - p, x[i] - p)
    return total


def loop_covariance_of_each_positive(strategy, x, x_aug, labels):
    """Eq. 5 for every anchor with one of its positives at a time: the mean over the positives of all its terms."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    for i in range(len(x)):
        negatives, positives = neighbours(i, x, x_aug, labels)
        positives = positives or [x[i]]
        d2_neg = torch.stack([(x[i] - x[j]).square().sum() / 2 for j in negatives])
        for p in positives:
            d2_pos = (x[i] - p).square().sum() / 2
            row = strategy(d2_pos[None], d2_neg[None]).neg[0] / len(positives)
            for weight, j in zip(row, negatives, strict=True):
                total += weight * torch.outer(x[i] - x[j], x[i] - x[j])
            total -= row.sum() * torch.outer(x[i] - p, x[i] - p)
    return total


@pytest.mark.parametrize("block_size", [1, 7, N, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_a_tensor_alpha_gives_the_functional_covariance(seed, block_size):
    x, x_aug, alpha = draw(seed)
    got = covariance(x, x_aug, alpha, block_size=block_size)
    assert relative_error(got, acl.contrastive_covariance(x, x, alpha, x_aug, x_aug)) < 1e-12
    assert relative_error(got, loop_covariance(x, x_aug, alpha)) < 1e-12
    assert torch.equal(got, got.T)


@pytest.mark.parametrize("strategy", STRATEGIES_OF_TESTS, ids=strategy_id)
def test_a_strategys_covariance_is_that_of_its_alpha(strategy):
    x, x_aug, _ = draw()
    alpha = loop_alpha(strategy, x, x_aug)
    assert alpha.sum() > 0
    got = covariance(x, x_aug, strategy, block_size=5)
    assert relative_error(got, acl.contrastive_covariance(x, x, alpha, x_aug, x_aug)) < 1e-12
    assert acl.energy(x, x_aug, strategy).item() == pytest.approx(got.trace().item() / 2, rel=1e-12)


CLASSES = torch.tensor([5, 5, 5, -1, 9, 9, 9, 9] + 15 * [2])  # one class of a single sample


@pytest.mark.parametrize("block_size", [4, 100])
@pytest.mark.parametrize("with_view", [True, False])
def test_labels_make_the_other_samples_of_a_class_positives(with_view, block_size):
    x, x_aug, alpha = draw(1)
    x_aug = x_aug if with_view else None
    got = covariance(x, x_aug, alpha, labels=CLASSES, block_size=block_size)
    assert relative_error(got, loop_covariance(x, x_aug, alpha, CLASSES)) < 1e-12


@pytest.mark.parametrize("with_view", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES_OF_TESTS, ids=strategy_id)
def test_with_labels_each_positive_gives_a_row_of_its_own(strategy, with_view):
    x, x_aug, _ = draw(1)
    x_aug = x_aug if with_view else None
    expected = loop_covariance_of_each_positive(strategy, x, x_aug, CLASSES)
    assert relative_error(covariance(x, x_aug, strategy, labels=CLASSES, block_size=10), expected) < 1e-11


def test_without_a_view_nothing_is_subtracted():
    x, _, alpha = draw()
    got = covariance(x, None, alpha)
    assert relative_error(got, acl.contrastive_covariance(x, x, alpha, x, x)) < 1e-12


def test_distances_can_be_those_of_an_embedding():
    x, x_aug, _ = draw()
    w = torch.randn(D, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    got = covariance(x, x_aug, strategies.InfoNCE(0.7), z=x @ w, z_aug=x_aug @ w)
    alpha = loop_alpha(strategies.InfoNCE(0.7), x @ w, x_aug @ w)
    assert relative_error(got, loop_covariance(x, x_aug, alpha)) < 1e-12
    assert relative_error(got, covariance(x, x_aug, strategies.InfoNCE(0.7))) > 1e-3


@pytest.mark.parametrize("labelled", [False, True])
def test_the_operator_is_the_matrix(labelled):
    x, x_aug, alpha = draw()
    labels = torch.arange(N) % 3 if labelled else None
    operator = ContrastiveCovariance(x, x_aug, alpha, labels=labels, block_size=6)
    matrix = loop_covariance(x, x_aug, alpha, labels)
    vectors = torch.randn(D, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert operator.shape == matrix.shape
    assert relative_error(operator @ vectors, matrix @ vectors) < 1e-12
    assert relative_error(operator @ vectors[:, 0], matrix @ vectors[:, 0]) < 1e-12


def test_a_far_origin_costs_no_digits():
    x, x_aug, alpha = draw()
    near = covariance(x, x_aug, alpha)
    far = covariance(x + 1e6, x_aug + 1e6, alpha)
    assert relative_error(far, near) < 1e-8  # adding 1e6 itself rounds x to 1e-10


def test_alpha_is_never_larger_than_a_block():
    rows = []

    def spy(d2_pos, d2_neg):
        rows.append(tuple(d2_neg.shape))
        return PairWeights(torch.softmax(-d2_neg, dim=1))

    x, x_aug, _ = draw()
    covariance(x, x_aug, spy, block_size=10)
    assert rows == [(10, N), (10, N), (3, N)]


def test_half_precision_is_summed_in_float32():
    x, x_aug, alpha = draw()
    got = covariance(x.bfloat16(), x_aug.bfloat16(), alpha.bfloat16())
    assert got.dtype == torch.float32
    rounded = [part.bfloat16().double() for part in (x, x_aug, alpha)]
    assert relative_error(got.double(), covariance(*rounded)) < 1e-5


@pytest.mark.parametrize(("width", "n"), [(8, 1), (12, 2), (12, 4), (20, 3), (30, 8), (30, 21), (50, 20), (50, 50)])
def test_the_operator_finds_what_the_dense_matrix_has_at_any_size(width, n):
    x = torch.randn(60, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha = torch.ones(60, 60, dtype=torch.float64)
    dense, operator = (
        contrastive_pca(x, None, alpha, n, solver=solver).eigenvalues for solver in ("dense", "operator")
    )
    torch.testing.assert_close(operator, dense, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_view", [True, False])
@pytest.mark.parametrize("n_components", [1, 2, 3, 50])
@pytest.mark.parametrize("n", [4, 8, 20, 100])
def test_the_operator_is_right_where_samples_are_fewer_than_columns(n, n_components, with_view, dtype):
    """X_α has rank 2 N at most: the Krylov space is soon exhausted, and rounding must not count as directions."""
    x, x_aug, alpha = (part.to(dtype) for part in draw(n=n, d=300))
    x_aug = x_aug if with_view else None
    components, eigenvalues = contrastive_pca(x, x_aug, alpha, n_components, solver="operator")
    doubles = [None if part is None else part.double() for part in (x, x_aug, alpha)]
    matrix = covariance(*doubles)
    values = scipy.linalg.eigh(matrix.numpy(), eigvals_only=True)[::-1].copy()
    scale, tolerance = float(np.abs(values).max()), 1000 * torch.finfo(dtype).eps
    expected = torch.from_numpy(values[:n_components])
    assert_close(eigenvalues.double(), expected, rtol=0, atol=tolerance * scale)
    assert_close(components @ components.T, torch.eye(n_components, dtype=dtype), rtol=0, atol=tolerance)
    residual = components.double() @ matrix - expected[:, None] * components.double()
    assert residual.norm(dim=1).max() < tolerance * scale


@pytest.mark.parametrize("solver", ["dense", "operator", "auto"])
@pytest.mark.parametrize("n_components", [1, 3, D])
def test_components_are_orthonormal_eigenvectors_largest_first(solver, n_components):
    x, x_aug, alpha = draw(2)
    components, eigenvalues = contrastive_pca(x, x_aug, alpha, n_components, solver=solver)
    matrix = loop_covariance(x, x_aug, alpha)
    expected = np.linalg.eigvalsh(matrix.numpy())[::-1][:n_components].copy()
    scale = float(np.abs(expected).max())
    assert_close(eigenvalues, torch.from_numpy(expected), rtol=0, atol=1e-12 * scale)
    identity = torch.eye(n_components, dtype=torch.float64)
    assert_close(components @ components.T, identity, rtol=0, atol=1e-12)
    assert_close(components @ matrix, eigenvalues[:, None] * components, rtol=0, atol=1e-11 * scale)
    assert (components.gather(1, components.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_the_operator_finds_the_largest_eigenvalues_where_negative_ones_are_larger_in_size():
    """Strong augmentation: the spectrum's negative end is the far one, and a wide x makes the Krylov space restart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 120, generator=generator, dtype=torch.float64)
    x_aug = x.clone()
    x_aug[:, 0] += 30 * torch.randn(300, generator=generator, dtype=torch.float64)
    dense = contrastive_pca(x, x_aug, strategies.Uniform(), 5, solver="dense")
    operator = contrastive_pca(x, x_aug, strategies.Uniform(), 5, solver="operator")
    full = torch.linalg.eigvalsh(covariance(x, x_aug, strategies.Uniform()))
    assert -full[0] > 5 * full[-1] > 0
    assert_close(operator.eigenvalues, dense.eigenvalues, rtol=1e-10, atol=0)
    assert_close(operator.components, dense.components, rtol=0, atol=1e-8)


def test_uniform_weights_without_views_are_ordinary_pca():
    x, _, _ = draw(3)
    components, eigenvalues = contrastive_pca(x, None, strategies.Uniform(), 3)
    pca = PCA(3, svd_solver="full").fit(x.numpy())
    assert_close((components @ torch.from_numpy(pca.components_).T).abs(), torch.eye(3, dtype=torch.float64))
    # Σ_ij (x_i - x_j)(x_i - x_j)ᵀ / (N - 1) = 2N / (N - 1) Σ_i x_i x_iᵀ = 2N times the sample covariance
    assert_close(eigenvalues, 2 * N * torch.from_numpy(pca.explained_variance_))


def test_the_components_have_more_energy_than_any_other_orthonormal_rows():
    x, x_aug, alpha = draw(4)
    components, eigenvalues = contrastive_pca(x, x_aug, alpha, 2)
    best = acl.energy(x @ components.T, x_aug @ components.T, alpha).item()
    assert best == pytest.approx(eigenvalues.sum().item() / 2, rel=1e-12)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        other = torch.linalg.qr(torch.randn(D, 2, generator=generator, dtype=torch.float64)).Q
        assert acl.energy(x @ other, x_aug @ other, alpha).item() < best


@pytest.mark.parametrize("name", ["infonce", "direct", "square"])
def test_a_strategy_may_be_given_by_name(name):
    by_name, by_object = (contrastive_pca(X, X_AUG, alpha, 2) for alpha in (name, acl.build_strategy(name)))
    assert torch.equal(by_name.components, by_object.components)
    assert torch.equal(by_name.eigenvalues, by_object.eigenvalues)


def test_weights_of_a_sample_with_itself_may_be_anything():
    odd = ALPHA.clone().fill_diagonal_(math.nan)
    assert torch.equal(contrastive_pca(X, X_AUG, odd, 2).components, contrastive_pca(X, X_AUG, ALPHA, 2).components)


def test_no_gradient_is_kept():
    x, x_aug, alpha = draw()
    assert not covariance(x.requires_grad_(), x_aug, alpha).requires_grad


X, X_AUG, ALPHA = draw()


def nan_weights(d2_pos, d2_neg):
    return PairWeights(d2_neg * math.nan)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: covariance([1.0], None, ALPHA), TypeError, "x: expected a tensor [rows, columns]"),
        (lambda: covariance(X[:1], None, ALPHA), ValueError, "x: expected at least 2 rows"),
        (lambda: covariance(X, X_AUG[:3], ALPHA), ValueError, "x_aug: expected the shape of x (23"),
        (
            lambda: covariance(X, X_AUG, ALPHA[:5]),
            ValueError,
            "alpha: expected shape [23, 23], got (5,",
        ),
        (
            lambda: covariance(X, X_AUG, strategies.Direct),
            TypeError,
            "alpha: expected a name or a strategy object, got <class",
        ),
        (
            lambda: covariance(X, X_AUG, 0.5),
            TypeError,
            "alpha: expected a tensor [N, N], a strategy object or its name, got 0.5",
        ),
        (
            lambda: covariance(X, X_AUG, lambda p, n: n),
            TypeError,
            "strategy: expected one that returns PairWeights, got one",
        ),
        (
            lambda: covariance(X, X_AUG, ALPHA, labels=ALPHA),
            TypeError,
            "labels: expected an integer",
        ),
        (lambda: covariance(X, X_AUG, ALPHA, block_size=0), ValueError, "block_size: expected an int >= 1"),
        (lambda: covariance(X, X_AUG, ALPHA, z=X[:2]), ValueError, "z: expected 23 rows as x has, got (2,"),
        (lambda: covariance(X, X_AUG, ALPHA, z=X), ValueError, "z_aug: expected the other view of z"),
        (lambda: covariance(X, X_AUG, ALPHA, z_aug=X), ValueError, "z_aug: expected None where z is None"),
        (lambda: contrastive_pca(X, X_AUG, ALPHA, 7), ValueError, "n_components: expected at most the width of x, 6"),
        (lambda: contrastive_pca(X, X_AUG, ALPHA, 2.5), TypeError, "n_components: expected an int >= 1, got 2.5"),
        (
            lambda: contrastive_pca(X, X_AUG, ALPHA, 2, solver="svd"),
            ValueError,
            "solver: expected one of 'auto', 'dense', 'op",
        ),
        (lambda: contrastive_pca(X, X_AUG, "drect", 2), ValueError, "alpha: expected one of"),
        (lambda: contrastive_pca(X * math.nan, X_AUG, ALPHA, 2), ValueError, "x: expected finite entries, got nan"),
        (
            lambda: contrastive_pca(X * 1e-160, None, ALPHA, 2),
            ValueError,
            "x: expected differences whose squares torch",
        ),
        (lambda: contrastive_pca(X, X_AUG / 0, ALPHA, 2), ValueError, "x_aug: expected finite entries, got nan or"),
        (lambda: contrastive_pca(X, X_AUG, ALPHA / 0, 2), ValueError, "alpha: expected finite weights, got nan or"),
        (lambda: contrastive_pca(X, X_AUG, -ALPHA, 2), ValueError, "alpha: expected weights >= 0, got -0.9"),
        (lambda: contrastive_pca(X, X_AUG, 0 * ALPHA, 2), ValueError, "alpha: expected a weight > 0 for some pair of"),
        (lambda: contrastive_pca(X, X_AUG, nan_weights, 2), ValueError, "x: expected samples and weights whose"),
        (
            lambda: contrastive_pca(X, X_AUG, nan_weights, 2, solver="operator"),
            ValueError,
            "x: expected samples and weights whose X_α is finite, got nan or inf",
        ),
        *[
            (
                lambda solver=solver: contrastive_pca(1e200 * X, X_AUG, ALPHA, 2, solver=solver),
                ValueError,
                "x: expected samples and weights whose X_α is finite, got nan or inf",
            )
            for solver in ("dense", "operator")
        ],
        *[
            (
                lambda alpha=alpha: contrastive_pca(X, X_AUG, alpha, 2, labels=torch.full((N,), 7)),
                ValueError,
                "alpha: expected a weight > 0 for some pair of samples of different classes, got none",
            )
            for alpha in (ALPHA, "infonce")
        ],
        (
            lambda: ContrastiveCovariance(X, X_AUG, ALPHA) @ np.eye(D),
            TypeError,
            "vectors: expected a tensor [D] or [D, k], got ndarray",
        ),
        (lambda: leading_eigenvectors(np.eye(3), 1), TypeError, "matrix: expected a tensor [rows, columns], got nd"),
        (lambda: leading_eigenvectors(X.T @ X / 0, 1), ValueError, "matrix: expected finite entries, got nan or inf"),
        (lambda: ContrastiveCovariance(X, X_AUG, ALPHA) @ X, ValueError, "vectors: expected shape [6, k], got (23, 6)"),
        (lambda: leading_eigenvectors(X, 2), ValueError, "matrix: expected shape [D, D], got (23, 6)"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_large_numbers_stay_finite():
    x, x_aug, alpha = draw()
    got = contrastive_pca((1e15 * x).float(), (1e15 * x_aug).float(), alpha.float(), 2)
    assert math.isfinite(got.eigenvalues.sum())
