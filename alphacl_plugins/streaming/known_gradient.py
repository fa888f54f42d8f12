"""Losses whose gradient, with α held fixed, is known without autograd: formed beforehand, or on demand."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor

from alphacl_plugins.functional import without_autocast


class GradientOf(Protocol):
    """What can form the gradient of a weighted sum of the anchors' losses."""

    def gradient(self, stacked: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient of ``Σ_i weights_i loss_i`` for the embeddings."""


def with_gradient(stacked: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
    """The scalar ``loss``, which passes on what gradient it has, and a gradient of ``stacked`` beside."""
    result: Tensor = _Known.apply(stacked, gradient, loss)
    return result


def with_gradient_on_demand(stacked: Tensor, losses: Tensor, source: GradientOf) -> Tensor:
    """The losses ``[M]`` of the anchors, which pass on what gradient they have, and that of ``stacked`` beside."""
    result: Tensor = _OnDemand.apply(stacked, losses, source)
    return result


class _Known(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(stacked: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        stacked, gradient, _ = inputs
        ctx.save_for_backward(stacked, gradient)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, Tensor]:
        stacked, gradient = ctx.saved_tensors
        return _final(stacked, upstream[0] * gradient), None, upstream[0]


class _OnDemand(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(stacked: Tensor, losses: Tensor, source: GradientOf) -> Tensor:
        return losses.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        stacked, _, ctx.source = inputs
        ctx.save_for_backward(stacked)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        (stacked,) = ctx.saved_tensors
        with torch.no_grad(), without_autocast(stacked.device):
            gradient = ctx.source.gradient(stacked, upstream[0])
        return _final(stacked, gradient), upstream[0], None


for _function in (_Known.forward, _OnDemand.forward):  # `apply` would otherwise work it out at every call
    setattr(_function, "__signature__", inspect.signature(_function))  # noqa: B010  # functions have no such attribute


def _final(stacked: Tensor, gradient: Tensor) -> Tensor:
    gradient = gradient.to(stacked.dtype)
    if not torch.is_grad_enabled():
        return gradient
    final: Tensor = _Final.apply(stacked, gradient)
    return final


class _Final(torch.autograd.Function):
    """A gradient of ``stacked`` that would pass for a constant if it were differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(stacked: Tensor, gradient: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            "block_size: expected None for a gradient that is differentiated again with α held fixed "
            "(detach_alpha=False: through α), got a loss whose gradient was formed beside it"
        )
