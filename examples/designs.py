"""Designs of α that a study can try beside the registered strategies: softmax weights with one change each.

    python examples/study.py --data-root DIR --trials 4 --strategies designs.curved:curvature=0.5,tau=0.15/0.1/0.06/0.03

Each is an import path, as any strategy of your own would be. What they are worth: docs/evidence.md.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alphacl_plugins import PairWeights
from alphacl_plugins.strategies import Entropy, InfoNCE, Quadratic, Strategy, Weighted


def curved(tau: float = 0.1, curvature: float = 0.5) -> Quadratic:
    """Return a softmax of a quadratic in D that has the slope -1/τ at D = 1, where most negatives are.

    ``α_j ∝ exp(-((1-k) D_j + k D_j² / 2) / τ)``: curvature k = 0 is `Entropy` at τ, k = 1 is `Direct` at 2τ. The higher
    k is, the more alike count the negatives near the anchor, at equal sharpness among the others.

    Args:
        tau: temperature τ, > 0, in the unit of D.
        curvature: k, any finite number; 1.5 gives the most weight to negatives at D = 1/3, not to the nearest.
    """
    return Quadratic(a=(1 - curvature) / tau, b=curvature / (2 * tau))


def mass_power(tau: float = 0.1, kappa: float = 1.0, tau_mass: float = 0.1) -> Weighted:
    """Return a softmax at τ for an anchor whose weight is a power of InfoNCE's row sum: ``α_j = m^κ softmax(-D/τ)_j``.

    Args:
        tau: temperature τ of the softmax, > 0, in the unit of D.
        kappa: exponent κ, >= -1: 1 is the dual temperature, 0 `Entropy`; below 0 anchors that are well separated from
            their negatives count most.
        tau_mass: temperature of the row sum m, > 0.
    """
    return Weighted(Entropy(tau), InfoNCE(tau_mass), kappa)


@dataclass(frozen=True)
class SoftMasked(Strategy):
    """A softmax in which negatives that are nearer than the positive fade out, as they are probably false.

    ``α_j ∝ exp(-D_j/τ) σ((D_j - D_+ + m)/ω)``; the rows sum to 1.

    Args:
        tau: temperature τ, > 0, in the unit of D.
        margin: m, how much nearer than the positive a negative has half of its weight.
        width: ω > 0, over which the weight fades.
    """

    tau: float = 0.1
    margin: float = 0.1
    width: float = 0.1

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        """Weigh each anchor's negatives against its positive."""
        beyond = (d2_neg - d2_pos[:, None] + self.margin).nan_to_num(posinf=torch.finfo(d2_neg.dtype).max)
        return PairWeights(torch.softmax(-d2_neg / self.tau + logsigmoid(beyond / self.width), dim=1))
