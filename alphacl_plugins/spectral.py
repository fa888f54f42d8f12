"""The max player in closed form: PCA of the contrastive covariance X_α = C_α[x, x], from α as a tensor or a strategy.

With α held fixed and a linear embedding ``z = W x``, ``W Wᵀ = I``, the energy is ``½ tr(W X_α Wᵀ)``: its maximum is the
leading eigenvectors of X_α. Unlike a covariance, X_α can have negative eigenvalues: directions in which the views
of a sample differ more than samples do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins._checks import check_count, check_labels, check_matrix, check_same_shape
from alphacl_plugins.functional import paired_squared_distances, promote, squared_distances
from alphacl_plugins.strategies.base import Strategy


class ContrastiveCovariance:
    """The contrastive covariance ``X_α = C_α[x, x]`` as a linear operator: symmetric, never larger than its use needs.

    ``X_α = xᵀ(diag(r + c) - α - αᵀ) x - (x - x')ᵀ diag(r) (x - x')``, r and c the row and column sums of α: a product
    with the Laplacian of α. A strategy's α is formed for ``block_size`` anchors at a time and never held whole.

    With ``labels``, the other samples of the anchor's class are its positives too, and no candidates: the second term
    becomes ``Σ_i r_i · mean over the positives p of (x_i - p)(x_i - p)ᵀ``, and a strategy sees the mean distance to
    them.

    Args:
        x: the N samples.
        x_aug: their other view; None: samples without augmentation, whose only positives are those of ``labels``.
        alpha: a tensor of importances (diagonal and, with labels, pairs of one class are ignored), or a strategy,
            whose candidate weights are used; its positive has their sum as its weight, as in the paper.
        z: embedding on which a strategy measures distances; None: ``x`` itself.
        z_aug: other view of the embedding, if there is an ``x_aug``.
        labels: class of each sample.
        block_size: anchors that are compared with all samples at once; memory is O(block_size · N + N · D).

    Shape: ``x``, ``x_aug`` ``[N, D]``; ``alpha [N, N]``; ``z``, ``z_aug`` ``[N, E]``; ``labels [N]``; it: ``[D, D]``.
    Raises: TypeError, ValueError if shapes or dtypes are not these, or N < 2.
    Source: Tian (2022), arXiv:2201.12680, Eq. 5 and Corollary 2.

    >>> x = torch.eye(3)
    >>> ContrastiveCovariance(x, None, torch.ones(3, 3)) @ torch.tensor([1.0, -1.0, 0.0])
    tensor([ 6., -6.,  0.])
    """

    def __init__(
        self,
        x: Tensor,
        x_aug: Tensor | None,
        alpha: Tensor | Strategy,
        *,
        z: Tensor | None = None,
        z_aug: Tensor | None = None,
        labels: Tensor | None = None,
        block_size: int = 1024,
    ) -> None:
        check_matrix("x", x)
        n = len(x)
        if n < 2:
            raise ValueError(f"x: expected at least 2 samples to compare, got {n}")
        if x_aug is not None:
            check_same_shape("x_aug", x_aug, "x", x)
        if labels is not None:
            check_labels("labels", labels, n)
        check_count("block_size", block_size)
        _check_alpha(alpha, n)
        z, z_aug = _embedding(x, x_aug, z, z_aug)
        centre = x.detach().mean(dim=0)  # X_α does not depend on the origin, but its rounding does
        parts = [part.detach() for part in (x, x_aug, alpha) if isinstance(part, Tensor)]
        x = promote(*parts)[0]
        self.x = x - centre
        self.step = None if x_aug is None else x - x_aug.detach()
        self.alpha, self.z, self.z_aug, self.labels, self.block_size = alpha, z.detach(), z_aug, labels, block_size
        self._classes = None if labels is None else _Classes.of(labels)

    @property
    def shape(self) -> torch.Size:
        """``[D, D]``."""
        return torch.Size((self.x.shape[1], self.x.shape[1]))

    @torch.no_grad()
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply ``[D]`` or ``[D, k]``: X_α itself is not formed, which costs O(N² k) for each product."""
        if vectors.ndim not in (1, 2) or len(vectors) != self.shape[0]:
            raise ValueError(f"vectors: expected shape [{self.shape[0]}, k], got {tuple(vectors.shape)}")
        columns = vectors[:, None] if vectors.ndim == 1 else vectors
        with torch.autocast(self.x.device.type, enabled=False):
            columns = columns.to(self.x.dtype)
            samples, sums = self._laplacian(self.x @ columns)
            product = self.x.T @ samples
            if self.step is not None:
                product -= self.step.T @ (self._share(sums)[:, None] * (self.step @ columns))
        return product[:, 0] if vectors.ndim == 1 else product

    @torch.no_grad()
    def dense(self) -> Tensor:
        """Form X_α, ``[D, D]``, exactly symmetric."""
        width = self.shape[0]
        sums, column_sums, cross = self._zeros(), self._zeros(), self.x.new_zeros(width, width)
        with torch.autocast(self.x.device.type, enabled=False):
            for rows, weights in self._rows():
                sums[rows] = weights.sum(dim=1)
                column_sums += weights.sum(dim=0)
                cross += self.x[rows].T @ (weights @ self.x)
            result = self.x.T @ ((sums + column_sums)[:, None] * self.x) - (cross + cross.T)
            if self._classes is not None:
                result -= self.x.T @ self._classes.laplacian(self.x, self._share(sums))
            if self.step is not None:
                result -= self.step.T @ (self._share(sums)[:, None] * self.step)
        return (result + result.T) / 2

    def _laplacian(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply the Laplacian of the signed weights of all pairs of samples with ``[N, k]``; and r, ``[N]``."""
        sums, column_sums, product = self._zeros(), self._zeros(), torch.zeros_like(signal)
        for rows, weights in self._rows():
            sums[rows] = weights.sum(dim=1)
            column_sums += weights.sum(dim=0)
            product[rows] -= weights @ signal
            product -= weights.T @ signal[rows]
        product += (sums + column_sums)[:, None] * signal
        if self._classes is not None:
            product -= self._classes.laplacian(signal, self._share(sums))
        return product, sums

    def _rows(self) -> Iterator[tuple[slice, Tensor]]:
        """α of some anchors against all samples, ``[m, N]``, block by block."""
        n = len(self.x)
        d2_pos = None if isinstance(self.alpha, Tensor) else self._positive_distances()
        for start in range(0, n, self.block_size):
            rows = slice(start, min(start + self.block_size, n))
            anchors = torch.arange(rows.start, rows.stop, device=self.x.device)
            excluded = torch.zeros(len(anchors), n, dtype=torch.bool, device=self.x.device)
            excluded.scatter_(1, anchors[:, None], True)
            if self.labels is not None:
                excluded |= self.labels[rows, None] == self.labels[None, :]
            if isinstance(self.alpha, Tensor):
                weights = self.alpha[rows].to(self.x.dtype)
            else:
                assert d2_pos is not None  # as above
                d2_neg = squared_distances(self.z[rows], self.z).masked_fill_(excluded, math.inf)
                answer = self.alpha(d2_pos[rows], d2_neg)
                if not isinstance(answer, tuple):
                    raise TypeError(f"alpha: expected a strategy that returns PairWeights, got {type(answer).__name__}")
                weights = answer[0].to(self.x.dtype)
            yield rows, weights.masked_fill(excluded, 0.0)

    def _positive_distances(self) -> Tensor:
        """Mean distance of each anchor to its positives, ``[N]``; 0 without any."""
        total = 0.0 if self.z_aug is None else paired_squared_distances(self.z, self.z_aug)
        if self._classes is not None:
            total = total + self._classes.summed_distances(self.z)
        if not isinstance(total, Tensor):
            return self.z.new_zeros(len(self.z), dtype=promote(self.z)[0].dtype)
        return total / self._positives().to(total.dtype)

    def _positives(self) -> Tensor:
        """How many positives each anchor has, ``[N]``; 1 where it has none, so that it can divide."""
        views = 0 if self.step is None else 1
        others = self._zeros() if self._classes is None else self._classes.others.to(self.x.dtype)
        return (others + views).clamp_min(1)

    def _share(self, sums: Tensor) -> Tensor:
        """Weight of each positive of an anchor: its row sum, divided among them."""
        return sums / self._positives()

    def _zeros(self) -> Tensor:
        return self.x.new_zeros(len(self.x))


class _Classes(NamedTuple):
    """Samples sorted into classes: sums over a class cost O(N), not O(N²)."""

    of_sample: Tensor  # [N], in 0 ... C-1
    sizes: Tensor  # [C]

    @classmethod
    def of(cls, labels: Tensor) -> _Classes:
        _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        return cls(index, counts)

    @property
    def others(self) -> Tensor:
        """How many other samples have the class of each, ``[N]``."""
        return self.sizes[self.of_sample] - 1

    def sum(self, values: Tensor) -> Tensor:
        """Sum rows ``[N, k]`` over the class of each, ``[N, k]``."""
        totals = values.new_zeros(len(self.sizes), values.shape[1]).index_add_(0, self.of_sample, values)
        return totals[self.of_sample]

    def laplacian(self, signal: Tensor, weights: Tensor) -> Tensor:
        """Apply the Laplacian of ``w_ij = weights_i`` for i, j of one class to ``[N, k]``."""
        size, column = self.sizes[self.of_sample].to(signal.dtype)[:, None], weights[:, None]
        degree = size * column + self.sum(column)
        return degree * signal - column * self.sum(signal) - self.sum(column * signal)

    def summed_distances(self, z: Tensor) -> Tensor:
        """Sum of half the squared distances of each sample to those of its class, ``[N]``."""
        (z,) = promote(z)
        z = z - z.mean(dim=0)
        squares, size = z.square().sum(dim=1, keepdim=True), self.sizes[self.of_sample].to(z.dtype)[:, None]
        total = (size * squares + self.sum(squares)) / 2 - (z * self.sum(z)).sum(dim=1, keepdim=True)
        return total[:, 0].clamp_min(0.0)


def contrastive_covariance(
    x: Tensor,
    x_aug: Tensor | None,
    alpha: Tensor | Strategy,
    *,
    z: Tensor | None = None,
    z_aug: Tensor | None = None,
    labels: Tensor | None = None,
    block_size: int = 1024,
) -> Tensor:
    """The contrastive covariance ``X_α = C_α[x, x]`` as a matrix, streamed: see `ContrastiveCovariance`.

    Shape: ``[N, D]``, ``[N, D]``, ``[N, N]`` -> ``[D, D]``, in float32 at least.
    Raises: TypeError, ValueError as `ContrastiveCovariance`.
    Source: Tian (2022), arXiv:2201.12680, Eq. 5.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> contrastive_covariance(x, x + 1, torch.ones(2, 2))  # two ordered pairs, 4 each; two views, 1 each
    tensor([[6.]])
    """
    return ContrastiveCovariance(x, x_aug, alpha, z=z, z_aug=z_aug, labels=labels, block_size=block_size).dense()


class Eigenstructure(NamedTuple):
    """Unit eigenvectors, one a row, and their eigenvalues, largest first."""

    components: Tensor  # [n, D]
    eigenvalues: Tensor  # [n]


@torch.no_grad()
def leading_eigenvectors(matrix: Tensor | ContrastiveCovariance, n_components: int) -> Eigenstructure:
    """The largest eigenvalues of a symmetric matrix, or of a `ContrastiveCovariance`, and their eigenvectors.

    A matrix is decomposed in full. An operator is not formed: block Krylov iteration (``block = n + 8`` columns) with
    full orthogonalisation, until the residuals ``||X v - λ v||`` are at the precision of the dtype.
    Each eigenvector's largest entry is positive, so that its sign is determined.

    Args:
        matrix: symmetric.
        n_components: how many, in [1, D].

    Shape: ``[D, D]`` -> components ``[n, D]``, eigenvalues ``[n]``.
    Raises: TypeError, ValueError if the matrix is not square or ``n_components`` not in [1, D].

    >>> leading_eigenvectors(torch.diag(torch.tensor([1.0, 3.0, -2.0])), 2).eigenvalues
    tensor([3., 1.])
    """
    if isinstance(matrix, Tensor):
        check_matrix("matrix", matrix)
    width = matrix.shape[0]
    if matrix.shape[1] != width:
        raise ValueError(f"matrix: expected shape [D, D], got {tuple(matrix.shape)}")
    check_count("n_components", n_components)
    if n_components > width:
        raise ValueError(f"n_components: expected at most the width of x, {width}, got {n_components}")
    if isinstance(matrix, Tensor):
        (matrix,) = promote(matrix)
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        values, vectors = values.flip(0)[:n_components], vectors.flip(1)[:, :n_components]
    else:
        values, vectors = _krylov(matrix, n_components)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return Eigenstructure((vectors * torch.where(largest < 0, -1.0, 1.0)).T.contiguous(), values)


def contrastive_pca(
    x: Tensor,
    x_aug: Tensor | None,
    alpha: Tensor | Strategy,
    n_components: int,
    *,
    labels: Tensor | None = None,
    block_size: int = 1024,
    solver: str = "auto",
) -> Eigenstructure:
    """The best linear embedding for a fixed α: the leading eigenvectors of the contrastive covariance X_α.

    ``argmax_W ½ tr(W X_α Wᵀ)  s.t.  W Wᵀ = I``; embed with ``x @ components.T``. Without the constraint of orthonormal
    rows the maximum would be infinite, and with one on the length of W alone all rows would be the same.

    Args:
        x: the N samples.
        x_aug: their other view; None: see `ContrastiveCovariance`.
        alpha: a tensor of importances (diagonal ignored), or a strategy, which sees the distances of ``x`` itself.
        n_components: rows of W, in [1, D].
        labels: classes whose samples are positives of each other.
        block_size: anchors that are compared with all samples at once.
        solver: "dense" forms X_α; "operator" only multiplies with it; "auto": dense up to a width of 4,096.

    Shape: ``[N, D]``, ``[N, D]``, ``[N, N]`` -> components ``[n, D]``, eigenvalues ``[n]``, largest first.
    Raises: TypeError, ValueError as `ContrastiveCovariance` and `leading_eigenvectors`.
    Source: Tian (2022), arXiv:2201.12680, Corollary 2, Eq. 9.

    >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> contrastive_pca(x, x, torch.ones(4, 4), n_components=1).components
    tensor([[1., 0.]])
    """
    if solver not in ("auto", "dense", "operator"):
        raise ValueError(f"solver: expected 'auto', 'dense' or 'operator', got {solver!r}")
    operator = ContrastiveCovariance(x, x_aug, alpha, labels=labels, block_size=block_size)
    dense = solver == "dense" or (solver == "auto" and operator.shape[0] <= 4096)
    return leading_eigenvectors(operator.dense() if dense else operator, n_components)


def _krylov(operator: ContrastiveCovariance, n: int, restarts: int = 100) -> tuple[Tensor, Tensor]:
    """Leading eigenpairs by restarted block Krylov spaces: Rayleigh-Ritz on [V, XV, X²V, ...], orthogonalised twice."""
    like, width = operator.x, operator.shape[0]
    block = n + 8 if 2 * (n + 8) <= width else width  # room for a second space, or the whole space, which is exact
    generator = torch.Generator().manual_seed(0)  # a start of its own: the same result whatever was drawn before
    start = torch.randn(width, block, generator=generator, dtype=torch.float64).to(like)
    basis = torch.linalg.qr(start).Q
    tolerance = 100 * torch.finfo(like.dtype).eps
    for _ in range(restarts):
        spaces, images = [basis], [operator @ basis]
        while len(spaces) < 4 and (len(spaces) + 1) * block <= width:
            span, new = torch.cat(spaces, dim=1), images[-1]
            for _ in range(2):
                new = torch.linalg.qr(new - span @ (span.T @ new)).Q
            spaces.append(new)
            images.append(operator @ new)
        span, image = torch.cat(spaces, dim=1), torch.cat(images, dim=1)
        small = span.T @ image
        values, rotation = torch.linalg.eigh((small + small.T) / 2)
        scale = values.abs().max()
        values, rotation = values.flip(0)[:block], rotation.flip(1)[:, :block]
        basis = torch.linalg.qr(span @ rotation).Q
        residual = image @ rotation[:, :n] - (span @ rotation[:, :n]) * values[:n]
        if residual.norm(dim=0).max() <= tolerance * scale:
            break
    else:
        warnings.warn(
            f"leading_eigenvectors: residuals of {float(residual.norm(dim=0).max() / scale):.1e} are left after "
            f"{restarts} restarts, expected {tolerance:.1e}; a dense X_α has none",
            RuntimeWarning,
            stacklevel=3,
        )
    return values[:n], (span @ rotation)[:, :n]


def _check_alpha(alpha: object, n: int) -> None:
    if isinstance(alpha, Tensor):
        check_matrix("alpha", alpha)
        if alpha.shape != (n, n):
            raise ValueError(f"alpha: expected shape [{n}, {n}], got {tuple(alpha.shape)}")
    elif isinstance(alpha, type) or not callable(alpha):
        raise TypeError(f"alpha: expected a tensor [N, N] or a strategy object, got {alpha!r}")


def _embedding(x: Tensor, x_aug: Tensor | None, z: Tensor | None, z_aug: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The embedding that a strategy sees, and its other view: x and x_aug themselves unless told otherwise."""
    if z is None:
        if z_aug is not None:
            raise ValueError("z_aug: expected None where z is None, got a tensor")
        return x, None if x_aug is None else x_aug.detach()
    check_matrix("z", z)
    if len(z) != len(x):
        raise ValueError(f"z: expected {len(x)} rows as x has, got {tuple(z.shape)}")
    if (z_aug is None) != (x_aug is None):
        raise ValueError("z_aug: expected the other view of z where there is an x_aug, and None where there is none")
    if z_aug is None:
        return z, None
    check_same_shape("z_aug", z_aug, "z", z)
    return z, z_aug.detach()
