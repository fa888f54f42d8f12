"""The ``loss`` key of a solo-learn config, as an `alphacl_plugins.AlphaCLLoss`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphacl_plugins import AlphaCLLoss, build_strategy
from alphacl_plugins.strategies import Strategy

NAME = "alpha_cl"
"""What ``loss`` (or ``loss.name``) says to select this package."""

LOSS_OPTIONS = ("negatives", "symmetric", "l2_normalize", "detach_alpha", "block_size", "gather_distributed")
"""The ``loss.*`` keys that go to the loss; ``name`` and ``strategy`` apart, all others go to the strategy."""


def selected(cfg: Any) -> bool:
    """Whether a config selects α-CL."""
    return bool(_name(cfg.get("loss")) == NAME)


def build_criterion(cfg: Any, *, fixed: Mapping[str, Any]) -> AlphaCLLoss | None:
    """Build the loss that ``cfg.loss`` asks for, or return None where it asks for none.

    Args:
        cfg: a solo-learn config. Its ``loss`` is absent, ``alpha_cl``, or a mapping with ``name: alpha_cl`` and
            options, where None is the default of the strategy or loss.
        fixed: what the method decides: ``symmetric``, or ``negatives="queue"`` if it has a queue.

    Raises: ValueError, TypeError, ImportError for a loss, strategy or option that is unknown or that the method cannot
        have.
    """
    loss = cfg.get("loss")
    if loss is None:
        return None
    if _name(loss) != NAME:
        raise ValueError(
            f"loss: expected {NAME}, or a mapping such as {{name: {NAME}, strategy: infonce}} (without a loss key the "
            f"method keeps its own), got {loss!r}"
        )
    options = {} if isinstance(loss, str) else {key: value for key, value in loss.items() if value is not None}
    options.pop("name", None)
    _check_method_has(options, cfg.method, fixed)
    for_loss = {"gather_distributed": True, **fixed}
    for_loss.update({key: options.pop(key) for key in LOSS_OPTIONS if key in options})
    try:
        return AlphaCLLoss(_strategy(**options), **for_loss)
    except ImportError as error:
        raise ImportError(f"loss: {error}") from error
    except (ValueError, TypeError) as error:  # one message at the terminal, not a chain
        raise type(error)(f"loss: {error}") from None


def _name(loss: Any) -> Any:
    return loss.get("name") if isinstance(loss, Mapping) else loss


def _check_method_has(options: Mapping[str, Any], method: str, fixed: Mapping[str, Any]) -> None:
    """Refuse a bank beside the method's own queue, or where it has none, and anchors that it does not have."""
    has_queue = fixed.get("negatives") == "queue"
    if "memory_bank_size" in options:
        where = "; its queue has method_kwargs.queue_size rows" if has_queue else "; mocov2plus has a queue"
        raise ValueError(f"loss.memory_bank_size: expected none with method {method}{where}")
    if options.get("negatives") == "queue" and not has_queue:
        raise ValueError(
            f"loss.negatives: expected both, same or cross with method {method}, which has no queue of negatives "
            "(mocov2plus has), got queue"
        )
    if "symmetric" in options and "symmetric" in fixed:
        raise ValueError(
            f"loss.symmetric: expected none with method {method}, whose loss is the sum of its two directions, got "
            f"{options['symmetric']!r}"
        )


def _strategy(strategy: str = "direct", **options: Any) -> Strategy:
    try:
        return build_strategy(strategy, **options)
    except TypeError as error:
        raise TypeError(f"{error} (options of the loss itself: {', '.join(LOSS_OPTIONS)})") from None
