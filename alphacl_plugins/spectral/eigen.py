"""The leading eigenvectors of a symmetric matrix, or of an operator that is never formed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.caller_warnings import warn_caller
from alphacl_plugins.checks import check_count, check_matrix
from alphacl_plugins.functional import promote, without_autocast
from alphacl_plugins.spectral.covariance import ContrastiveCovariance


class Eigenstructure(NamedTuple):
    """Unit eigenvectors and their eigenvalues, largest first.

    Attributes:
        components: the eigenvectors, one a row, ``[n, D]``.
        eigenvalues: ``[n]``.
    """

    components: Tensor
    eigenvalues: Tensor


@torch.no_grad()
def leading_eigenvectors(matrix: Tensor | ContrastiveCovariance, n_components: int) -> Eigenstructure:
    """Return the largest eigenvalues of a symmetric matrix or a `ContrastiveCovariance`, and their eigenvectors.

    A matrix is decomposed in full. An operator is not formed: block Krylov iteration (``block = n + 8`` columns) with
    full orthogonalisation, until the residuals ``||X v - λ v||`` are at the precision of the dtype.
    Each eigenvector's largest entry is positive, so that its sign is determined.

    Args:
        matrix: symmetric, ``[D, D]``.
        n_components: n, how many, in [1, D].

    Returns:
        components ``[n, D]``, eigenvalues ``[n]``.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the matrix is not square or not finite, or ``n_components`` is not in [1, D].

    Warns:
        RuntimeWarning: residuals of an operator stay larger.

    Examples:
        >>> leading_eigenvectors(torch.diag(torch.tensor([1.0, 3.0, -2.0])), 2).eigenvalues
        tensor([3., 1.])
    """
    if not isinstance(matrix, ContrastiveCovariance):
        check_matrix("matrix", matrix)
    width = matrix.shape[0]
    if matrix.shape[1] != width:
        raise ValueError(f"matrix: expected shape [D, D], got {tuple(matrix.shape)}")
    check_count("n_components", n_components)
    if n_components > width:
        raise ValueError(f"n_components: expected at most the width of x, {width}, got {n_components}")
    if isinstance(matrix, Tensor):
        (matrix,) = promote(matrix)
        if not matrix.isfinite().all():
            raise ValueError("matrix: expected finite entries, got nan or inf")
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        values, vectors = values.flip(0)[:n_components], vectors.flip(1)[:, :n_components]
    else:
        with without_autocast(matrix.x.device):
            values, vectors = _krylov(matrix, n_components)
    return Eigenstructure(with_positive_peaks(vectors.T), values)


def with_positive_peaks(vectors: Tensor) -> Tensor:
    """Give each row of ``[n, D]`` the sign that makes its largest entry positive."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def _krylov(operator: ContrastiveCovariance, n: int, restarts: int = 100) -> tuple[Tensor, Tensor]:
    """Return leading eigenpairs by restarted block Krylov spaces: Rayleigh-Ritz on [V, XV, X²V, ...]."""
    like, width = operator.x, operator.shape[0]
    block = n + 8 if 2 * (n + 8) <= width else width  # room for a second space, or the whole space, which is exact
    generator = torch.Generator().manual_seed(0)  # a start of its own: the same result whatever was drawn before
    start = torch.randn(width, block, generator=generator, dtype=torch.float64, device="cpu").to(like)
    basis = torch.linalg.qr(start).Q
    eps = torch.finfo(like.dtype).eps
    tolerance = 100 * eps
    for _ in range(restarts):
        span, image = basis, operator @ basis
        latest = image
        for _ in range(3):
            check_finite_product(latest)
            new = _new_directions(latest, span, at_least=10 * eps)[:, : width - span.shape[1]]
            if new.shape[1] == 0:  # X maps the span into itself: what it holds is exact
                break
            latest = operator @ new
            span, image = torch.cat([span, new], dim=1), torch.cat([image, latest], dim=1)
        small = span.T @ image
        check_finite_product(small)
        values, rotation = torch.linalg.eigh((small + small.T) / 2)
        scale = values.abs().max()
        values, rotation = values.flip(0)[:block], rotation.flip(1)[:, :block]
        basis = torch.linalg.qr(span @ rotation).Q
        residual = image @ rotation[:, :n] - (span @ rotation[:, :n]) * values[:n]
        if residual.norm(dim=0).max() <= tolerance * scale:
            break
    else:
        warn_caller(
            f"leading_eigenvectors: residuals of {float(residual.norm(dim=0).max() / scale):.1e} are left after "
            f"{restarts} restarts, expected {tolerance:.1e}; a dense X_α has none",
            RuntimeWarning,
        )
    return values[:n], (span @ rotation)[:, :n]


def _new_directions(image: Tensor, span: Tensor, at_least: float) -> Tensor:
    """Return orthonormal columns for the part of an image outside the span, leaving out rounding noise."""
    scale = torch.linalg.matrix_norm(image, 2)
    for _ in range(2):
        image = image - span @ (span.T @ image)
    directions, sizes, _ = torch.linalg.svd(image, full_matrices=False)
    directions = directions[:, sizes > at_least * scale]
    basis: Tensor = torch.linalg.qr(directions - span @ (span.T @ directions)).Q
    return basis


def check_finite_product(product: Tensor) -> None:
    """Raise unless X_α, or a product with it, is finite. An eigen-solver waits for it anyway, so the check is free."""
    if not product.isfinite().all():
        raise ValueError(
            "x: expected samples and weights whose X_α is finite, got nan or inf; x is too large for its dtype, or "
            "not finite, or the strategy's weights are not"
        )
