"""What the suite draws: strategies with their options, embeddings of every kind, and ways to call the loss.

A registered strategy whose options should vary gets a line in OPTIONS, one that is not registered a line in OTHERS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from selection import slow_but
from torch import Tensor

from alphacl_plugins import AlphaCLLoss, build_strategy, strategy_names
from alphacl_plugins.strategies import Family, InfoNCE, LearnableTemperature, Masked, Regularized, Strategy
from alphacl_plugins.strategies.guarded import plain

_FIXED = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
FORMS = {"short": settings(max_examples=12, **_FIXED), "full": settings(max_examples=300, **_FIXED)}
both_forms = pytest.mark.parametrize("form", ["short", pytest.param("full", marks=pytest.mark.slow)])


def between(low: float, high: float) -> SearchStrategy[float]:
    """Numbers > 0, evenly in their logarithm, and the two ends."""
    exponents = st.floats(math.log10(low), math.log10(high))
    return st.sampled_from([low, high]) | exponents.map(lambda exponent: min(max(10.0**exponent, low), high))


def options(**drawn: SearchStrategy[Any]) -> SearchStrategy[dict[str, Any]]:
    """Keyword arguments."""
    return st.fixed_dictionaries(drawn)


TAU = between(1e-3, 1e3)
OPTIONS: dict[str, SearchStrategy[dict[str, Any]]] = {
    "infonce": options(tau=TAU, eps=st.just(0.0) | between(1e-3, 1e3)),
    "entropy": options(tau=TAU),
    "inverse": options(tau=TAU, gamma=between(0.05, 20)),
    "inverse_exact": options(tau=TAU, gamma=between(1.01, 20)),
    "square": options(tau=TAU),
    "tsallis": options(tau=TAU, index=st.sampled_from([-3.0, 0.0, 1.0, 1.5, 2.0]) | st.floats(-3, 2)),
    "kl_ball": options(rho=between(1e-2, 20), bounds=st.sampled_from([(0.05, 0.7), (1e-3, 1e3)])),
    "direct": options(tau=TAU, p=between(0.1, 20), normalize=st.booleans()),
    "dhel": options(tau=TAU, include_augs=st.booleans()),
    "kcl": options(kernel=st.sampled_from(["gaussian", "log", "imq"]), t=between(1e-3, 1e3), gamma=between(1e-3, 1e3))
    | options(kernel=st.sampled_from(["riesz", "gaussian_riesz"]), t=between(1e-3, 8), gamma=between(1e-3, 1e3)),
    "triplet": options(eps=st.floats(-2, 2)),
    "soft_triplet": options(tau=TAU, eps=st.floats(-20, 20)),
    "lifted_structured": options(eps=st.floats(-20, 20)),
    "modified_triplet": options(c=between(1e-3, 1e3)),
    "hardness": options(tau=TAU, a=st.floats(0, 100)),
    "dual_temperature": options(tau_alpha=TAU, tau_beta=TAU),
    "adnce": options(tau=TAU, mu=st.floats(-2, 2), sigma=between(0.05, 20)),
    "debiased": options(tau=TAU, tau_plus=st.floats(0, 0.9), beta=st.floats(0, 5), detach=st.booleans()),
    "sigmoid": options(t=between(1e-3, 1e3), b=st.floats(-20, 20)),
    "student_t": options(nu=between(1e-2, 1e3), t=between(1e-3, 1e3)),
    "rince": options(tau=TAU, q=between(0.01, 1), lam=between(1e-3, 1)),
    "multi_similarity": options(alpha=between(1e-2, 1e2), beta=between(1e-2, 1e3), base=st.floats(-1, 1)),
    "circle": options(m=between(0.01, 1), gamma=between(1e-2, 1e3)),
}
OTHERS: dict[str, Callable[[], Strategy]] = {
    "Regularized": lambda: Regularized(derivative=lambda a: 0.5 / a, inverse_derivative=lambda v: 0.5 / v),
    "LearnableTemperature": lambda: LearnableTemperature(InfoNCE(tau=0.2)),
    "Masked": lambda: Masked(InfoNCE(tau=0.2)),
    "Family": lambda: Family(phi=torch.log1p, psi=torch.nn.functional.softplus),
}
NAMES = [*strategy_names(), *OTHERS]
SLOW = {"Regularized"}  # solved by autograd in every step of Newton's method
SLOW |= {"hardness", "dual_temperature", "adnce", "student_t", "rince", "multi_similarity", "circle", "dcl_weighted"}
SLOW |= {"tsallis", "modified_triplet", "triplet_contrastive", "n_plus_1_tuplet"}
every_name = pytest.mark.parametrize("name", slow_but([name for name in NAMES if name not in SLOW], NAMES))


def default_strategy(name: str) -> Strategy:
    """A strategy with the options it has if none is given."""
    return OTHERS[name]() if name in OTHERS else build_strategy(name)


def drawn_strategies(name: str) -> SearchStrategy[Strategy]:
    """A strategy with any of its options."""
    if name not in OPTIONS:
        return st.builds(default_strategy, st.just(name))
    return OPTIONS[name].map(lambda drawn: build_strategy(name, **drawn))


def moderate(name: str) -> SearchStrategy[Strategy]:
    """A strategy with options of ordinary size: rounding errors stay small."""
    ranges = {
        "tau": (0.1, 2.0),
        "p": (1.0, 6.0),
        "gamma": (0.5, 4.0),
        "t": (0.5, 2.0),
        "c": (0.5, 5.0),
        "eps": (0.0, 2.0),
        "tau_alpha": (0.1, 2.0),
        "tau_beta": (0.1, 2.0),
        "sigma": (0.3, 2.0),
        "alpha": (0.5, 5.0),
        "beta": (0.0, 20.0),
        "nu": (0.5, 10.0),
        "q": (0.1, 1.0),
    }

    def clip(strategy: Strategy) -> Strategy:
        given = {field.name for field in fields(strategy) if field.init} if is_dataclass(strategy) else set()
        numbers = {key: ranges[key] for key in given & ranges.keys() if isinstance(getattr(strategy, key), float)}
        clipped = {key: min(max(getattr(strategy, key), low), high) for key, (low, high) in numbers.items()}
        return replace(strategy, **clipped) if clipped else strategy

    return drawn_strategies(name).map(clip)


EMBEDDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda z: z,
    "all equal": lambda z: z[:1].expand_as(z),
    "all zero": torch.zeros_like,
    "a zero row": lambda z: z * (_rows(z) > 0),
    "one-hot": lambda z: torch.eye(z.shape[1], dtype=z.dtype)[_rows(z)[:, 0] % z.shape[1]],
    "duplicates": lambda z: z[_rows(z)[:, 0] % 2],
    "nearly equal": lambda z: z[:1] + 1e-6 * z,
    "nearly opposite": lambda z: (z[:1] + 1e-6 * z) * (1 - 2 * (_rows(z) % 2)),
    "one huge row": lambda z: z * torch.where(_rows(z) == 0, 1e12, 1.0),
    "one tiny row": lambda z: z * torch.where(_rows(z) == 0, 1e-12, 1.0),
}


def _rows(z: Tensor) -> Tensor:
    return torch.arange(len(z))[:, None]


@dataclass(frozen=True)
class Case:
    """A call of the loss, in numbers small enough to read when it fails."""

    strategy: Strategy
    negatives: str | None
    symmetric: bool | None
    l2_normalize: bool
    detach_alpha: bool
    samples: int
    width: int
    views: int
    queue_rows: int
    classes: int  # 0: no labels
    kind: str
    equal_views: bool
    scale: float
    dtype: torch.dtype
    seed: int
    block_size: str | int
    ring: bool
    reduction: str

    def loss(self) -> AlphaCLLoss:
        """The loss, by the engine of the case."""
        return AlphaCLLoss(
            self.strategy,
            negatives=self.negatives,
            symmetric=self.symmetric,
            l2_normalize=self.l2_normalize,
            detach_alpha=self.detach_alpha,
            reduction=self.reduction,
            block_size=self.block_size,
            gather_distributed="ring" if self.ring else False,
        )

    def embeddings(self) -> list[Tensor]:
        """The views, in the dtype of the case."""
        generator = torch.Generator().manual_seed(self.seed)
        first = self._draw(generator, self.samples)
        others = [
            first if self.equal_views else first + 0.3 * self._draw(generator, self.samples)
            for _ in range(self.views - 1)
        ]
        return [self._scaled(EMBEDDINGS[self.kind](view)) for view in (first, *others)]

    def arguments(self) -> dict[str, Tensor | None]:
        """Labels and queue."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        labels = torch.randint(self.classes, (self.samples,), generator=generator) if self.classes else None
        queue = self._draw(generator, self.queue_rows)
        return {"labels": labels, "queue": self._scaled(EMBEDDINGS[self.kind](queue)) if self.queue_rows else None}

    def results(self, dtype: torch.dtype | None = None) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """The loss, the gradients of its mean, and last_stats; in another dtype if told so."""
        views = [view.to(dtype or self.dtype).requires_grad_() for view in self.embeddings()]
        arguments = self.arguments()
        if arguments["queue"] is not None:
            arguments["queue"] = arguments["queue"].to(dtype or self.dtype)
        loss = self.loss()
        losses = loss(*views, **arguments)
        return losses.detach(), list(torch.autograd.grad(losses.mean(), views)), loss.last_stats

    def _draw(self, generator: torch.Generator, rows: int) -> Tensor:
        return torch.randn(rows, self.width, generator=generator, dtype=torch.float64)

    def _scaled(self, z: Tensor) -> Tensor:
        largest = torch.finfo(self.dtype).max
        return (z * self.scale).clamp(-largest, largest).to(self.dtype)


