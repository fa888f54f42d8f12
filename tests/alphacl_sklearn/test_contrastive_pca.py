"""ContrastivePCA is a scikit-learn estimator, and its components maximise the energy for their own α."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from alphacl_plugins import build_strategy, strategies
from alphacl_sklearn import ContrastivePCA


def digits(n=400):
    X, y = load_digits(return_X_y=True)
    return X[:n], y[:n]


def shifted(X, seed=0):
    """Another view: each image moved by at most a pixel."""
    rng = np.random.default_rng(seed)
    images = [np.roll(image.reshape(8, 8), rng.integers(-1, 2, size=2), axis=(0, 1)) for image in X]
    return np.stack(images).reshape(X.shape)


def covariance_by_numpy(X, X_aug, alpha, y=None):
    """Eq. 5 by broadcasting over all pairs, a mean over the positives."""
    pairs = X[:, None] - X[None]
    same = np.eye(len(X), dtype=bool) if y is None else y[:, None] == y[None]
    weights = np.where(same, 0, alpha)
    mass = weights.sum(axis=1)
    positives = same & ~np.eye(len(X), dtype=bool)
    count = np.maximum(positives.sum(axis=1) + (X_aug is not None), 1)
    weights = weights - (mass / count)[:, None] * positives
    total = np.einsum("ij,ijk,ijl->kl", weights, pairs, pairs, optimize=True)
    if X_aug is not None:
        step = X - X_aug
        total -= (step * (mass / count)[:, None]).T @ step
    return total


def subspace_distance(a, b):
    """Sine of the largest angle between the spans of orthonormal rows."""
    return np.sqrt(max(0.0, 1 - np.linalg.svd(a @ b.T, compute_uv=False).min() ** 2))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("estimator", [ContrastivePCA(), ContrastivePCA(1, strategy="uniform", n_iter=1)])
def test_scikit_learns_own_checks_pass(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few random points need not have a fixed point
        results = check_estimator(estimator, on_fail="raise")
    passed = [result for result in results if result["status"] == "passed"]
    assert len(passed) >= 40
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


@pytest.mark.parametrize("with_view", [True, False])
@pytest.mark.parametrize("with_labels", [True, False])
def test_a_fixed_alpha_gives_the_eigenvectors_of_its_covariance(with_view, with_labels):
    X, y = digits(60)
    y = y if with_labels else None
    X_aug = shifted(X) if with_view else None
    alpha = np.random.default_rng(0).random((60, 60))
    fitted = ContrastivePCA(5).fit(X, y, X_aug=X_aug, alpha=alpha)
    values, vectors = np.linalg.eigh(covariance_by_numpy(X, X_aug, alpha, y))
    assert_allclose(fitted.eigenvalues_, values[::-1][:5] / 60, rtol=1e-10)
    assert_allclose(np.abs(fitted.components_ @ vectors[:, ::-1][:, :5]), np.eye(5), atol=1e-8)
    assert_allclose(fitted.components_ @ fitted.components_.T, np.eye(5), atol=1e-12)
    assert (fitted.n_iter_, fitted.gap_) == (1, 0)
    assert_allclose(fitted.transform(X), (X - X.mean(axis=0)) @ fitted.components_.T, atol=1e-10)


def softmax_alpha(z, tau, p):
    d2 = np.square(z[:, None] - z[None]).sum(axis=2) / 2
    weights = np.exp(-(d2 ** (p / 2)) / tau)
    np.fill_diagonal(weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def test_one_turn_takes_alpha_from_the_pca():
    X, _ = digits(120)
    fitted = ContrastivePCA(4, strategy=strategies.Direct(tau=0.3, p=3), n_iter=1).fit(X)
    z = PCA(4, svd_solver="full").fit_transform(X)
    z /= np.sqrt(z.var(axis=0).sum())
    assert np.mean(np.square(z[:, None] - z[None]).sum(axis=2) / 2) == pytest.approx(1)
    values, vectors = np.linalg.eigh(covariance_by_numpy(X, None, softmax_alpha(z, 0.3, 3)))
    assert subspace_distance(fitted.components_, vectors[:, -4:].T) < 1e-6
    assert_allclose(fitted.eigenvalues_, values[::-1][:4] / 120, rtol=1e-10)
    assert fitted.n_iter_ == 1


def test_alpha_sees_the_distance_of_the_second_view():
    X, _ = digits(120)
    X_aug, tau = shifted(X), 0.4
    fitted = ContrastivePCA(4, strategy=strategies.InfoNCE(tau), n_iter=1).fit(X, X_aug=X_aug)
    pca = PCA(4, svd_solver="full").fit(X)
    unit = np.sqrt(pca.transform(X).var(axis=0).sum())
    z, z_aug = pca.transform(X) / unit, pca.transform(X_aug) / unit
    terms = np.exp((np.square(z - z_aug).sum(axis=1)[:, None] - np.square(z[:, None] - z[None]).sum(axis=2)) / 2 / tau)
    np.fill_diagonal(terms, 0)
    values = np.linalg.eigvalsh(covariance_by_numpy(X, X_aug, terms / (1 + terms.sum(axis=1, keepdims=True))))
    assert_allclose(fitted.eigenvalues_, values[::-1][:4] / 120, rtol=1e-9)


@pytest.mark.parametrize("name", ["direct", "entropy", "infonce", "square"])
def test_the_turns_end_where_the_components_answer_their_own_alpha(name):
    X, _ = digits()
    X_aug = shifted(X)
    options = {"tau": 500.0 if name == "square" else 1.0}
    fitted = ContrastivePCA(6, strategy=build_strategy(name, **options), n_iter=60, tol=1e-5).fit(X, X_aug=X_aug)
    assert 1 < fitted.n_iter_ < 60
    assert 0 <= fitted.gap_ <= 1e-5
    # Fit again with the α of the fixed point, held fixed: nothing moves.
    start = ContrastivePCA(6, strategy="uniform", n_iter=1).fit(X)
    z, z_aug = (fitted.transform(V) / np.sqrt(start.transform(X).var(axis=0).sum()) for V in (X, X_aug))
    d2 = np.square(z[:, None] - z[None]).sum(axis=2) / 2
    np.fill_diagonal(d2, np.inf)
    d2_pos = torch.from_numpy(np.square(z - z_aug).sum(axis=1) / 2)
    alpha = build_strategy(name, **options)(d2_pos, torch.from_numpy(d2)).neg.numpy()
    again = ContrastivePCA(6).fit(X, X_aug=X_aug, alpha=alpha)
    assert subspace_distance(again.components_, fitted.components_) < 0.1
    assert subspace_distance(start.components_, fitted.components_) > 0.3


def test_turns_that_do_not_settle_are_said():
    X, _ = digits()
    reduce = ContrastivePCA(6, strategy=strategies.InfoNCE(tau=0.01), n_iter=3)
    calls = (lambda: reduce.fit(X), lambda: reduce.fit_transform(X), lambda: make_pipeline(reduce).fit(X))
    for call in calls:
        with pytest.warns(
            ConvergenceWarning, match=r"W still moves \(residual 0\.\d+\) after 3 turns, tol is 0.01"
        ) as seen:
            call()
        assert [warning.filename for warning in seen] == [__file__]
    assert reduce.n_iter_ == 3
    assert reduce.residual_ > 1e-2
    more = ContrastivePCA(6, strategy=strategies.InfoNCE(tau=0.01), n_iter=300).fit(X)  # the advice, n_iter: no warning
    less = ContrastivePCA(6, strategy=strategies.InfoNCE(tau=2.0), n_iter=30).fit(X)  # and tau
    assert max(more.residual_, less.residual_) <= 1e-2
    assert less.n_iter_ < more.n_iter_


@pytest.mark.parametrize("n_components", [1, 2, 4, 9, 16, 36])
def test_the_defaults_converge_on_digits(n_components):
    X, y = digits()
    for options in ({}, {"y": y}, {"X_aug": shifted(X)}, {"y": y, "X_aug": shifted(X)}):
        fitted = ContrastivePCA(n_components).fit(X, **options)  # a ConvergenceWarning would be an error here
        assert fitted.residual_ <= 1e-2
        assert fitted.n_iter_ < 100


def test_turns_help_a_probe_where_one_turn_does_not():
    """Two components: the answer to the α of PCA flees what PCA shows; the end of the turns is better than both."""
    X, y = load_digits(return_X_y=True)
    train, test = slice(0, 1200), slice(1200, None)

    def accuracy(reducer):
        reducer.fit(X[train], y[train])
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        return probe.fit(reducer.transform(X[train]), y[train]).score(reducer.transform(X[test]), y[test])

    one_turn, many_turns = accuracy(ContrastivePCA(2, n_iter=1)), accuracy(ContrastivePCA(2))
    assert many_turns > accuracy(PCA(2)) + 0.03
    assert accuracy(PCA(2)) > one_turn


def test_alpha_does_not_depend_on_the_unit_of_the_data():
    X, _ = digits(100)
    one = ContrastivePCA(3, n_iter=1).fit(X)
    other = ContrastivePCA(3, n_iter=1).fit(1000 * X + 5)
    assert_allclose(other.components_, one.components_, atol=1e-8)
    assert_allclose(other.eigenvalues_, 1e6 * one.eigenvalues_, rtol=1e-9)


def test_uniform_weights_are_pca():
    X, _ = digits()
    fitted = ContrastivePCA(7, strategy="uniform").fit(X)
    assert subspace_distance(fitted.components_, PCA(7, svd_solver="full").fit(X).components_) < 1e-6
    assert fitted.n_iter_ == 1  # PCA already is the best answer


def test_noise_of_one_variance_subtracts_a_multiple_of_the_identity():
    """The mean over ±σ along each axis, whose covariance is that of the noise, instead of a draw."""
    X, _ = digits(50)
    n, d = X.shape
    alpha = np.random.default_rng(0).random((n, n))
    np.fill_diagonal(alpha, 0)
    base = covariance_by_numpy(X, None, alpha)
    sigma = 3.0
    noisy = sum(
        covariance_by_numpy(X, X + sign * sigma * np.sqrt(d) * axis, alpha) for axis in np.eye(d) for sign in (1, -1)
    )
    assert_allclose(noisy / (2 * d), base - sigma**2 * alpha.sum() * np.eye(d), atol=1e-8 * np.abs(base).max())


def test_labels_of_data_whitened_within_classes_give_fishers_discriminants():
    """Balanced classes, uniform α: X_α = a S_b - b S_w; with S_w = I its leading eigenvectors are those of S_b."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 50)
    X = rng.normal(size=(4, 6))[y] + rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    centred = X - np.stack([X[y == c].mean(axis=0) for c in range(4)])[y]
    whiten = np.linalg.inv(np.linalg.cholesky(centred.T @ centred / 200)).T
    fitted = ContrastivePCA(3, strategy="uniform", n_iter=1).fit(X @ whiten, y)
    directions = whiten @ fitted.components_.T
    fisher = LinearDiscriminantAnalysis(solver="svd").fit(X, y).scalings_[:, :3]
    assert subspace_distance(np.linalg.qr(directions)[0].T, np.linalg.qr(fisher)[0].T) < 1e-6
    raw = ContrastivePCA(3, strategy="uniform", n_iter=1).fit(X, y).components_
    assert subspace_distance(raw, np.linalg.qr(fisher)[0].T) > 0.1  # so the whitening matters


