"""Corollary 1 with a closed-form max player: α and the best linear embedding take turns until neither moves."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.checks import check_count, check_non_negative
from alphacl_plugins.functional import without_autocast
from alphacl_plugins.spectral.covariance import ContrastiveCovariance
from alphacl_plugins.spectral.eigen import (
    Eigenstructure,
    check_finite_product,
    leading_eigenvectors,
    with_positive_peaks,
)
from alphacl_plugins.spectral.pca import check_samples
from alphacl_plugins.strategies import AnyStrategy

# The inertia λ: its first value above 0, and its factor after an answer that is withdrawn, or kept. Of three settings
# tried on the digits, with 2 to 36 components, these needed the fewest turns.
FIRST, GROW, SHRINK = 0.3, 2.0, 0.7


class Turns(NamedTuple):
    """Where the turns ended.

    If W has not stopped, all of these are of the W that was kept last; for a min player such as InfoNCE, more turns
    never make it worse. With ``max_iter`` = 1, residual and gap are those of PCA, and the components answer its α.

    Attributes:
        components: W, ``[n, D]``, orthonormal rows.
        eigenvalues: of the components under the last X_α, ``[n]``, largest first.
        n_iter: how many α were formed.
        residual: the part of ``X Wᵀ`` that lies outside W, which ``tol`` bounds.
        gap: by how much the n leading eigenvectors of the last X would have more energy than W, relative to their own.
            0: W is the best answer to its own α, which for a min player makes it the best embedding of all.
        converged: whether W has stopped.
    """

    components: Tensor
    eigenvalues: Tensor
    n_iter: int
    residual: float
    gap: float
    converged: bool


@torch.no_grad()
def take_turns(
    x: Tensor,
    x_aug: Tensor | None,
    strategy: AnyStrategy | str,
    n_components: int,
    *,
    labels: Tensor | None = None,
    max_iter: int = 100,
    tol: float = 1e-2,
    block_size: int = 1024,
) -> Turns:
    """Alternate α of the embedding ``z = W x`` and ``W`` of α, from PCA on, until W no longer moves.

    With ``P = WᵀW``, a turn forms ``X = X_α(P)`` and answers with ``argmax_Q ⟨X, Q⟩ - λ s ||Q - P||²/2``, the leading
    eigenvectors of ``X + λ s P``; s is the mean size of X on the embedding, which makes λ a number. The inertia λ is 0
    (the closed form itself) until an answer goes too far, ``⟨X_α(Q), Q - P⟩ < 0``; then the answer is withdrawn, and λ
    grows. If α minimises ``E_α - R(α)``, as InfoNCE's does, ``min_α E_α - R(α)`` is concave in P, and an answer that
    is kept never lowers it: the turns climb to a stationary point of the loss. Without inertia they can run in circles,
    for α weighs the pairs that W brings together, so the next W prefers the directions that this W leaves out.

    Distances are in units of their mean over all pairs in the PCA of x, so that τ means the same for any x.

    Args:
        x: the N samples, ``[N, D]``.
        x_aug: their other view, ``[N, D]``; None: see `ContrastiveCovariance`.
        strategy: gives α; an object, or a name for its default options.
        n_components: n, rows of W, in [1, D].
        labels: classes ``[N]``, integers; the samples of a class are positives of each other.
        max_iter: how many α are formed at most, >= 1; each costs O(N² D). 1: the answer to the α of PCA, untested.
        tol: W has stopped where at most this part of ``X Wᵀ`` (the residual) and of its answer lies outside W, >= 0.
            The residual is 0 where W spans eigenvectors of X. The part of the answer is 0 without inertia only where
            these are the leading eigenvectors, with inertia at others too; a gap above 0 tells of the others.
        block_size: anchors that are compared with all samples at once.

    Returns:
        The embedding, and how the turns ended.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: as `ContrastiveCovariance` and `leading_eigenvectors`, or for ``max_iter`` or ``tol``.

    Source:
        Tian (2022), Corollaries 1 and 2.
    """
    check_count("max_iter", max_iter)
    check_non_negative("tol", tol)
    if isinstance(strategy, Tensor):
        raise TypeError("strategy: expected a strategy object or its name, got a tensor; contrastive_pca takes one")
    checked = ContrastiveCovariance(x, x_aug, strategy, labels=labels, block_size=block_size)
    check_samples(x, x_aug, labels)
    centred, step = checked.x, checked.step
    with without_autocast(centred.device):
        scatter = centred.T @ centred
        check_finite_product(scatter)
        start = leading_eigenvectors(scatter, n_components)
        unit = (start.eigenvalues.sum() / len(x)).sqrt().clamp_min(torch.finfo(centred.dtype).tiny)

        def covariance_at(components: Tensor) -> Tensor:
            projection = components.T / unit
            z = centred @ projection
            z_aug = None if step is None else z - step @ projection
            operator = ContrastiveCovariance(x, x_aug, strategy, z=z, z_aug=z_aug, labels=labels, block_size=block_size)
            matrix = operator.dense()
            check_finite_product(matrix)
            return matrix

        kept = start.components
        matrix = covariance_at(kept)
        residual, scale = _residual(matrix, kept)
        inertia, n_iter = 0.0, 1
        while True:
            answer = leading_eigenvectors(matrix + inertia * scale * kept.T @ kept, n_components).components
            converged = residual <= tol and _outside(answer, kept) <= tol
            if converged or n_iter == max_iter:
                break
            latest = covariance_at(answer)
            n_iter += 1
            if _energy(latest, answer) >= _energy(latest, kept):
                kept, matrix, inertia = answer, latest, SHRINK * inertia
                residual, scale = _residual(matrix, kept)
            else:
                inertia = max(GROW * inertia, FIRST)
        best = answer if max_iter == 1 else kept  # an answer whose α was not formed may be worse than what it answers
        return Turns(*_by_energy(matrix, best), n_iter, residual, _gap(matrix, kept), converged)


def _energy(matrix: Tensor, components: Tensor) -> Tensor:
    """``tr(W X Wᵀ)``."""
    return ((components @ matrix) * components).sum()


def _residual(matrix: Tensor, components: Tensor) -> tuple[float, float]:
    """How far W is from spanning eigenvectors of X, in [0, 1]; and the mean size of X on it, ``||X Wᵀ|| / √n``."""
    image = components @ matrix
    length = image.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    return _outside(image, components), float(length) / math.sqrt(len(components))


def _outside(rows: Tensor, components: Tensor) -> float:
    """The part of some rows outside the span of W, in [0, 1]."""
    outside = rows - (rows @ components.T) @ components
    return float(outside.norm() / rows.norm().clamp_min(torch.finfo(rows.dtype).tiny))


def _gap(matrix: Tensor, components: Tensor) -> float:
    """By how much the leading eigenvectors of X have more energy than W, relative to the sum of their eigenvalues."""
    best = leading_eigenvectors(matrix, len(components)).eigenvalues
    missing = (best.sum() - _energy(matrix, components)).clamp_min(0)
    return float(missing / best.abs().sum().clamp_min(torch.finfo(matrix.dtype).tiny))


def _by_energy(matrix: Tensor, components: Tensor) -> Eigenstructure:
    """Turn W within its span, so that ``W X Wᵀ`` is diagonal, largest first: eigenvectors where W spans them."""
    within = leading_eigenvectors(components @ matrix @ components.T, len(components))
    return Eigenstructure(with_positive_peaks(within.components @ components), within.eigenvalues)
