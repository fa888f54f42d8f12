"""The contrastive covariance X_α = C_α[x, x] at any size: Eq. 5 as a matrix, and as a linear operator."""

from __future__ import annotations

import torch
from torch import Tensor

from alphacl_plugins._checks import check_matrix, check_same_shape
from alphacl_plugins.functional import promote
from alphacl_plugins.spectral.blocks import BlockedAlpha
from alphacl_plugins.strategies import Strategy


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
        alpha: a tensor of importances (diagonal and, with labels, pairs of one class are ignored), or a strategy or
            its name, whose candidate weights are used; its positive has their sum as its weight, as in the paper.
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
        alpha: Tensor | Strategy | str,
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
        z, z_aug = _embedding(x, x_aug, z, z_aug)
        centre = x.detach().mean(dim=0)  # X_α does not depend on the origin, but its rounding does
        parts = [part.detach() for part in (x, x_aug, alpha) if isinstance(part, Tensor)]
        x = promote(*parts)[0]
        self.x = x - centre
        self.step = None if x_aug is None else x - x_aug.detach()
        self.alpha = BlockedAlpha(alpha, z.detach(), z_aug, labels=labels, block_size=block_size, dtype=x.dtype)

    @property
    def shape(self) -> torch.Size:
        """``[D, D]``."""
        return torch.Size((self.x.shape[1], self.x.shape[1]))

    @torch.no_grad()
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply ``[D]`` or ``[D, k]``: X_α itself is not formed, which costs O(N² k) for each product."""
        if not isinstance(vectors, Tensor):
            raise TypeError(f"vectors: expected a tensor [D] or [D, k], got {type(vectors).__name__}")
        if vectors.ndim not in (1, 2) or len(vectors) != self.shape[0]:
            raise ValueError(f"vectors: expected shape [{self.shape[0]}, k], got {tuple(vectors.shape)}")
        columns = vectors[:, None] if vectors.ndim == 1 else vectors
        with torch.autocast(self.x.device.type, enabled=False):
            columns = columns.to(self.x.dtype)
            samples, sums = self._laplacian(self.x @ columns)
            product = self.x.T @ samples
            if self.step is not None:
                product -= self.step.T @ (self.alpha.share(sums)[:, None] * (self.step @ columns))
        return product[:, 0] if vectors.ndim == 1 else product

    @torch.no_grad()
    def dense(self) -> Tensor:
        """Form X_α, ``[D, D]``, exactly symmetric."""
        width = self.shape[0]
        sums, column_sums, cross = (
            self.x.new_zeros(len(self.x)),
            self.x.new_zeros(len(self.x)),
            self.x.new_zeros(width, width),
        )
        with torch.autocast(self.x.device.type, enabled=False):
            for rows, weights in self.alpha.blocks():
                sums[rows] = weights.sum(dim=1)
                column_sums += weights.sum(dim=0)
                cross += self.x[rows].T @ (weights @ self.x)
            result = self.x.T @ ((sums + column_sums)[:, None] * self.x) - (cross + cross.T)
            if self.alpha.classes is not None:
                result -= self.x.T @ self.alpha.classes.laplacian(self.x, self.alpha.share(sums))
            if self.step is not None:
                result -= self.step.T @ (self.alpha.share(sums)[:, None] * self.step)
        return (result + result.T) / 2

    def _laplacian(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply the Laplacian of the signed weights of all pairs of samples with ``[N, k]``; and r, ``[N]``."""
        sums, column_sums, product = (
            self.x.new_zeros(len(self.x)),
            self.x.new_zeros(len(self.x)),
            torch.zeros_like(signal),
        )
        for rows, weights in self.alpha.blocks():
            sums[rows] = weights.sum(dim=1)
            column_sums += weights.sum(dim=0)
            product[rows] -= weights @ signal
            product -= weights.T @ signal[rows]
        product += (sums + column_sums)[:, None] * signal
        if self.alpha.classes is not None:
            product -= self.alpha.classes.laplacian(signal, self.alpha.share(sums))
        return product, sums


def contrastive_covariance(
    x: Tensor,
    x_aug: Tensor | None,
    alpha: Tensor | Strategy | str,
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
