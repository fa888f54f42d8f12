"""Random instances of the paper's two settings: a contrastive covariance, and its orthogonal mixture data."""

from typing import NamedTuple

import torch
from torch import Tensor

import alphacl_plugins as acl


def random_covariance(width: int, generator: torch.Generator, most: float = 1.0) -> Tensor:
    """Draw a contrastive covariance with ``0 < λ_max <= most``, from random samples, views and α.

    4 D samples are correlated Gaussians, ``x = A u``, and second views ``x' = x + s B u'``, with Gaussian matrices A
    and B and s uniform in 0.2 to 2.5, so that any number of eigenvalues may be negative. The matrix is divided by its
    largest eigenvalue in size: a unit of time, no more. A draw with another λ_max is thrown away.

    Shape: ``[width, width]``, float64.
    """

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, width, generator=generator, dtype=torch.float64)

    while True:
        x = normal(4 * width) @ normal(width)
        strength = 0.2 + 2.3 * torch.rand(1, generator=generator, dtype=torch.float64)
        x_aug = x + strength * normal(4 * width) @ normal(width)
        matrix = acl.contrastive_covariance(x, x, random_alpha(len(x), generator), x_aug, x_aug)
        matrix = (matrix + matrix.T) / 2
        eigenvalues = torch.linalg.eigvalsh(matrix)
        unit = eigenvalues.abs().max()
        if 0 < eigenvalues[-1] <= most * unit:
            scaled: Tensor = matrix / unit
            return scaled


def random_alpha(n: int, generator: torch.Generator) -> Tensor:
    """Draw the α of n anchors: positive rows that sum to 1, some pairs far more important than others."""
    logits = 2 * torch.randn(n, n, generator=generator, dtype=torch.float64)
    return torch.softmax(logits.fill_diagonal_(-torch.inf), dim=1)


class Mixtures(NamedTuple):
    """Problems of the orthogonal mixture model (Assumption 1): ``x_i = a_i e_m(i)``, ``x'_i = γ_i x_i``, and an α."""

    x: Tensor  # [B, N, M], one positive entry a row
    x_aug: Tensor  # [B, N, M]
    alpha: Tensor  # [B, N, N]
    covariance: Tensor  # X_α, [B, M, M]


def random_mixtures(n: int, modes: int, samples: int, generator: torch.Generator) -> Mixtures:
    """Draw n mixtures with λ_max(X_α) > 0, of 2 to ``modes`` modes each; every mode in use has a sample.

    Sizes a_i are in 0.5 to 1.5; ``log γ_i`` is Gaussian, its standard deviation of each problem in 0 to 1: from views
    that are alike to views that differ as much as samples do.
    """
    parts: list[tuple[Tensor, ...]] = []
    while len(parts) < n:
        used = int(torch.randint(2, modes + 1, (), generator=generator))
        mode = torch.cat([torch.arange(used), torch.randint(used, (samples - used,), generator=generator)])
        size = 0.5 + torch.rand(samples, generator=generator, dtype=torch.float64)
        strength = torch.rand(1, generator=generator, dtype=torch.float64)
        factor = torch.exp(strength * torch.randn(samples, generator=generator, dtype=torch.float64))
        x = size[:, None] * torch.eye(modes, dtype=torch.float64)[mode]
        x_aug = factor[:, None] * x
        alpha = random_alpha(samples, generator)
        covariance = acl.contrastive_covariance(x, x, alpha, x_aug, x_aug)
        covariance = (covariance + covariance.T) / 2
        if torch.linalg.eigvalsh(covariance)[-1] > 1e-6:  # modes without samples have eigenvalue 0
            parts.append((x, x_aug, alpha, covariance))
    return Mixtures(*(torch.stack(column) for column in zip(*parts, strict=True)))
