"""Random instances of the paper's two settings: a contrastive covariance, and its orthogonal mixture data."""

from typing import NamedTuple

import torch
from torch import Tensor

import alphacl_plugins as acl


def random_covariances(n: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw n contrastive covariances with a positive eigenvalue, from random samples, views and α.

    Samples are correlated Gaussians; the noise of the second view, 0.2 to 1.5 times as large, may make any other
    eigenvalue negative. Each matrix is divided by its largest eigenvalue in size: a unit of time, no more.

    Shape: ``[n, width, width]``, float64.
    """
    found: list[Tensor] = []
    while len(found) < n:
        mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
        x = torch.randn(4 * width, width, generator=generator, dtype=torch.float64) @ mix
        noise = 0.2 + 1.3 * torch.rand(1, generator=generator, dtype=torch.float64)
        unmixed = torch.randn(width, width, generator=generator, dtype=torch.float64)
        x_aug = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64) @ unmixed
        matrix = acl.contrastive_covariance(x, x, random_alpha(len(x), generator), x_aug, x_aug)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        if eigenvalues[-1] > 0.05 * eigenvalues.abs().max():  # else the maximum is E = 0, or close to it
            found.append((matrix + matrix.T) / 2 / eigenvalues.abs().max())
    return torch.stack(found)


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
