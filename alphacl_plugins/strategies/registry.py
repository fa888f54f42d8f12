"""Strategies by name: ``build_strategy("direct", p=6)``, and how to add your own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar

from alphacl_plugins._checks import check_bool
from alphacl_plugins.strategies.base import Strategy
from alphacl_plugins.strategies.tempered import Tempered

S = TypeVar("S", bound=Callable[..., Strategy])

# Flat configurations (lightly's keywords, solo-learn's `loss.*`) hold the options of the loss, of its strategy and of
# `build_strategy` side by side, so a strategy may not take an option of one of these names. ("name" is a config's own
# key.)
LOSS_OPTIONS = (
    "strategy",
    "negatives",
    "symmetric",
    "l2_normalize",
    "detach_alpha",
    "learnable_tau",
    "reduction",
    "block_size",
    "gather_distributed",
    "memory_bank_size",
    "name",
)

_OTHER_NAMES = {  # under which users may look for them
    "ntxent": "infonce", "nt_xent": "infonce", "simclr": "infonce", "clip": "infonce", "moco": "infonce",
    "dcl": "entropy", "quadratic": "uniform", "alpha_cl": "direct",
}  # fmt: skip

_REGISTRY: dict[str, Callable[..., Strategy]] = {}


def register_strategy(name: str) -> Callable[[S], S]:
    """Make a strategy class available under a name, as a decorator.

    Args:
        name: the name for `build_strategy`, the adapters and configs; no dot, which would read as an import path.

    Raises: ValueError if the name is taken or not usable, or an option of the strategy is named like one of the loss;
        TypeError if the name is not a string or the strategy is not a class.

    Example::

        @register_strategy("nearest_only")
        @dataclass(frozen=True)
        class NearestOnly:
            def __call__(self, d2_pos, d2_neg):
                nearest = d2_neg.argmin(dim=1, keepdim=True)
                return PairWeights(neg=torch.zeros_like(d2_neg).scatter(1, nearest, 1.0))
    """
    if not isinstance(name, str):
        raise TypeError(f'name: expected a string, @register_strategy("my_name"), got {name!r}')
    if not name or "." in name:
        raise ValueError(f"name: expected a name without dots, got {name!r}")

    def register(strategy: S) -> S:
        is_class: bool = inspect.isclass(strategy)
        if not is_class:
            raise TypeError(
                f"{name}: expected a class of strategies, got {strategy!r}; a function goes to the loss as it is"
            )
        if name in _REGISTRY:
            raise ValueError(f"name: expected a new one, got {name!r}, which is {_REGISTRY[name]!r}")
        clash = [option for option in _options(strategy) if option in LOSS_OPTIONS]
        if clash:
            raise ValueError(f"{name}: expected options other than the loss's own, got {', '.join(clash)}")
        _REGISTRY[name] = strategy
        return strategy

    return register


def strategy_names() -> list[str]:
    """Return the registered names, sorted."""
    return sorted(_REGISTRY)


def build_strategy(name: str, *, learnable_tau: bool = False, **options: Any) -> Strategy:
    """Build a strategy from its registered name or its import path.

    Args:
        name: a name of `strategy_names`, or an import path such as ``my_package.my_module.MyAlpha``.
        learnable_tau: whether the temperature is a parameter, which begins at ``tau``: `Tempered` in its default form.
        **options: the strategy's own options, such as ``tau``.

    Raises: ValueError if the name is unknown; TypeError if the strategy does not have an option; ImportError if the
        path cannot be imported.
    """
    if not isinstance(name, str):
        raise TypeError(f"strategy: expected a name or an import path, got {name!r}")
    strategy = _import(name) if "." in name else _look_up(name)
    known = _options(strategy)
    unknown = [option for option in options if option not in known]
    if unknown:
        expected = f"options among {', '.join(known)}" if known else "no options"
        raise TypeError(f"{name}: expected {expected}, got {', '.join(unknown)}{_hint(unknown)}")
    check_bool("learnable_tau", learnable_tau)
    return Tempered(strategy(**options)) if learnable_tau else strategy(**options)


def _look_up(name: str) -> Callable[..., Strategy]:
    if name not in _REGISTRY:
        also = _OTHER_NAMES.get(name.lower().replace("-", "_"))
        close = [also] if also else get_close_matches(name.lower(), _REGISTRY, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        takes_functions = name.lower() in ("family", "regularized")
        note = f"; {name.capitalize()} takes functions, so pass the object itself" if takes_functions else ""
        raise ValueError(f"strategy: expected one of {', '.join(strategy_names())}, got {name!r}{guess}{note}")
    return _REGISTRY[name]


def _import(path: str) -> Callable[..., Strategy]:
    module_name, _, attribute = path.rpartition(".")
    try:
        strategy = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImportError(f"strategy: expected an import path such as package.module.MyAlpha, got {path!r}") from error
    if not callable(strategy):
        raise TypeError(f"strategy: expected a class at {path!r}, got {strategy!r}")
    return strategy  # type: ignore[no-any-return]


def _options(strategy: Callable[..., Strategy]) -> list[str]:
    return list(inspect.signature(strategy).parameters)


def _hint(unknown: list[str]) -> str:
    return "; the temperature is called tau" if "temperature" in unknown else ""
