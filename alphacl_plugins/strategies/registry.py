"""Strategies by name: ``build_strategy("direct", p=6)``, and how to add your own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from alphacl_plugins.checks import check_bool, check_finite
from alphacl_plugins.strategies.base import AnyStrategy
from alphacl_plugins.strategies.calibrated import Calibrated
from alphacl_plugins.strategies.learnable_temperature import LearnableTemperature, check_can_learn, has_temperature
from alphacl_plugins.strategies.masked import Masked
from alphacl_plugins.strategies.sigmoid import LearnableSigmoid, Sigmoid

S = TypeVar("S", bound=Callable[..., Any])

_SYNONYMS = {  # names in other libraries
    "ntxent": "infonce", "nt_xent": "infonce", "simclr": "infonce", "clip": "infonce", "moco": "infonce",
    "dcl": "entropy", "alpha_cl": "direct", "dclw": "dcl_weighted", "debiased_contrastive": "debiased",
    "eqco": "infonce", "isogclr": "kl_ball", "tempnet": "kl_ball", "entmax": "tsallis",
    "sincere": "infonce", "supcon": "infonce", "hcl": "debiased", "nt_logistic": "sigmoid", "t_simclr": "student_t",
    "simco": "dual_temperature", "n_pair": "n_plus_1_tuplet", "ms": "multi_similarity",
    "sparsemax": "square",
}  # fmt: skip
_OBJECTS = {
    "family": "strategies.Family takes functions, so pass the object itself",
    "regularized": "strategies.Regularized takes functions, so pass the object itself",
    "link": "strategies.Link takes functions, so pass the object itself",
    "weighted": "strategies.Weighted takes strategies, so pass the object itself",
    "quadratic": "strategies.Quadratic is passed as an object; the paper's quadratic loss is 'uniform'",
    "masked": "masked=0.1 is an option beside another name",
    "learnable_temperature": "learnable_tau=True is an option beside another name",
}
_ALIASES = {"flatnce": "entropy", "siglip": "sigmoid", "llave": "hardness", "t_simcne": "student_t"}  # at its defaults

_REGISTRY: dict[str, Callable[..., Any]] = {}
_RESERVED = {"strategy", "name", "learnable_tau", "learn", "effective_share", "masked"}
"""Arguments of `build_strategy` and of flat configurations."""


def register_strategy(name: str) -> Callable[[S], S]:
    """Make a strategy class available under a name, as a decorator.

    Registering the same class again (a notebook cell that runs twice) replaces the earlier one.

    Args:
        name: the name for `build_strategy`, the adapters and configs; no dot, which would read as an import path.

    Returns:
        The decorator, which returns the class.

    Raises:
        TypeError: if the name is not a string, or the strategy is not a class or its objects cannot be called.
        ValueError: if the name is taken or not usable, or an option of the strategy is reserved (`reserve_options`).

    Examples:
        A strategy that counts the nearest negative only::

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
            raise TypeError(f"{name}: expected a class of strategies, got {strategy!r}; a function needs no name")
        if not any("__call__" in vars(base) for base in inspect.getmro(cast(type, strategy))):
            raise TypeError(f"{name}: expected a class with __call__(self, d2_pos, d2_neg), got {strategy!r}")
        if name in _REGISTRY and _place(_REGISTRY[name]) != _place(strategy):
            raise ValueError(f"name: expected a new one, got {name!r}, which is {_REGISTRY[name]!r}")
        if clash := ", ".join(option for option in _options(strategy) if option in _RESERVED):
            raise ValueError(f"{name}: expected options other than the loss's own, got {clash}")
        _REGISTRY[name] = strategy
        return strategy

    return register


def reserve_options(*names: str) -> None:
    """Reserve names of options, so that flat configurations can hold them beside the options of a strategy.

    A loss or an adapter calls this once, on import, with the names of its own options.

    Args:
        *names: that no option of a registered strategy may have.

    Raises:
        ValueError: if a registered strategy has such an option.
    """
    for name, strategy in _REGISTRY.items():
        if clash := ", ".join(option for option in _options(strategy) if option in names):
            raise ValueError(f"names: expected names that no strategy has as an option, got {clash} of {name!r}")
    _RESERVED.update(names)


def strategy_names() -> list[str]:
    """Return the registered names, sorted."""
    return sorted(_REGISTRY)


def build_strategy(
    name: str,
    *,
    learnable_tau: bool = False,
    learn: bool = False,
    effective_share: float | None = None,
    masked: float | Sequence[float | None] | Literal[False] | None = None,
    **options: Any,
) -> AnyStrategy:
    """Build a strategy from its registered name or its import path.

    Args:
        name: a name of `strategy_names`, another name of the same loss (flatnce, siglip, llave, t_simcne), or an import
            path such as ``my_package.my_module.MyAlpha``.
        learnable_tau: whether the temperature is a parameter, which begins at ``tau``: `LearnableTemperature` with its
            default options.
        learn: whether t and b of "sigmoid" are parameters: `LearnableSigmoid`.
        effective_share: effective negatives over negatives, in (0, 1), in place of ``tau``: `Calibrated`.
        masked: margin by which a negative may be nearer than the positive; nearer ones are masked: `Masked`, around all
            else. Or (margin, lowest, highest), with quantiles, and None for no margin. False or None: no mask.
        **options: the strategy's own options, such as ``tau``; see `StrategyOptions`.

    Returns:
        The strategy.

    Raises:
        ImportError: if the path cannot be imported.
        TypeError: if the strategy does not have an option.
        ValueError: if the name is unknown, or the temperature cannot learn.
    """
    own = {"learnable_tau": learnable_tau, "learn": learn, "effective_share": effective_share, "masked": masked}
    return _build(name, "strategy", own | options)