def test_labels_may_be_strings_and_help_a_probe():
    X, y = digits(1000)
    names = np.array([f"digit {label}" for label in y])
    train, test = slice(0, 700), slice(700, None)

    def accuracy(labels):
        reduce = ContrastivePCA(4, n_iter=1).fit(X[train], labels)
        z_train, z_test = (StandardScaler().fit_transform(reduce.transform(X[part])) for part in (train, test))
        return LogisticRegression().fit(z_train, names[train]).score(z_test, names[test])

    assert accuracy(names[train]) > accuracy(None) + 0.05


def test_it_lives_in_pipelines_with_names_clones_and_frames():
    X, y = digits(200)
    pipe = make_pipeline(StandardScaler(), ContrastivePCA(3, n_iter=1), LogisticRegression(max_iter=500))
    assert pipe.fit(X, y).score(X, y) > 0.5
    assert list(pipe[:-1].get_feature_names_out()) == ["contrastivepca0", "contrastivepca1", "contrastivepca2"]
    strategy = strategies.Inverse(gamma=3)
    copy = clone(ContrastivePCA(3, strategy=strategy, n_iter=7))
    assert copy.get_params() == {
        "n_components": 3,
        "strategy": strategy,
        "n_iter": 7,
        "tol": 1e-2,
        "block_size": 1024,
    }


