"""The best linear embedding under α-CL, without training: eigenvectors of the contrastive covariance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.caller_warnings import warn_caller
from alphacl_plugins.checks import check_count, check_non_negative
from alphacl_plugins.spectral import contrastive_pca, take_turns
from alphacl_plugins.strategies import AnyStrategy, resolve_strategy

try:
    import numpy as np
    import numpy.typing as npt
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        "alphacl_sklearn needs scikit-learn 1.6 or later: pip install 'alphacl-plugins[sklearn]'"
    ) from error

Array = npt.NDArray[Any]

_LIBRARIES = ("alphacl_plugins", "alphacl_sklearn", "sklearn", "joblib", "torch")  # no line of theirs is the user's


class ContrastivePCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """PCA of the contrastive covariance X_α: the linear embedding with the largest energy, no network, no epochs.

    ``argmax_W tr(W X_α Wᵀ)  s.t.  W Wᵀ = I`` for a fixed α. With a strategy, α and W take turns from PCA on, until W
    spans eigenvectors of its own X_α: for ``"infonce"`` a stationary point of that loss among the orthonormal linear
    embeddings (`alphacl_plugins.spectral.take_turns` says how). Distances are in units of their mean over all pairs in
    the PCA of X, so that τ means the same for any data.

    What counts as a positive of a sample: its row of ``X_aug``, and with ``y`` the other samples of its class, which
    are then no negatives. With neither there is none, and only α tells this from PCA. (No noise is made up for a
    second view: in expectation, noise of one variance in all directions subtracts a multiple of the identity from X_α
    and leaves its eigenvectors as they are.)

    Args:
        n_components: rows of W, in [1, min(n_samples, n_features)]; None: the most.
        strategy: a registered name (its default options), an import path, or a strategy object.
        n_iter: largest number of turns, >= 1; each costs O(n_samples² · n_features). 1: the answer to the α of PCA.
        tol: the turns end when so small a part of ``X_α Wᵀ``, in [0, 1], and of the next W lies outside W, >= 0.
        block_size: samples that are compared with all others at once; memory is
            O(block_size · n_samples + n_features²).

    Attributes:
        components_: W, orthonormal rows, ``[n_components, n_features]``.
        eigenvalues_: of X_α per sample, largest first, ``[n_components]``; negative: a direction in which positives
            differ more than samples do.
        mean_: of X, subtracted before the projection.
        n_iter_: turns that were made; 1 with a fixed ``alpha``.
        residual_: what ``tol`` is compared with, of W, or of PCA with ``n_iter=1``; 0 with a fixed ``alpha``.
        gap_: by how much the best answer to the α of that W has more energy, relative to its own; 0 with a fixed
            ``alpha``. Above 0 after the turns have ended, W spans other eigenvectors than the leading ones. At 0, W is
            the best answer to its own α, and for a min player such as ``"infonce"`` no embedding is better; a
            small τ may leave no such W.
        n_features_in_: as in all of scikit-learn.
        feature_names_in_: as in all of scikit-learn.

    Raises:
        ValueError, TypeError: at `fit` for an option outside the above. Warns: ConvergenceWarning if ``n_iter > 1``
            turns do not reach ``tol``.

    Source:
        Tian (2022), arXiv:2201.12680, Corollaries 1 and 2.

    Examples:
        >>> import numpy as np
        >>> X = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> ContrastivePCA(1).fit(X).components_
        array([[1., 0.]])
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        strategy: str | AnyStrategy = "infonce",
        n_iter: int = 100,
        tol: float = 1e-2,
        block_size: int = 1024,
    ) -> None:
        self.n_components = n_components
        self.strategy = strategy
        self.n_iter = n_iter
        self.tol = tol
        self.block_size = block_size

    def fit(
        self,
        X: Any,
        y: npt.ArrayLike | None = None,
        *,
        X_aug: npt.ArrayLike | None = None,
        alpha: npt.ArrayLike | None = None,
    ) -> ContrastivePCA:
        """Find the components.

        Args:
            X: samples.
            y: class of each sample: the samples of one class become positives of each other.
            X_aug: their other view.
            alpha: importance >= 0 of each pair of samples, held fixed, in place of the strategy. (A cross-validation
                would split its rows alone: use a strategy there.)

        Shape:
            ``X``, ``X_aug`` ``[n_samples, n_features]``; ``y [n_samples]``; ``alpha [n_samples, n_samples]``.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        n_components = self._n_components(X)
        check_count("n_iter", self.n_iter)
        check_non_negative("tol", self.tol)
        check_count("block_size", self.block_size)
        labels = None if y is None else _labels(y, len(X))
        x, x_aug = _tensor(X), _second_view(X_aug, X)
        strategy, fixed = resolve_strategy(self.strategy), _importance(alpha, X)
        self.mean_ = X.mean(axis=0)
        options: dict[str, Any] = {"labels": labels, "block_size": self.block_size}
        if fixed is not None:
            components, eigenvalues = contrastive_pca(x, x_aug, fixed, n_components, solver="dense", **options)
            self.n_iter_, self.residual_, self.gap_ = 1, 0.0, 0.0
        else:
            turns = take_turns(x, x_aug, strategy, n_components, max_iter=self.n_iter, tol=self.tol, **options)
            components, eigenvalues = turns.components, turns.eigenvalues
            self.n_iter_, self.residual_, self.gap_ = turns.n_iter, turns.residual, turns.gap
            if self.n_iter > 1 and not turns.converged:
                warn_caller(
                    f"ContrastivePCA: W still moves (residual {turns.residual:.2g}) after {turns.n_iter} turns, tol is "
                    f"{self.tol:.2g}; increase n_iter, or the strategy's tau: the larger, the fewer turns",
                    ConvergenceWarning,
                    skip=_LIBRARIES,
                )
        self.components_ = components.numpy()
        self.eigenvalues_ = eigenvalues.numpy() / len(X)
        return self

    def transform(self, X: Any) -> Array:
        """Embed: ``(X - mean_) @ components_.T``, ``[n_samples, n_components]``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        embedding: Array = (X - self.mean_) @ self.components_.T
        return embedding

    def inverse_transform(self, X: Any) -> Array:
        """Return the samples of the components' span with this embedding, ``[n_samples, n_features]``."""
        check_is_fitted(self)
        samples: Array = check_array(X, dtype=(np.float64, np.float32)) @ self.components_ + self.mean_
        return samples

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _n_components(self, X: Array) -> int:
        if self.n_components is None:
            return int(min(X.shape))
        check_count("n_components", self.n_components)
        if self.n_components > min(X.shape):
            raise ValueError(
                f"n_components: expected at most min(n_samples, n_features) = {min(X.shape)}, got {self.n_components!r}"
            )
        return int(self.n_components)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _labels(y: npt.ArrayLike, n: int) -> Tensor:
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        raise ValueError(
            f"y: expected a class for each of {n} samples, got shape {y.shape}; a second view is X_aug=..., weights of "
            "pairs are alpha=..."
        )
    check_classification_targets(y)
    classes, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
    if len(labels) != n:
        raise ValueError(f"y: expected a class for each of {n} samples, got {len(labels)}")
    if len(classes) < 2:
        raise ValueError("y: expected at least 2 classes, got 1: no sample would have another to be told from")
    return torch.from_numpy(labels.astype(np.int64))


def _second_view(X_aug: npt.ArrayLike | None, X: Array) -> Tensor | None:
    if X_aug is None:
        return None
    array = check_array(X_aug, dtype=X.dtype, input_name="X_aug")
    if array.shape != X.shape:
        raise ValueError(f"X_aug: expected shape {X.shape}, got {array.shape}")
    return _tensor(array)


def _importance(alpha: npt.ArrayLike | None, X: Array) -> Tensor | None:
    if alpha is None:
        return None
    array = check_array(alpha, dtype=X.dtype, input_name="alpha")
    if array.shape != (len(X), len(X)):
        split = len(array) == len(X) < array.shape[1]
        hint = "; a cross-validation splits its rows alone, so use a strategy there" if split else ""
        raise ValueError(f"alpha: expected shape ({len(X)}, {len(X)}), got {array.shape}{hint}")
    return _tensor(array)


def _tensor(array: Array) -> Tensor:
    """Share the array's memory where PyTorch can."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
