"""Samples sorted into classes, where the samples of one class are positives of each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.traced import is_traced


class ClassMembers(NamedTuple):
    """The samples of each sample's class: itself, the others in turn, and itself again up to the largest class."""

    members: Tensor  # [n, C]
    size: Tensor  # [n, 1]

    @staticmethod
    def of(labels: Tensor) -> ClassMembers | None:
        """Sort labels ``[n]``, which reads the size of the largest class from the device: a host sync.

        None where nothing can be read: under torch.compile, and of labels that torch.func wraps.
        """
        if is_traced(labels):
            return None
        _, kind, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        order, itself = kind.argsort(stable=True), torch.arange(len(labels), device=labels.device)
        start, size = (counts.cumsum(0) - counts)[kind][:, None], counts[kind][:, None]
        place = torch.empty_like(order).scatter_(0, order, itself)[:, None] - start
        slot = torch.arange(int(counts.max()), device=labels.device)
        members = order[start + (place + slot) % size]
        return ClassMembers(torch.where(slot < size, members, itself[:, None]), size)