def test_output_can_be_a_data_frame():
    X, _ = digits(50)
    pandas = pytest.importorskip("pandas")
    frame = ContrastivePCA(2, n_iter=1).set_output(transform="pandas").fit_transform(pandas.DataFrame(X))
    assert list(frame.columns) == ["contrastivepca0", "contrastivepca1"]


def test_a_pipeline_can_transform_the_second_view_too():
    X, _ = digits(200)
    X_aug = shifted(X)
    with sklearn.config_context(enable_metadata_routing=True):
        reduce = ContrastivePCA(3, n_iter=1).set_fit_request(X_aug=True)
        pipe = Pipeline([("scale", StandardScaler()), ("reduce", reduce)], transform_input=["X_aug"])
        pipe.fit(X, X_aug=X_aug)
    scale = StandardScaler().fit(X)
    by_hand = ContrastivePCA(3, n_iter=1).fit(scale.transform(X), X_aug=scale.transform(X_aug))
    assert_allclose(pipe[-1].components_, by_hand.components_, atol=1e-10)
    without = ContrastivePCA(3, n_iter=1).fit(scale.transform(X))
    assert subspace_distance(without.components_, by_hand.components_) > 0.1


def test_float32_stays_and_agrees_with_float64():
    X, _ = digits(300)
    single = ContrastivePCA(4, n_iter=1).fit(X.astype(np.float32))
    double = ContrastivePCA(4, n_iter=1).fit(X)
    assert single.components_.dtype == single.transform(X.astype(np.float32)).dtype == np.float32
    assert_allclose(single.components_, double.components_, atol=1e-5)


