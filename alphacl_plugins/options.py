"""Which options of `AlphaCLLoss` there are, and which go together."""

from __future__ import annotations

import zlib
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import distributed as dist
from torch import nn

from alphacl_plugins.checks import check_bool, check_choice
from alphacl_plugins.strategies.guarded import plain
from alphacl_plugins.strategies.masked import learnable_of, unmasked
from alphacl_plugins.strategies.separable import ExpPower, Separable

Negatives = Literal["both", "same", "cross", "queue"]
BlockSize = int | Literal["auto", "autograd", "kernel"] | None


def check_options(loss: Any) -> None:
    """Raise unless every option of a loss is one that it has, and there is an engine for them together.

    Raises:
        TypeError, ValueError: the message names the option, what was expected and what came.
    """
    check_choice("negatives", loss.negatives, get_args(Negatives))
    check_choice("reduction", loss.reduction, ("mean", "none"))
    for name in ("symmetric", "l2_normalize", "detach_alpha"):
        check_bool(name, getattr(loss, name))
    check_choice("positives", loss.positives, ("all", "other_views"))
    check_bool("positives_as_negatives", loss.positives_as_negatives)
    if loss.ignore_label is not None and (
        isinstance(loss.ignore_label, bool) or not isinstance(loss.ignore_label, Integral)
    ):
        raise TypeError(f"ignore_label: expected an int or None, got {loss.ignore_label!r}")
    check_scale(loss.scale, loss.strategy)
    check_choice("gather_distributed", loss.gather_distributed, (True, False, "auto", "ring"))
    if loss.gather_distributed in (True, "ring") and not dist.is_available():
        raise ValueError("gather_distributed: expected a torch build with torch.distributed, got one without")
    if loss.process_group is not None and loss.gather_distributed is False:
        raise ValueError('gather_distributed: expected True, "auto" or "ring" with a process_group, got False')
    _check_block_size(loss.block_size, loss.detach_alpha)
    if loss.block_size == "kernel" and exponent_of(loss.strategy) is None:
        raise ValueError(
            f'block_size: expected "auto", an int >= 1 or "autograd" with {loss.strategy!r}, got "kernel", which needs '
            "weights α_j = c · exp(-D_j^p / τ), c from the sum of these alone: the softmax types, such as InfoNCE, "
            "Entropy, Direct and DHEL"
        )
    if loss.positives_as_negatives and loss.block_size == "kernel":
        raise ValueError('positives_as_negatives: expected False with block_size="kernel", got True')
    if loss.gather_distributed == "ring":
        _check_ring(loss.strategy, loss.block_size, loss.detach_alpha)


def check_scale(scale: object, strategy: object) -> None:
    """Raise unless losses of a strategy can have this scale."""
    check_choice("scale", scale, ("paper", "ntxent"))
    if scale == "ntxent" and plain(strategy).usual_scale is None:
        raise ValueError(f'scale: expected "paper" with {strategy!r}, which has no temperature, got "ntxent"')


def number_of_options(loss: Any) -> int:
    """Return a number that differs where ranks that gather have different losses."""
    names = ("negatives", "symmetric", "l2_normalize", "detach_alpha", "reduction", "positives", "scale")
    kept, inner = learnable_of(loss.strategy), unmasked(loss.strategy)
    inner = inner if kept is None else kept.strategy
    told = [x for x in getattr(inner, "__dict__", {}).values() if isinstance(x, (bool, int, float, str))]
    ours = [type(inner).__qualname__, told, getattr(kept, "effective_share", None), loss.positives_as_negatives]
    return zlib.crc32(repr([*ours, loss.gather_distributed, *(getattr(loss, name) for name in names)]).encode())


def exponent_of(strategy: object) -> ExpPower | None:
    """Return the exponent by which kernels form a strategy's weights; None if they cannot."""
    separable = plain(strategy)
    return separable.exponent if isinstance(separable, Separable) and separable.separable else None


def _check_block_size(block_size: object, detach_alpha: bool) -> None:
    named = block_size is None or (isinstance(block_size, str) and block_size in ("auto", "autograd", "kernel"))
    number = isinstance(block_size, Integral) and not isinstance(block_size, bool)
    if not named and not (number and block_size >= 1):  # type: ignore[operator]
        error = ValueError if number else TypeError
        raise error(f'block_size: expected "auto", an int >= 1, "autograd" or "kernel", got {block_size!r}')
    if not detach_alpha and block_size not in ("auto", "autograd", None):
        raise ValueError(
            'block_size: expected "auto" or "autograd" with detach_alpha=False, whose gradient goes through all '
            f"weights by autograd, got {block_size!r}"
        )


def _check_ring(strategy: object, block_size: object, detach_alpha: bool) -> None:
    if isinstance(unmasked(strategy), nn.Module) and learnable_of(strategy) is None:
        raise ValueError(
            "gather_distributed: expected True or False with a strategy that may have parameters of its own, got "
            f'"ring", which passes them no gradient, with {strategy!r}'
        )
    if not plain(strategy).separable:
        raise ValueError(
            "gather_distributed: expected True or False with a strategy that needs all negatives of an anchor at "
            f'once, got "ring" with {strategy!r}; a ring needs α_j = c · w(D_j), as InfoNCE, Direct and KCL have'
        )
    if not detach_alpha:
        raise ValueError(
            'gather_distributed: expected True or False with detach_alpha=False, got "ring", which holds α fixed'
        )
    if block_size in ("autograd", None):
        raise ValueError(
            'block_size: expected "auto", an int >= 1 or "kernel" with gather_distributed="ring", which compares tile '
            f"by tile, got {block_size!r}"
        )


def check_kernel_batch(batch: Any, device: str) -> None:
    """Raise unless kernels, which run on this type of device, can compare the pairs of a batch."""
    views, said = batch.rows, batch.said
    if batch.labels is not None:
        raise ValueError('labels: expected None with block_size="kernel"; "auto" and an int take labels')
    for name, given in (
        ("exclude", said.ids is not None or said.exclude is not None),
        ("count", any(x is not None for x in (said.counts, said.anchor_counts, said.column_counts, said.times))),
        ("extra_negatives", said.n_own > 0 or len(set(said.extra_of_ranks)) > 1),
    ):
        if given:
            raise ValueError(
                f'{name}: expected "auto" or an int as block_size with it, got "kernel", which compares every anchor '
                "with the same columns"
            )
    if views.dtype != torch.float32:
        raise TypeError(
            f'z: expected float32, float16 or bfloat16 with block_size="kernel", got an input of {views.dtype}'
        )
    if views.device.type != device:
        raise ValueError(
            f'z: expected a tensor on a GPU with block_size="kernel", got one on {views.device}; "auto" is for any'
        )
