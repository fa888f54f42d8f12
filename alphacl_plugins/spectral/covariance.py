"""The contrastive covariance X_α = C_α[x, x] at any size: Eq. 5 as a matrix, and as a linear operator."""

from __future__ import annotations

import torch
from torch import Tensor

from alphacl_plugins.checks import check_alpha, check_matrix, check_rows, check_same_shape
from alphacl_plugins.functional import Laplacian, centre_of, promote, without_autocast
from alphacl_plugins.spectral.blocks import BlockedAlpha
from alphacl_plugins.strategies import AnyStrategy


class ContrastiveCovariance:
    """The contrastive covariance ``X_α = C_α[x, x]`` of N samples, as a linear operator or as a matrix.

    ``X_α = xᵀ(diag(r + c) - α - αᵀ) x - (x - x')ᵀ diag(r) (x - x')``, with r and c the row and column sums of α: a
    product with the Laplacian of α. A strategy's α is formed for ``block_size`` anchors at a time and never held whole.

    With ``labels``, the other samples of an anchor's class are positives too, and no negatives. As in the loss, an
    anchor with P positives has the mean of what each positive p would give by itself: α is the mean of the rows
    ``α^p``, and the second term becomes ``Σ_i mean_p r_i^p (x_i - p)(x_i - p)ᵀ``, with ``r_i^p`` the sum of the row.

    Args:
        x: the N samples, ``[N, D]``.
        x_aug: their other view, ``[N, D]``; None: samples without augmentation, whose only positives are those of
            ``labels``.
        alpha: a tensor of importances ``[N, N]`` (its diagonal and, with labels, pairs of one class are ignored), or a
            strategy or its name, whose weights of the negatives are used.
        z: embedding on which a strategy measures distances, ``[N, E]``; None: ``x`` itself.
        z_aug: other view of the embedding, ``[N, E]``, if there is an ``x_aug``.
        labels: class of each sample, ``[N]``, integers.
        block_size: anchors that are compared with all samples at once; memory is O(block_size · N + N · D).

    Raises:
        TypeError: an argument is not of these kinds.
        ValueError: the shapes are not these, or N < 2.

    Source:
        Tian (2022), Eq. 5 and Corollary 2.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> ContrastiveCovariance(x, x + 1, torch.ones(2, 2)).dense()  # two pairs of 4, two views of 1
        tensor([[6.]])
        >>> ContrastiveCovariance(x, x + 1, torch.ones(2, 2)) @ torch.tensor([2.0])
        tensor([12.])
    """

    def __init__(
        self,
        x: Tensor,
        x_aug: Tensor | None,
        alpha: Tensor | AnyStrategy | str,
        *,
        z: Tensor | None = None,
        z_aug: Tensor | None = None,
        labels: Tensor | None = None,
        block_size: int = 1024,
    ) -> None:
        check_rows("x", x, 2)
        n = len(x)
        if x_aug is not None:
            check_same_shape("x_aug", x_aug, "x", x)
        if isinstance(alpha, Tensor):
            check_alpha(alpha, n)
        z, z_aug = _embedding(x, x_aug, z, z_aug)
        centre = centre_of(x)  # X_α does not depend on the origin, but its rounding does
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
        """Multiply X_α, without forming it, at a cost of O(N² k).

        Args:
            vectors: ``[D]`` or ``[D, k]``.

        Returns:
            the product, in the shape of ``vectors``.

        Raises:
            TypeError: ``vectors`` is not a tensor.
            ValueError: it is not of this shape.
        """
        if not isinstance(vectors, Tensor):
            raise TypeError(f"vectors: expected a tensor [D] or [D, k], got {type(vectors).__name__}")
        if vectors.ndim not in (1, 2) or len(vectors) != self.shape[0]:
            raise ValueError(f"vectors: expected shape [{self.shape[0]}, k], got {tuple(vectors.shape)}")
        columns = vectors[:, None] if vectors.ndim == 1 else vectors
        with without_autocast(self.x.device):
            columns = columns.to(self.x.dtype)
            signal = self.x @ columns
            laplacian, of_views = Laplacian(signal), self.x.new_zeros(len(self.x), 1)
            for block in self.alpha.blocks():
                of_views[block.rows] = block.view
                laplacian.add(block.rows, block.samples)
            product = self.x.T @ laplacian.gradients()[0]
            if self.step is not None:
                product -= self.step.T @ (of_views * (self.step @ columns))
        return product[:, 0] if vectors.ndim == 1 else product

    @torch.no_grad()
    def dense(self) -> Tensor:
        """Form X_α.

        Returns:
            ``[D, D]``, exactly symmetric.
        """
        sums, of_views = self.x.new_zeros(len(self.x), 1), self.x.new_zeros(len(self.x), 1)
        column_sums = self.x.new_zeros(len(self.x))
        laplacian = Laplacian(self.x, self.x, moving=0)  # (diag(r) - α) x: its transpose is the other half
        with without_autocast(self.x.device):
            for block in self.alpha.blocks():
                sums[block.rows] = block.samples.sum(dim=1, keepdim=True)
                of_views[block.rows] = block.view
                column_sums += block.samples.sum(dim=0)
                laplacian.add(block.rows, block.samples)
            half = self.x.T @ laplacian.gradients()[0]
            result = half + half.T + self.x.T @ ((column_sums[:, None] - sums) * self.x)
            if self.step is not None:
                result -= self.step.T @ (of_views * self.step)
        return (result + result.T) / 2


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