def test_the_inverse_of_all_components_is_exact():
    X, _ = digits(100)
    fitted = ContrastivePCA(64, n_iter=1).fit(X)
    assert_allclose(fitted.inverse_transform(fitted.transform(X)), X, atol=1e-9)


def test_arrays_that_cannot_be_written_are_read():
    X, _ = digits(50)
    X.flags.writeable = False
    ContrastivePCA(2, n_iter=1).fit(X[:, ::-1])


X50, Y50 = digits(50)


@pytest.mark.parametrize(
    ("options", "arguments", "error", "message"),
    [
        (
            {"n_components": 51},
            {},
            ValueError,
            r"n_components: expected at most min\(n_samples, n_features\) = 50, got 51",
        ),
        ({"strategy": "drect"}, {"alpha": np.ones((50, 50))}, ValueError, r"strategy: expected one of .*'direct'"),
        ({}, {"alpha": -np.ones((50, 50))}, ValueError, r"alpha: expected weights >= 0, got -1"),
        ({}, {"alpha": np.eye(50)}, ValueError, r"alpha: expected a weight > 0 for some pair of samples, got none"),
        (
            {},
            {"alpha": Y50[:, None] == Y50, "y": Y50},
            ValueError,
            r"alpha: expected a weight > 0 for some pair of samples of different classes, got none",
        ),
        ({}, {"alpha": np.full((50, 50), np.nan)}, ValueError, r"Input alpha contains NaN"),
        ({}, {"alpha": np.ones((50, 75))}, ValueError, r"alpha: .* \(50, 50\), got \(50, 75\); a cross-validation spl"),
        ({}, {"y": X50}, ValueError, r"y: expected a class for each of 50 samples, got shape \(50, 64\); a second"),
        ({"n_components": 0}, {}, ValueError, r"n_components: expected an int >= 1, got 0"),
        ({"n_components": 0.9}, {}, TypeError, r"n_components: expected an int >= 1, got 0.9"),
        ({"strategy": "drect"}, {}, ValueError, r"strategy: expected one of .*did you mean 'direct'"),
        ({"strategy": strategies.Direct}, {}, TypeError, r"strategy: expected a name or a strategy object"),
        ({"n_iter": 0}, {}, ValueError, r"n_iter: expected an int >= 1, got 0"),
        ({"tol": -1.0}, {}, ValueError, r"tol: expected a finite number >= 0, got -1.0"),
        ({"block_size": 0}, {}, ValueError, r"block_size: expected an int >= 1, got 0"),
        ({}, {"X_aug": X50[:3]}, ValueError, r"X_aug: expected shape \(50, 64\), got \(3, 64\)"),
        ({}, {"y": Y50[:7]}, ValueError, r"y: expected a class for each of 50 samples, got 7"),
        ({}, {"y": np.ones(50, int)}, ValueError, r"y: expected at least 2 classes, got 1"),
        ({}, {"y": X50[:, 2] / 7}, ValueError, r"Unknown label type: continuous"),
    ],
)
def test_errors_name_the_argument(options, arguments, error, message):
    with pytest.raises(error, match=message):
        ContrastivePCA(**options).fit(X50, **arguments)


