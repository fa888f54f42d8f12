"""The algebra of α: the shape of one strategy, the mass of another, and a pull of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.checks import check_finite
from alphacl_plugins.strategies.direct import Uniform
from alphacl_plugins.strategies.hard_negatives import squared
from alphacl_plugins.strategies.separable import ExpPower, RowFactors, Separable, Totals

_LEAST_MASS = 1e-6  # to a power below 0


@dataclass(frozen=True)
class Weighted(Separable):
    """Mass x shape x pull: every loss that weighs an anchor's pairs says whom, how much, and against what pull.

    ``α_j = m^κ q_j``. The shape q says who is pushed: the weights of one strategy, over their sum. The mass m says how
    much an anchor counts: the row sum of another. The pull is the weight of the positive.

    Args:
        shape: strategy whose rows are q, such as Entropy, Direct, Quadratic, Inverse, StudentT or Sigmoid.
        mass: strategy whose row sum is m: Uniform (1), InfoNCE, Debiased, RINCE, or one without normalisation. It needs
            a form with one sum of exponentials, as these have.
        kappa: exponent κ of the mass, >= -1: 0 for a mass of 1; below 0, anchors that are well separated count most,
            with a mass of 1e-6 at least, but for a mass of 0, whose anchors count 0.
        pull: weight of the positive; None for that of ``mass``, to the power κ.

    Returns:
        Weights ``[M, K]`` and ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to m^κ.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if weights do not factor, ``mass`` needs more than one sum, or a number is outside its range.

    Source:
        gradient dissipation, weight and ratio of Li et al. (2024), ACL; Wang et al. (2019), arXiv:1904.06627.

    Examples:
        >>> from alphacl_plugins.strategies import Direct, DualTemperature, Entropy, InfoNCE
        >>> hard_anchors = Weighted(Direct(tau=0.5), InfoNCE(tau=0.1))
        >>> row = torch.tensor([0.3]), torch.tensor([[0.5, 1.0]])
        >>> torch.equal(Weighted(Entropy(0.1), InfoNCE(1.0))(*row).neg, DualTemperature(0.1, 1.0)(*row).neg)
        True
    """

    shape: Separable
    mass: Separable = field(default_factory=Uniform)
    kappa: float = 1.0
    pull: float | None = None

    def __post_init__(self) -> None:
        for name in ("shape", "mass"):
            strategy: Any = getattr(self, name)
            if not (isinstance(strategy, Separable) and strategy.separable):
                kind = f"Weighted.{name}: expected a strategy whose weights factor, such as InfoNCE() or Direct()"
                raise TypeError(f"{kind}, got {strategy!r}")
        if self.mass.log_mass(torch.zeros(1, 1)) is not None:
            raise ValueError(f"Weighted.mass: expected a strategy with one sum of exponentials, got {self.mass!r}")
        check_finite("Weighted.kappa", self.kappa)
        if self.kappa < -1:
            raise ValueError(f"Weighted.kappa: expected a number >= -1, got {self.kappa!r}")
        if self.pull is not None:
            check_finite("Weighted.pull", self.pull)

    @property
    def negatives(self) -> str | None:  # type: ignore[override]  # the shape says who is pushed
        return self.shape.negatives

    @property
    def symmetric(self) -> bool | None:  # type: ignore[override]
        return self.shape.symmetric

    @property
    def uses_positive(self) -> bool:  # type: ignore[override]  # depends on an option
        return self.mass.uses_positive

    @property
    def needs_distance(self) -> bool:  # type: ignore[override]  # depends on an option
        return self.shape.needs_distance or self.mass.needs_distance

    @property
    def uses_totals(self) -> bool:  # type: ignore[override]  # depends on an option
        return self.mass.uses_totals

    @property
    def uses_batch(self) -> bool:  # type: ignore[override]  # depends on an option
        return self.shape.uses_batch or self.mass.uses_batch

    def on_batch(self, d2_pos: Tensor, weight: Tensor | None = None) -> Weighted:
        parts: Any = {"shape": self.shape.on_batch(d2_pos, weight), "mass": self.mass.on_batch(d2_pos, weight)}
        return replace(self, **parts)

    @property
    def exponent(self) -> ExpPower | None:
        return None if self.uses_totals else self.shape.exponent

    def log_weight(self, d2: Tensor) -> Tensor:
        return self.shape.log_weight(d2)

    def log_mass(self, d2: Tensor) -> Tensor | None:
        return self.mass.log_weight(d2) if self.uses_totals else None

    def potential(self, d2: Tensor) -> Tensor | None:
        return self.mass.potential(d2)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        log_sum = totals.log_mass if isinstance(totals.log_mass, Tensor) else totals.log_sum_exp
        row_sum, pos, _ = self.mass.factors(d2_pos, totals._replace(log_sum_exp=log_sum, log_mass=0.0))
        pos = self._power(pos) if self.pull is None else torch.full_like(d2_pos, self.pull)
        return RowFactors(self._power(row_sum), pos)

    def _power(self, mass: Tensor) -> Tensor:
        if self.kappa == 1:
            return mass
        return mass.clamp_min(_LEAST_MASS).pow(self.kappa) * (mass > 0)


@dataclass(frozen=True)
class Quadratic(Separable):
    """A softmax over a quadratic in D: ``α_j ∝ exp(-a D_j - b D_j²)``.

    b = 0 is `Entropy` at τ = 1/a, a = 0 is `Direct` at p = 4 and τ = 1/b; with a < 0 the weight is largest at
    ``D = -a/(2b)``. The slope at contact is a, at the bulk (D = 1) a + 2b.

    Args:
        a: slope at D = 0, any finite number, in the inverse unit of D.
        b: half of the curvature, any finite number.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is not finite.

    Source:
        contains Tian (2022), Eq. 12 at p = 4, and the shape of Wu et al. (2023), ADNCE.
    """

    uses_positive = False
    uses_totals = False

    a: float = 2.0
    b: float = 1.0

    def __post_init__(self) -> None:
        check_finite("Quadratic.a", self.a)
        check_finite("Quadratic.b", self.b)

    def log_weight(self, d2: Tensor) -> Tensor:
        square = squared(d2 * abs(self.b) ** 0.5)
        return d2 * -self.a + (square if self.b < 0 else -square)
