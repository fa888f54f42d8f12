"""Losses whose gradient is known without autograd: formed beside the loss, or once more on demand."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.functional import without_autocast


class Attached(torch.autograd.Function):
    """Losses ``[M]`` with a gradient for ``rows`` attached, beside the gradients that they carry already.

    ``apply(losses, rows, gradient)`` returns the mean of the losses, the gradient of whose sum is known. Or
    ``apply(losses, rows, function, *saved)`` returns the losses; in the backward pass ``function(weights, *saved)``
    forms the gradient of ``Σ_i weights_i losses_i``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        losses: Tensor, rows: Tensor, gradient: Tensor | Callable[..., Tensor], *saved: Tensor | None
    ) -> Tensor:
        """Return the mean of the losses, or the losses."""
        return losses.mean() if isinstance(gradient, Tensor) else losses.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the backward pass needs."""
        losses, rows, gradient, *saved = inputs
        ctx.n, ctx.rest, known = len(losses), [None] * (1 + len(saved)), isinstance(gradient, Tensor)
        ctx.function = None if known else gradient
        ctx.save_for_backward(rows, *([gradient] if known else saved))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the losses and of the rows."""
        rows, *saved = ctx.saved_tensors
        if ctx.function is None:
            scale = upstream[0] / ctx.n
            of_losses, gradient = scale.expand(ctx.n) if ctx.needs_input_grad[0] else None, scale * saved[0]
        else:
            with torch.no_grad(), without_autocast(rows.device):
                of_losses, gradient = upstream[0], ctx.function(upstream[0], *saved)
        gradient = gradient.to(rows.dtype)
        if torch.is_grad_enabled():
            gradient = _Final.apply(rows, gradient)
        return of_losses, gradient, *ctx.rest


# Else torch works the signature out at every call, which takes longer than most operations of a small batch.
Attached.forward.__signature__ = inspect.signature(Attached.forward)  # type: ignore[attr-defined]


class _Final(torch.autograd.Function):
    """Raise on a second differentiation: this gradient was formed outside autograd and would count as a constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, gradient: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            'second derivatives need AlphaCLLoss(..., block_size="autograd"): the gradient of this loss was formed '
            "beside it"
        )
