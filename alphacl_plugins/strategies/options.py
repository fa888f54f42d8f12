"""Every option of the registered strategies, for type checkers and editors."""

from collections.abc import Sequence
from typing import Literal, TypedDict


class StrategyOptions(TypedDict, total=False):
    """Options that go with the name of a strategy; which ones a strategy has is in its documentation."""

    learnable_tau: bool
    learn: bool
    effective_share: float | None
    masked: float | Sequence[float | None] | Literal[False] | None
    tau: float
    eps: float
    p: float
    normalize: bool
    gamma: float
    index: float
    rho: float
    bounds: tuple[float, float]
    include_augs: bool
    kernel: str
    t: float
    c: float
    a: float
    tau_alpha: float
    tau_beta: float
    mu: float
    sigma: float
    tau_plus: float
    beta: float
    detach: bool
    b: float
    nu: float
    q: float
    lam: float
    alpha: float
    a_0: float
    base: float
    m: float
