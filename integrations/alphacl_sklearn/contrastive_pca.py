"""The best linear embedding under α-CL, without training: eigenvectors of the contrastive covariance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphacl_plugins._checks import check_count, check_non_negative
from alphacl_plugins.spectral import Eigenstructure, contrastive_covariance, leading_eigenvectors
from alphacl_plugins.strategies import Strategy, build_strategy

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        "alphacl_sklearn needs scikit-learn 1.6 or later: pip install 'alphacl-plugins[sklearn]'"
    ) from error

Array = npt.NDArray[Any]


class ContrastivePCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """PCA of the contrastive covariance X_α: the linear embedding with the largest energy, no network, no epochs.

    ``argmax_W tr(W X_α Wᵀ)  s.t.  W Wᵀ = I`` for a fixed α. With a strategy, α and W take turns: α from the distances
    of the embedding, W from the mean of the α seen so far in closed form, until W is the best answer to its own α. (The
    mean, because answering the latest α alone can run in circles.) The distances are in units of their mean over all
    pairs in the PCA of X, where the turns begin, so that τ means the same for any data.

    What counts as a positive of a sample: its row of ``X_aug``, and with ``y`` the other samples of its class, which
    are then no candidates. With neither there is none, and only α tells this from PCA. (No noise is made up for a
    second view: in expectation, noise of one variance in all directions subtracts a multiple of the identity from X_α
    and leaves its eigenvectors as they are.)

    Args:
        n_components: rows of W, in [1, n_features]; None: the smaller of n_samples and n_features.
        strategy: a registered name (its default options), an import path, or a strategy object.
        n_iter: at most so many turns, >= 1; each costs O(n_samples² · n_features).
        tol: the turns end when the best answer to the α of W has at most so much more energy than W itself, relative to
            its own, >= 0.
        block_size: samples that are compared with all others at once; memory is O(block_size · n_samples).

    Attributes:
        components_: W, orthonormal rows, ``[n_components, n_features]``.
        eigenvalues_: of X_α at the mean α per sample, largest first, ``[n_components]``; negative: a direction in which
            positives differ more than samples do.
        mean_: of X, subtracted before the projection.
        n_iter_: turns that were made; 1 with a fixed ``alpha``.
        gap_: what ``tol`` is compared with, after the last turn; 0 with a fixed ``alpha``, nan for ``n_iter=1``.
        n_features_in_, feature_names_in_: as in all of scikit-learn.

    Raises: ValueError, TypeError at `fit` for an option outside the above. Warns: ConvergenceWarning if ``n_iter > 1``
        turns do not reach ``tol``: some α, small τ above all, leave no W that is the best answer to its own α.
    Source: Tian (2022), arXiv:2201.12680, Corollaries 1 and 2.

    >>> import numpy as np
    >>> X = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> ContrastivePCA(1).fit(X).components_
    array([[1., 0.]])
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        strategy: str | Strategy = "direct",
        n_iter: int = 20,
        tol: float = 1e-3,
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
            alpha: importance of each pair of samples, held fixed, in place of the strategy.

        Shape: ``X``, ``X_aug`` ``[n_samples, n_features]``; ``y [n_samples]``; ``alpha [n_samples, n_samples]``.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        n_components = self._n_components(X)
        check_count("n_iter", self.n_iter)
        check_non_negative("tol", self.tol)
        labels = None if y is None else _labels(y, len(X))
        x, x_aug = _tensor(X), _like("X_aug", X_aug, X, X.shape)
        fixed = _like("alpha", alpha, X, (len(X), len(X)))
        self.mean_ = X.mean(axis=0)
        if fixed is not None:
            matrix = contrastive_covariance(x, x_aug, fixed, labels=labels, block_size=self.block_size)
            found, self.n_iter_, self.gap_ = leading_eigenvectors(matrix, n_components), 1, 0.0
        else:
            found = self._take_turns(x, x_aug, labels, self._build_strategy(), n_components)
        self.components_ = found.components.numpy()
        self.eigenvalues_ = found.eigenvalues.numpy() / len(X)
        return self

    def _take_turns(
        self, x: Tensor, x_aug: Tensor | None, labels: Tensor | None, strategy: Strategy, n_components: int
    ) -> Eigenstructure:
        origin = _tensor(self.mean_)
        x = x - origin
        x_aug = None if x_aug is None else x_aug - origin
        found = leading_eigenvectors(x.T @ x, n_components)
        variance = found.eigenvalues.sum() / len(x)  # the mean distance of all pairs
        unit = variance.sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        mean = x.new_zeros(())
        self.gap_ = float("nan")
        for turn in range(self.n_iter):
            projection = found.components.T / unit
            latest = contrastive_covariance(
                x,
                x_aug,
                strategy,
                z=x @ projection,
                z_aug=None if x_aug is None else x_aug @ projection,
                labels=labels,
                block_size=self.block_size,
            )
            if turn > 0:
                energy = ((found.components @ latest) * found.components).sum()
                best = leading_eigenvectors(latest, n_components).eigenvalues
                self.gap_ = float((best.sum() - energy) / best.abs().sum().clamp_min(torch.finfo(x.dtype).tiny))
                if self.gap_ <= self.tol:
                    break
            self.n_iter_ = turn + 1
            mean = mean + (latest - mean) / (turn + 1)
            found = leading_eigenvectors(mean, n_components)
        else:
            if self.n_iter > 1:
                warnings.warn(
                    f"ContrastivePCA: a gap of {self.gap_:.2g} is left after {self.n_iter} turns, "
                    f"tol is {self.tol:.2g}; increase n_iter, tol or the strategy's tau",
                    ConvergenceWarning,
                    stacklevel=3,
                )
        return found

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
        if self.n_components > X.shape[1]:
            raise ValueError(f"n_components: expected at most n_features = {X.shape[1]}, got {self.n_components!r}")
        return int(self.n_components)

    def _build_strategy(self) -> Strategy:
        if isinstance(self.strategy, str):
            return build_strategy(self.strategy)
        if isinstance(self.strategy, type) or not callable(self.strategy):
            raise TypeError(f"strategy: expected a name or a strategy object, got {self.strategy!r}")
        return self.strategy

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _labels(y: npt.ArrayLike, n: int) -> Tensor:
    check_classification_targets(y)
    classes, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
    if len(labels) != n:
        raise ValueError(f"y: expected a class for each of {n} samples, got {len(labels)}")
    if len(classes) < 2:
        raise ValueError("y: expected at least 2 classes, got 1: no sample would have another to be told from")
    return torch.from_numpy(labels.astype(np.int64))


def _like(name: str, value: npt.ArrayLike | None, X: Array, shape: tuple[int, ...]) -> Tensor | None:
    if value is None:
        return None
    array = check_array(value, dtype=X.dtype, input_name=name)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return _tensor(array)


def _tensor(array: Array) -> Tensor:
    """Share the array's memory where PyTorch can."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
