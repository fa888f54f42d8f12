"""What a monitor sees of a batch: the embeddings of its views, features, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphacl_plugins.distributed import Maybe
from alphacl_plugins.functional import l2_normalize

try:
    from lightly.utils.benchmarking import knn_predict
except ImportError as error:
    raise ImportError(
        f"alphacl_lightly.RepresentationMonitor needs lightly: pip install 'alphacl-plugins[lightly]' ({error})"
    ) from error


class Embedded(NamedTuple):
    """A batch as a monitor sees it.

    Attributes:
        views: embeddings of each view that the loss compares, ``[n, D]`` each.
        features: what nearest neighbours are judged by, ``[n, F]``.
        labels: classes ``[n]``, or None.
    """

    views: list[Tensor]
    features: Tensor
    labels: Maybe = None

    def first(self, n: int, device: torch.device) -> Embedded:
        """Return the first n samples, on a device."""
        labels = None if self.labels is None else self.labels[:n].to(device)
        return Embedded([view[:n].to(device) for view in self.views], self.features[:n].to(device), labels)


def embed(module: Any, batch: Any) -> Embedded:
    """Embed a batch as lightly and solo-learn have them: ``module(view)`` for each view.

    Args:
        module: a LightningModule whose ``forward`` takes a view and returns embeddings, or a mapping that has them
            under ``"z"``, or else features under ``"feats"``. The features are the output of ``module.backbone`` on
            the first view, if it has one, else the embeddings.
        batch: a tensor, or nested lists. Tensors of two axes and more are views, the last integers ``[n]`` that come
            after them the labels; all else is left alone.

    Raises:
        TypeError, ValueError: there is no view in the batch, or the module returns something else.
    """
    views: list[Tensor] = []
    labels = None
    for tensor in _tensors(batch):
        if tensor.ndim > 1:
            if views and (tensor.ndim, tensor.dtype) != (views[0].ndim, views[0].dtype):
                got = f"{tensor.dtype} {tuple(tensor.shape)} after {views[0].dtype} {tuple(views[0].shape)}"
                raise ValueError(f"batch: expected views of one kind and labels [n], got {got}; pass embed=")
            views.append(tensor)
        elif views and tensor.ndim == 1 and not tensor.is_floating_point():
            labels = tensor
    if not views:
        raise ValueError(f"batch: expected views [n, ...] and perhaps labels, got {type(batch).__name__} without one")
    features: list[Any] = []
    backbone = getattr(module, "backbone", None)
    hook = None
    if isinstance(backbone, nn.Module):
        hook = backbone.register_forward_hook(lambda _, __, output: features.append(output))
    try:
        embeddings = [_embedding(module(view)) for view in views]
    finally:
        if hook is not None:
            hook.remove()
    seen = features[0] if features and isinstance(features[0], Tensor) else embeddings[0]
    return Embedded(embeddings, seen.flatten(1), labels)


def joined(parts: Sequence[Embedded]) -> Embedded:
    """Return batches as one; without labels if one has none."""
    labels = [part.labels for part in parts if part.labels is not None]
    return Embedded(
        [torch.cat(view) for view in zip(*(part.views for part in parts), strict=True)],
        torch.cat([part.features for part in parts]),
        torch.cat(labels) if len(labels) == len(parts) else None,
    )


def of_all_processes(part: Embedded) -> list[Embedded]:
    """Return the part of every process, in their order."""
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    labels = None if part.labels is None else part.labels.cpu()
    torch.distributed.all_gather_object(parts, ([view.cpu() for view in part.views], part.features.cpu(), labels))
    return [Embedded(*one) for one in parts]


def knn_accuracy(features: Tensor, labels: Tensor, neighbours: int = 20, temperature: float = 0.1) -> float:
    """Return the accuracy in % of nearest neighbours by cosine: of two halves, each is named by the other.

    The halves are the samples at even and at odd places.

    Args:
        features: ``[N, F]``.
        labels: classes ``[N]``.
        neighbours: how many vote, at most the samples of a half.
        temperature: of their votes.
    """
    classes, labels = torch.unique(labels, return_inverse=True)
    unit = l2_normalize(features)
    right = 0
    for queries, bank in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        k = min(neighbours, len(unit[bank]))
        predicted = knn_predict(unit[queries], unit[bank].T.contiguous(), labels[bank], len(classes), k, temperature)
        right += int((predicted[:, 0] == labels[queries]).sum())
    return 100 * right / len(labels)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)


def _embedding(output: Any) -> Tensor:
    if isinstance(output, Mapping):
        output = output.get("z", output.get("feats"))
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"embed: expected embeddings [n, D] from the module, or a mapping with z, got {got}; pass embed="
        )
    return output
