"""Losses whose gradient is known without autograd: formed beside the loss, or once more on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.functional import without_autocast


def attach(losses: Tensor, rows: Tensor, gradient: Tensor | Callable[..., Tensor], *saved: Tensor | None) -> Tensor:
    """Attach a gradient for ``rows`` to losses ``[M]``, beside the gradients that they carry already.

    Returns:
        the mean of the losses, if ``gradient`` is that of their sum. If it is a function, the losses: in the backward
        pass ``gradient(weights, *saved)`` forms the gradient of ``Σ_i weights_i losses_i``.
    """
    in_parts = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    needed = () if isinstance(gradient, Tensor) else saved
    return (_AttachedInParts if in_parts else _Attached).apply(losses, rows, gradient, *needed)  # type: ignore[no-any-return]


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor, rows: Tensor, gradient: Any, *saved: Tensor | None) -> Tensor:
        ctx.n, ctx.function = losses.shape[0], None if isinstance(gradient, Tensor) else gradient
        ctx.save_for_backward(rows, *(saved if ctx.function else [gradient]))
        return losses.clone() if ctx.function else losses.mean()

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
        return of_losses, gradient, *[None] * (len(ctx.needs_input_grad) - 2)


class _AttachedInParts(_Attached):
    """The same where torch.func or torch.compile wants its two parts by themselves, which takes longer."""

    generate_vmap_rule = True

    @staticmethod
    def forward(losses: Tensor, rows: Tensor, gradient: Any, *saved: Tensor | None) -> Tensor:  # type: ignore[override]
        return losses.mean() if isinstance(gradient, Tensor) else losses.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Attached.forward(ctx, *inputs)


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
            'second derivatives need AlphaCLLoss(..., block_size="autograd"): this gradient was formed outside it'
        )
