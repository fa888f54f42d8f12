"""The batches on which tests compare ways to compute the loss: views, labels, a queue, and every mix of options."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

NEGATIVES = ("both", "same", "cross", "queue")
LABELS = {  # of five samples
    "none": None,
    "unequal": torch.tensor([5, -1, 5, 7, 5]),
    "all equal": torch.tensor([4, 4, 4, 4, 4]),  # no negatives but the queue
}


class Combination(NamedTuple):
    """One mix of the options that decide which pairs count."""

    views: int
    labels: str
    negatives: str
    symmetric: bool
    queued: bool

    def __str__(self) -> str:
        sides, queue = "symmetric" if self.symmetric else "one-sided", "-queued" * self.queued
        return f"{self.views}-{self.labels}-{self.negatives}-{sides}{queue}".replace(" ", "_")

    @property
    def anchors(self) -> int:
        """M, of a batch of five samples."""
        return 5 * self.views if self.symmetric else 5


OPTIONS = [
    Combination(*options)
    for options in itertools.product((2, 3), LABELS, NEGATIVES, (True, False), (True, False))
    if options[-1] or "queue" not in options
]

# What tests/data/engines.npz holds: a name of its own for each, the registered name and the options.
STRATEGIES = {
    **{
        name: (name, {})
        for name in (
            *("infonce", "entropy", "inverse", "inverse_exact", "square", "direct", "uniform", "dhel", "kcl", "mine"),
            *("triplet", "soft_triplet", "n_plus_1_tuplet", "lifted_structured", "modified_triplet"),
            "triplet_contrastive",
        )
    },
    "infonce, eps 0": ("infonce", {"tau": 0.1, "eps": 0.0}),
    "infonce, eps 2.5": ("infonce", {"tau": 0.3, "eps": 2.5}),
    "inverse, gamma 1": ("inverse", {"tau": 0.2, "gamma": 1.0}),
    "inverse_exact, gamma 3": ("inverse_exact", {"tau": 0.2, "gamma": 3.0}),
    "square, tau 0.3": ("square", {"tau": 0.3}),
    "direct, p 1": ("direct", {"tau": 0.3, "p": 1.0}),
    "direct, not normalized": ("direct", {"tau": 0.3, "p": 3.0, "normalize": False}),
    "dhel, one view": ("dhel", {"tau": 0.2, "include_augs": False}),
    "kcl, imq": ("kcl", {"kernel": "imq", "t": 1.5, "gamma": 2.0}),
    "kcl, riesz": ("kcl", {"kernel": "gaussian_riesz", "t": 1.5, "gamma": 2.0}),
    "soft_triplet, eps 0.7": ("soft_triplet", {"tau": 0.3, "eps": 0.7}),
    "triplet, eps 0.1": ("triplet", {"eps": 0.1}),
    "modified_triplet, c 5": ("modified_triplet", {"c": 5.0}),
}


def several_views(
    count: int, n: int = 5, d: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Correlated views, leaves that require a gradient; the first ones are the same for every count."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    views = [z + 0.5 * torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(count)]
    return [view.to(dtype).requires_grad_() for view in views]


def random_queue(rows: int = 7, d: int = 3, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Embeddings of earlier batches."""
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)


def random_batch(
    n_views: int, labels: str = "none", queued: bool = False, n: int = 5, d: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Views, and the keywords of a call of the loss."""
    queue = random_queue(d=d, dtype=dtype) if queued else None
    return several_views(n_views, n, d, dtype=dtype), {"labels": LABELS[labels], "queue": queue}


def random_weights(anchors: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Weights of the anchors' losses in a sum; fewer anchors have the first of them."""
    return torch.rand(anchors, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