def test_without_scikit_learn_the_install_line_is_said():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try:\n    import alphacl_sklearn\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'alphacl-plugins[sklearn]'" in done.stdout


def test_a_cross_validation_says_that_it_cannot_split_alpha():
    search = GridSearchCV(
        ContrastivePCA(), {"n_components": [2]}, cv=3, scoring=lambda *_: 0.0, error_score="raise", refit=False
    )
    with pytest.raises(
        ValueError, match=r"alpha: expected shape \(33, 33\), got \(33, 50\); a cross-validation splits its"
    ):
        search.fit(X50, alpha=np.ones((50, 50)))


def test_a_cross_validation_splits_the_second_view_with_the_samples():
    X, y = digits(150)
    X_aug = shifted(X)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            ContrastivePCA(5, strategy="uniform").set_fit_request(X_aug=True), LogisticRegression(max_iter=500)
        )
        scores = cross_val_score(pipe, X, y, cv=KFold(3), params={"X_aug": X_aug})
    train, test = next(KFold(3).split(X))
    reduce = ContrastivePCA(5, strategy="uniform").fit(X[train], y[train], X_aug=X_aug[train])
    probe = LogisticRegression(max_iter=500).fit(reduce.transform(X[train]), y[train])
    assert scores[0] == probe.score(reduce.transform(X[test]), y[test])


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-25), ("float64", 1e-200)])
def test_samples_whose_distances_would_be_0_are_an_error_and_constant_ones_are_not(dtype, scale):
    X = (np.random.default_rng(0).normal(size=(20, 4)) * scale).astype(dtype)
    with pytest.raises(
        ValueError, match=rf"^x: expected differences whose squares torch.{dtype} can hold, got at most"
    ):
        ContrastivePCA(2).fit(X)
    assert (ContrastivePCA(2).fit(np.ones_like(X)).eigenvalues_ == 0).all()
    half = (X / scale * 1e-3).astype("float16")  # fit converts these, the core computes in float32
    assert (ContrastivePCA(2).fit(half).eigenvalues_ > 0).all()
