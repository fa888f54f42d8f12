"""Sums over the classes of samples, where the samples of one class are positives of each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.functional import promote


class Classes(NamedTuple):
    """Samples sorted into classes: sums over a class cost O(N), not O(N²)."""

    of_sample: Tensor  # [N], in 0 ... C-1
    sizes: Tensor  # [C]

    @classmethod
    def of(cls, labels: Tensor) -> Classes:
        """Sort samples by their labels, ``[N]``."""
        _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        return cls(index, counts)

    @property
    def others(self) -> Tensor:
        """How many other samples have the class of each, ``[N]``."""
        return self.sizes[self.of_sample] - 1

    def sum(self, values: Tensor) -> Tensor:
        """Sum rows ``[N, k]`` over the class of each, ``[N, k]``."""
        totals = values.new_zeros(len(self.sizes), values.shape[1]).index_add_(0, self.of_sample, values)
        return totals[self.of_sample]

    def laplacian(self, signal: Tensor, weights: Tensor) -> Tensor:
        """Apply the Laplacian of ``w_ij = weights_i`` for i, j of one class to ``[N, k]``."""
        size, column = self.sizes[self.of_sample].to(signal.dtype)[:, None], weights[:, None]
        degree = size * column + self.sum(column)
        return degree * signal - column * self.sum(signal) - self.sum(column * signal)

    def summed_distances(self, z: Tensor) -> Tensor:
        """Sum of half the squared distances of each sample to those of its class, ``[N]``."""
        (z,) = promote(z)
        z = z - z.mean(dim=0)
        squares, size = z.square().sum(dim=1, keepdim=True), self.sizes[self.of_sample].to(z.dtype)[:, None]
        total = (size * squares + self.sum(squares)) / 2 - (z * self.sum(z)).sum(dim=1, keepdim=True)
        return total[:, 0].clamp_min(0.0)
