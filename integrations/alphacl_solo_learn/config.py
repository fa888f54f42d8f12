"""The ``loss`` key of a solo-learn config, as an `alphacl_plugins.AlphaCLLoss`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.checks import check_count
from alphacl_plugins.loss import OPTIONS
from alphacl_plugins.strategies import reserve_options

NAME = "alpha_cl"
"""What ``loss`` (or ``loss.name``) says to select this package."""

LOSS_OPTIONS = tuple(option for option in OPTIONS if option not in ("strategy", "reduction", "process_group"))
"""The ``loss.*`` keys that are the loss's own; ``name`` and ``strategy`` apart, all others are the strategy's."""

MONITOR = "monitor"
"""The key that switches on an `alphacl_lightly.RepresentationMonitor`."""

MONITOR_OPTIONS = ("every_n_epochs", "samples", "neighbours", "prefix")
"""Those of the monitor that a config can have."""

UNSET = "???"
"""OmegaConf's word for a key without a value, which never replaces one that has a value."""

BANK = "memory_bank_size"
"""The option of method supcon: how many embeddings of earlier batches to compare with."""

reserve_options("name", BANK)


def selected(cfg: Any) -> bool:
    """Whether a config selects α-CL."""
    return bool(_name(cfg.get("loss")) == NAME)


def misplaced(cfg: Mapping[str, Any], above: str = "") -> str | None:
    """Return where else than at its top a config selects α-CL, such as method_kwargs.loss; None if nowhere."""
    inner = {f"{above}{key}": value for key, value in cfg.items() if isinstance(value, Mapping)}
    here = [f"{key}.loss" for key, value in inner.items() if selected(value)]
    return next(filter(None, [*here, *(misplaced(value, f"{key}.") for key, value in inner.items())]), None)


def build_criterion(cfg: Any, *, fixed: Mapping[str, Any]) -> AlphaCLLoss | None:
    """Build the loss that ``cfg.loss`` asks for, or return None where it asks for none.

    Args:
        cfg: a solo-learn config. Its ``loss`` is absent, ``alpha_cl``, or a mapping with ``name: alpha_cl`` and
            options, where None and ``???`` are the default of the strategy or loss, but ``block_size: None`` is
            "autograd".
        fixed: what the method decides: ``symmetric``, or ``negatives="queue"`` if it has a queue.

    Raises:
        ValueError, TypeError, ImportError: for a loss, strategy or option that is unknown or that the method cannot
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
    options = given_options(loss)
    _check_method_has(options, cfg.method, fixed)
    options.pop(BANK, None)
    try:
        return AlphaCLLoss(**{"gather_distributed": True, **fixed, **options})
    except ImportError as error:
        raise ImportError(f"loss: {error}") from error
    except (ValueError, TypeError) as error:  # one message at the terminal, not a chain
        raise type(error)(f"loss: {error}") from None


def _name(loss: Any) -> Any:
    return loss.get("name") if isinstance(loss, Mapping) else loss


def given_options(loss: Any) -> dict[str, Any]:
    """Return the options that ``cfg.loss`` sets; None sets one alone, the block size, which is "autograd" then."""
    if not isinstance(loss, Mapping):
        return {}
    options = {key: loss.get(key, UNSET) for key in loss if key != "name"}
    if "block_size" in options and options["block_size"] is None:
        options["block_size"] = "autograd"
    return {key: value for key, value in options.items() if value not in (None, UNSET)}


def monitor_options(cfg: Any) -> dict[str, Any] | None:
    """Return the options of ``cfg.monitor``: true, or a mapping of them; None where it is absent, null or false.

    Raises:
        TypeError: for anything else.
    """
    monitor = cfg.get(MONITOR)
    if monitor is None or monitor is False:
        return None
    if monitor is not True and not isinstance(monitor, Mapping):
        raise TypeError(f"{MONITOR}: expected true, or options such as {{every_n_epochs: 1}}, got {monitor!r}")
    options = {} if monitor is True else dict(monitor)
    if unknown := [key for key in options if key not in MONITOR_OPTIONS]:
        raise TypeError(f"{MONITOR}: expected options among {', '.join(MONITOR_OPTIONS)}, got {', '.join(unknown)}")
    return {key: value for key, value in options.items() if value not in (None, UNSET)}


def forget_unset(loss: Any) -> None:
    """Drop the keys of ``cfg.loss`` that have no value, so that solo-learn records those alone that the user set."""
    if isinstance(loss, MutableMapping):
        for key in [key for key in loss if loss.get(key, UNSET) == UNSET]:
            del loss[key]


def _check_method_has(options: Mapping[str, Any], method: str, fixed: Mapping[str, Any]) -> None:
    """Refuse what the method decides itself, or does not have."""
    has_queue = fixed.get("negatives") == "queue"
    if BANK in options and method == "supcon":
        check_count(f"loss.{BANK}", options[BANK])
    elif BANK in options:
        where = "its queue has method_kwargs.queue_size rows" if has_queue else "mocov2plus has a queue, supcon a bank"
        raise ValueError(f"loss.{BANK}: expected none with method {method}; {where}")
    if options.get("negatives") == "queue" and not has_queue and BANK not in options:
        raise ValueError(
            f"loss.negatives: expected both, same or cross with method {method}, which has no queue of negatives "
            "(mocov2plus has, and supcon with a memory_bank_size), got queue"
        )
    if "symmetric" in options and "symmetric" in fixed:
        raise ValueError(
            f"loss.symmetric: expected none with method {method}, whose loss is the sum of its two directions, got "
            f"{options['symmetric']!r}"
        )
    if "reduction" in options:
        raise ValueError(
            f"loss.reduction: expected none with method {method}, which trains with the mean over the anchors, got "
            f"{options['reduction']!r}"
        )
