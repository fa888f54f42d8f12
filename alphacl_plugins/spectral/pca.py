"""The max player in closed form: PCA of the contrastive covariance.

With α held fixed and a linear embedding ``z = W x``, ``W Wᵀ = I``, the energy is ``½ tr(W X_α Wᵀ)``: its maximum is the
leading eigenvectors of X_α. Unlike a covariance, X_α can have negative eigenvalues: directions in which the views
of a sample differ more than samples do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphacl_plugins.checks import check_choice
from alphacl_plugins.spectral.covariance import ContrastiveCovariance
from alphacl_plugins.spectral.eigen import Eigenstructure, check_finite_product, leading_eigenvectors
from alphacl_plugins.strategies import AnyStrategy


def contrastive_pca(
    x: Tensor,
    x_aug: Tensor | None,
    alpha: Tensor | AnyStrategy | str,
    n_components: int,
    *,
    labels: Tensor | None = None,
    block_size: int = 1024,
    solver: str = "auto",
) -> Eigenstructure:
    """Return the best linear embedding for a fixed α: the leading eigenvectors of the contrastive covariance X_α.

    ``argmax_W ½ tr(W X_α Wᵀ)  s.t.  W Wᵀ = I``; embed with ``x @ components.T``. Without the constraint of orthonormal
    rows the maximum would be infinite; with a constraint on the length of W alone all rows would be the same.

    Args:
        x: the N samples, ``[N, D]``.
        x_aug: their other view, ``[N, D]``; None: see `ContrastiveCovariance`.
        alpha: a tensor of importances >= 0, ``[N, N]`` (diagonal ignored), or a strategy or its name, such as
            ``"infonce"``, which sees the distances of ``x`` itself.
        n_components: n, rows of W, in [1, D].
        labels: classes ``[N]``, integers; the samples of a class are positives of each other.
        block_size: anchors that are compared with all samples at once.
        solver: "dense" forms X_α; "operator" only multiplies with it; "auto": dense up to a width of 4,096.

    Returns:
        components ``[n, D]``, eigenvalues ``[n]``, largest first.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: as `ContrastiveCovariance` and `leading_eigenvectors`; or ``x``, ``x_aug`` or ``alpha`` is not
            finite, or the squares of the differences in ``x`` are too small for its dtype, or a tensor ``alpha`` has a
            weight < 0, or none above 0 for any pair.

    Source:
        Tian (2022), Corollary 2, Eq. 9.

    Examples:
        >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> contrastive_pca(x, x, torch.ones(4, 4), n_components=1).components
        tensor([[1., 0.]])
    """
    check_choice("solver", solver, ("auto", "dense", "operator"))
    operator = ContrastiveCovariance(x, x_aug, alpha, labels=labels, block_size=block_size)
    check_samples(x, x_aug, labels)
    if isinstance(alpha, Tensor):
        check_importance(alpha, labels)
    if solver == "operator" or (solver == "auto" and operator.shape[0] > 4096):
        return leading_eigenvectors(operator, n_components)
    matrix = operator.dense()
    check_finite_product(matrix)
    return leading_eigenvectors(matrix, n_components)


def check_samples(x: Tensor, x_aug: Tensor | None, labels: Tensor | None) -> None:
    """Raise unless the samples are finite, not too close, and of two classes, so that some pair can have a weight."""
    for name, value in (("x", x), ("x_aug", x_aug)):
        if value is not None and not value.isfinite().all():
            raise ValueError(f"{name}: expected finite entries, got nan or inf")
    dtype = torch.promote_types(x.dtype, torch.float32)  # of the computation
    largest = (x - x[:1]).abs().max().to(dtype)
    if largest > 0 and largest.square() < torch.finfo(dtype).tiny:
        raise ValueError(
            f"x: expected differences whose squares {dtype} can hold, got at most {largest.item():.2g}; scale x"
        )
    if labels is not None and (labels == labels[0]).all():
        raise ValueError("alpha: expected a weight > 0 for some pair of samples of different classes, got none")


def check_importance(alpha: Tensor, labels: Tensor | None = None) -> None:
    """Raise unless α ``[N, N]`` is finite and >= 0, and not 0 for all pairs of samples (of different classes)."""
    kind = "samples" if labels is None else "samples of different classes"
    same = torch.eye(len(alpha), dtype=torch.bool, device=alpha.device)
    weights = alpha.masked_fill(same if labels is None else same | (labels[:, None] == labels), 0.0)
    if not weights.isfinite().all():
        raise ValueError("alpha: expected finite weights, got nan or inf")
    if weights.min() < 0:
        raise ValueError(f"alpha: expected weights >= 0, got {float(weights.min()):.4g}")
    if weights.max() == 0:
        raise ValueError(f"alpha: expected a weight > 0 for some pair of {kind}, got none")
