"""What `AlphaCLLoss` is given: options and batches, checked, and explained where they do not fit."""

from __future__ import annotations

import inspect
from numbers import Integral
from typing import Any, cast

from torch import Tensor, nn

from alphacl_plugins._checks import check_labels, check_same_shape, check_width
from alphacl_plugins.queue import EmbeddingQueue
from alphacl_plugins.strategies import Strategy, Tempered, build_strategy


def check_batch(views: list[Tensor], labels: Tensor | None, queue: Tensor | None) -> None:
    """Raise unless views, labels and queue belong together."""
    for k, view in enumerate(views[2:]):
        if isinstance(view, Tensor) and view.ndim == 1 and not view.is_floating_point():
            raise TypeError(
                f"more_views[{k}]: expected embeddings [N, D], got {view.dtype} {tuple(view.shape)}; labels go by "
                "keyword: labels=..."
            )
    if isinstance(queue, EmbeddingQueue):
        raise TypeError("queue: expected a tensor [Q, D], got an EmbeddingQueue; pass queue.embeddings")
    names = ["z", "z_aug", *(f"more_views[{k}]" for k in range(len(views) - 2))]
    for name, view in zip(names[1:], views[1:], strict=True):
        check_same_shape(name, view, "z", views[0])
    if labels is not None:
        check_labels("labels", labels, len(views[0]))
    if queue is not None:
        check_width("queue", queue, "z", views[0])


def check_block_size(block_size: Any, detach_alpha: bool, gather_distributed: bool | str) -> None:
    """Raise unless the block size is one, and fits the other options."""
    if block_size is None or (isinstance(block_size, str) and block_size == "auto"):
        return
    kernel = isinstance(block_size, str) and block_size == "kernel"
    if not kernel and (isinstance(block_size, bool) or not isinstance(block_size, Integral)):
        raise TypeError(f'block_size: expected "auto", an int >= 1, "kernel" or None, got {block_size!r}')
    if not kernel and block_size < 1:
        raise ValueError(f'block_size: expected "auto", an int >= 1, "kernel" or None, got {block_size!r}')
    if not detach_alpha:
        raise ValueError(
            'block_size: expected "auto" or None with detach_alpha=False, whose gradient goes through the whole matrix '
            f"of weights and stays on the materialised path, got {block_size!r}"
        )
    if gather_distributed == "ring":
        raise ValueError(
            'block_size: expected "auto" or None with gather_distributed="ring", which compares tile by tile, got '
            f"{block_size!r}"
        )


def check_for_ring(strategy: Strategy, detach_alpha: bool) -> None:
    """Raise unless the candidates of an anchor can come one after another."""
    if getattr(strategy, "factored", None) is None:
        raise ValueError(
            "gather_distributed: expected True or False with a strategy that needs all candidates of an anchor at "
            f'once, got "ring" with {strategy!r}; a ring needs α_j = c · w(D_j): the softmax types and the kernels'
        )
    learns = isinstance(strategy, nn.Module) and any(p.requires_grad for p in strategy.parameters())
    if learns and not isinstance(strategy, Tempered):
        raise ValueError(
            "gather_distributed: expected True or False with a strategy that has parameters of its own, got "
            f'"ring", which passes them no gradient, with {strategy!r}'
        )
    if not detach_alpha:
        raise ValueError(
            'gather_distributed: expected True or False with detach_alpha=False, got "ring", which holds α fixed'
        )


def as_strategy(strategy: object) -> Strategy:
    """Build a strategy from its name; let an object pass."""
    if isinstance(strategy, str):
        return build_strategy(strategy)
    if isinstance(strategy, type) or not callable(strategy):
        hint = "; a temperature goes into the strategy: InfoNCE(tau=0.5)" if isinstance(strategy, (int, float)) else ""
        hint = f"; an object is made with brackets: {strategy.__name__}()" if isinstance(strategy, type) else hint
        raise TypeError(f"strategy: expected a name or a strategy object, got {strategy!r}{hint}")
    return cast(Strategy, strategy)


def declared(option: Any, strategy: Strategy, name: str, default: object) -> Any:
    """Return the option if given, else what the strategy declares, else the default."""
    if option is not None:
        return option
    of_strategy = getattr(strategy, name, None)
    return default if of_strategy is None else of_strategy


def explain_unexpected(loss: type, strategy: object, unexpected: dict[str, Any]) -> str:
    """Say which options the loss has, and where those of a strategy go."""
    options = [name for name in inspect.signature(loss).parameters if name not in ("strategy", "unexpected")]
    call = ", ".join(
        [f'"{strategy}"' if isinstance(strategy, str) else '"infonce"']
        + [f"{'tau' if option == 'temperature' else option}={value!r}" for option, value in unexpected.items()]
    )
    hint = " (the temperature is called tau)" if "temperature" in unexpected else ""
    return (
        f"AlphaCLLoss: expected options among {', '.join(options)}, got {', '.join(unexpected)}{hint}; "
        f"options of a strategy go into it: AlphaCLLoss(build_strategy({call}))"
    )