def engines(strategy: Strategy, detach_alpha: bool, rows: int) -> SearchStrategy[tuple[str | int, bool]]:
    """Any ``block_size`` that a loss can have with these options, and whether in a ring; not so small as to be slow."""
    if not detach_alpha:
        return st.sampled_from([("auto", False), ("autograd", False)])
    blocks, tiles = (st.integers(-(-rows // most), 50) for most in (20, 8))
    found = st.tuples(st.sampled_from(["auto", "autograd"]) | blocks, st.just(False))
    return found | st.tuples(tiles | st.just("auto"), st.just(True)) if plain(strategy).separable else found


@st.composite
def cases(
    draw: st.DrawFn,
    strategies: SearchStrategy[Strategy],
    *,
    benign: bool = False,
    dtype: torch.dtype | None = None,
    **fixed: Any,
) -> Case:
    """Calls of the loss: any there are, or benign ones (random embeddings of ordinary length, none close).

    Fields that are ``fixed`` to a value, or to what a search strategy draws, are not drawn as here.
    """
    hard = st.just(False) if benign else st.booleans()
    queue_sizes = st.sampled_from([0, 1, 2, 20]) | st.integers(0, 20)
    kinds = {
        "strategy": strategies,
        "negatives": st.sampled_from([None, "both", "same", "cross", "queue"]),
        "symmetric": st.sampled_from([None, True, False]),
        "l2_normalize": st.booleans(),
        "detach_alpha": st.booleans(),
        "samples": st.sampled_from([2, 3]) | st.integers(2, 40),
        "width": st.integers(8, 64) if benign else st.sampled_from([1, 2, 64]) | st.integers(1, 64),
        "views": st.sampled_from([2, 2, 3, 4]),
        "queue_rows": queue_sizes,
        "classes": st.sampled_from([0, 0, 1, 2, 5]),
        "kind": st.just("random") if benign else st.sampled_from(sorted(EMBEDDINGS)),
        "equal_views": hard,
        "scale": st.just(1.0) if benign else st.just(1.0) | between(1e-3, 1e6) | between(1e-30, 1e30),
        "dtype": st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
        "seed": st.integers(0, 2**31),
        "reduction": st.sampled_from(["mean", "none"]),
    }
    fixed = fixed if dtype is None else fixed | {"dtype": dtype}
    wanted = {name: fixed.get(name, kind) for name, kind in kinds.items()}
    drawn = {name: draw(kind) if isinstance(kind, SearchStrategy) else kind for name, kind in wanted.items()}
    if benign and drawn["negatives"] == "queue":
        drawn["queue_rows"] = max(drawn["queue_rows"], 1)
    rows = drawn["samples"] * drawn["views"]
    drawn["block_size"], drawn["ring"] = draw(engines(drawn["strategy"], drawn["detach_alpha"], rows))
    return Case(**drawn)
