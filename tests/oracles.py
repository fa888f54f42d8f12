"""Independent ways to compute what the package computes: plain loops over samples, one pair at a time."""

import pytest
import torch
from torch import Tensor

from alphacl_plugins import strategies as s

# The registry's strategies with other options than the defaults, and the two that take functions.
EXTRA_STRATEGIES = [
    s.InfoNCE(tau=0.1, eps=0.0),
    s.InfoNCE(tau=0.3, eps=2.5),
    s.InverseExact(tau=0.2, gamma=3.0),
    s.Inverse(tau=0.5, gamma=1.0),
    s.Square(tau=0.3),
    s.KLBall(rho=1.0, bounds=(1e-3, 1e3)),
    s.Tsallis(index=2.0, tau=0.3),
    s.Tsallis(index=1.0, tau=0.3),
    s.Tsallis(index=0.5, tau=0.3),
    s.Tsallis(index=-1.0, tau=0.3),
    s.Direct(tau=0.3, p=1.0),
    s.Direct(tau=0.3, p=3.0, normalize=False),
    s.DHEL(tau=0.2, include_augs=False),
    *[s.KCL(kernel, t=1.5, gamma=2.0) for kernel in ("log", "imq", "riesz", "gaussian_riesz")],
    s.SoftTriplet(tau=0.3, eps=0.7),
    s.LiftedStructured(eps=-1.0),
    s.Triplet(eps=0.1),
    s.ModifiedTriplet(c=5.0),
    s.Regularized(derivative=lambda a: 0.5 / a, inverse_derivative=lambda v: 0.5 / v),
    s.Family(phi=torch.sqrt, psi=lambda x: torch.exp(2 * x)),
    s.Debiased(tau=0.3, tau_plus=0.05, beta=1.0),
    s.Link(lambda d2: -torch.log1p(2 * d2)),
    s.Weighted(s.Quadratic(a=2.0, b=1.0), s.InfoNCE(tau=0.1), kappa=-0.5),
]


def in_a_batch(strategy: object) -> object:
    """A strategy that weighs row by row: one that looks at the whole batch has seen it."""
    looks = getattr(strategy, "uses_batch", False)
    return strategy.on_batch(torch.tensor([[0.2, 0.4]], dtype=torch.float64)) if looks else strategy


ALL_STRATEGIES = [in_a_batch(s.build_strategy(name)) for name in s.strategy_names()] + EXTRA_STRATEGIES
# The same for pytest: what is solved by autograd in every step of Newton's method in `make test-full`.
STRATEGIES_OF_TESTS = [
    pytest.param(strategy, marks=pytest.mark.slow) if isinstance(strategy, s.Regularized) else strategy
    for strategy in ALL_STRATEGIES
]


def strategy_id(strategy: object) -> str:
    """A short readable test id."""
    return repr(strategy).replace(" ", "")[:60].split("<")[0]


def random_views(seed: int, n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two correlated views, leaves that require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z_aug = z + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return z.to(dtype).requires_grad_(), z_aug.to(dtype).requires_grad_()


def random_distances(seed: int, anchors: int, candidates: int) -> tuple[Tensor, Tensor]:
    """Distances of unit vectors, in float64."""
    generator = torch.Generator().manual_seed(seed)
    d2 = 2 * torch.rand(anchors, candidates + 1, generator=generator, dtype=torch.float64)
    return d2[:, 0], d2[:, 1:]


def half_squared(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared distance of two vectors."""
    return sum((a[k] - b[k]) ** 2 for k in range(len(a))) / 2


def loop_loss(strategy, *views, negatives, symmetric, labels=None, queue=None, normalize=True) -> tuple[Tensor, Tensor]:
    """``-E`` of each anchor with α held fixed, and the value where the strategy has one, by loops.

    Each anchor's row holds just its candidates, so nothing is ever excluded here; each positive has a row of its own.
    """
    if normalize:
        views = [torch.stack([row / row.norm() for row in view]) for view in views]
        queue = None if queue is None else torch.stack([row / row.norm() for row in queue])
    anchor_views = range(len(views)) if symmetric else (0,)
    if getattr(strategy, "uses_batch", False):
        pairs = [(a, b) for a in anchor_views for b in range(len(views)) if a != b]
        strategy = strategy.on_batch(torch.stack([_paired(views[a], views[b]) for a, b in pairs]).detach())
    classes = list(range(len(views[0]))) if labels is None else labels.tolist()
    energies, values = [], []
    for own in anchor_views:
        for i, anchor in enumerate(views[own]):
            positives, candidates = [], []
            for view, rows in enumerate(views):
                wanted = {"both": True, "same": view == own, "cross": view != own, "queue": False}[negatives]
                for j, row in enumerate(rows):
                    if classes[j] == classes[i]:
                        positives += [row] if (view, j) != (own, i) else []
                    elif wanted:
                        candidates.append(row)
            candidates += [] if queue is None else list(queue)
            parts = [one_pair(strategy, anchor, positive, candidates) for positive in positives]
            energies.append(sum(energy for energy, _ in parts) / len(parts))
            values.append(sum(value for _, value in parts) / len(parts))
    return torch.stack(energies), torch.stack(values)


def _paired(z, z_aug):
    """Distances of the rows of one view to those of another, ``[N]``."""
    return torch.stack([half_squared(a, b) for a, b in zip(z, z_aug, strict=True)])


def one_pair(strategy, anchor, positive, candidates):
    """``-E`` and value of one anchor with one positive."""
    d2_pos = half_squared(anchor, positive)
    if not candidates:
        return 0 * d2_pos, 0 * d2_pos.detach()
    d2_neg = torch.stack([half_squared(anchor, row) for row in candidates])
    neg, pos, value = strategy(d2_pos.detach()[None], d2_neg.detach()[None])
    pos = neg.sum() if pos is None else pos[0]
    energy = pos.detach() * d2_pos - sum(w.detach() * d2 for w, d2 in zip(neg[0], d2_neg, strict=True))
    return energy, energy.detach() if value is None else value[0]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest deviation, in units of the largest expected entry."""
    scale = float(expected.detach().abs().max())
    error = float((got - expected).detach().abs().max())
    return error if scale == 0 else error / scale


def is_finite(*tensors: Tensor) -> bool:
    """No NaN and no inf anywhere."""
    return all(bool(t.isfinite().all()) for t in tensors)