def resolve_strategy(
    strategy: object, options: Mapping[str, Any] = MappingProxyType({}), *, argument: str = "strategy"
) -> AnyStrategy:
    """Return a strategy that was given as a name, an import path or an object.

    Args:
        strategy: a name or import path for `build_strategy`, or a strategy object or function, which passes unchanged.
        options: options that go with a name, as `build_strategy` takes them.
        argument: what errors call the strategy.

    Returns:
        The strategy.

    Raises:
        ImportError: if a path cannot be imported.
        TypeError: if ``strategy`` is none of these, or an object that comes with options.
        ValueError: if a name is unknown.
    """
    if isinstance(strategy, str):
        return _build(strategy, argument, options)
    if isinstance(strategy, type) or not callable(strategy):
        hint = "; a temperature goes into the strategy: InfoNCE(tau=0.5)" if isinstance(strategy, (int, float)) else ""
        hint = f"; an object is made with brackets: {strategy.__name__}()" if isinstance(strategy, type) else hint
        raise TypeError(f"{argument}: expected a name or a strategy object, got {strategy!r}{hint}")
    if options:
        raise TypeError(f"{argument}: expected a name to go with the options {', '.join(options)}, got {strategy!r}")
    return cast(AnyStrategy, strategy)


def _build(name: str, argument: str, options: Mapping[str, Any]) -> AnyStrategy:
    options = dict(options)
    learnable_tau, learn = options.pop("learnable_tau", False), options.pop("learn", False)
    share, masked = options.pop("effective_share", None), options.pop("masked", None)
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected a name or an import path, got {name!r}")
    build = _import(name, argument) if "." in name else _look_up(name, argument)
    known = _options(build)
    if unknown := [option for option in options if option not in known]:
        expected = f"options among {', '.join(known)}" if known else "no options"
        hint = "; the temperature is called tau" if "temperature" in unknown else ""
        raise TypeError(f"{name}: expected {expected}, got {', '.join(unknown)}{hint}")
    check_bool("learnable_tau", learnable_tau)
    check_bool("learn", learn)
    strategy: AnyStrategy = build(**options)
    if learnable_tau:
        check_can_learn("learnable_tau", strategy)
        strategy = LearnableTemperature(strategy)
    if learn:
        if not isinstance(strategy, Sigmoid):
            raise ValueError(f"learn: expected False with {strategy!r}; True is for sigmoid; a τ has learnable_tau")
        strategy = LearnableSigmoid(strategy)
    if share is not None:
        given = "tau" if "tau" in options else "learnable_tau" if learnable_tau else None
        if given is not None or not has_temperature(strategy):
            why = f"{given}, whose place it takes" if given else f"{strategy!r}, which has no temperature"
            raise ValueError(f"effective_share: expected None with {why}, got {share!r}")
        strategy = Calibrated(strategy, share)
    if masked is None or masked is False:
        return strategy
    margin, *quantiles = masked if isinstance(masked, Sequence) and not isinstance(masked, str) else (masked,)
    if len(quantiles) not in (0, 2):
        raise ValueError(f"masked: expected a margin or (margin, lowest, highest), got {masked!r}")
    if margin is not None:
        check_finite("masked", margin)
    return Masked(strategy, margin, **dict(zip(("lowest", "highest"), quantiles, strict=False)))


def _look_up(name: str, argument: str) -> Callable[..., Any]:
    if name not in _REGISTRY:
        elsewhere = name.lower().replace("-", "_")
        if elsewhere in _ALIASES:
            return _REGISTRY[_ALIASES[elsewhere]]
        also = _SYNONYMS.get(elsewhere)
        close = [also] if also else get_close_matches(name.lower(), _REGISTRY, n=1, cutoff=0.7)
        note = f"; {_OBJECTS[elsewhere]}" if elsewhere in _OBJECTS else f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{argument}: expected one of {', '.join(strategy_names())}, got {name!r}{note}")
    return _REGISTRY[name]


def _import(path: str, argument: str) -> Callable[..., Any]:
    module_name, _, attribute = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")):
        raise ImportError(f"{argument}: expected an import path such as package.module.MyAlpha, got {path!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises
        raise ImportError(f"{argument}: cannot import {module_name}: {error}") from error
    if not hasattr(module, attribute):
        raise ImportError(f"{argument}: cannot import {attribute} from {module_name}, which has no such name")
    strategy = getattr(module, attribute)
    if not callable(strategy):
        raise TypeError(f"{argument}: expected a class at {path!r}, got {strategy!r}")
    if inspect.isfunction(strategy) and list(inspect.signature(strategy).parameters)[:2] == ["d2_pos", "d2_neg"]:
        raise TypeError(f"{argument}: expected a class at {path!r}, got a function; pass it itself, or make it a class")
    return strategy  # type: ignore[no-any-return]


def _options(strategy: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(strategy).parameters)


def _place(strategy: Callable[..., Any]) -> tuple[str, str]:
    return strategy.__module__, strategy.__qualname__
