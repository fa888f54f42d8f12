"""How a monitor looks at data: the same items in the same views each time, without a trace in the training."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

LIGHTNINGS = [
    name for name in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(name.partition(".")[0])
]
"""The names under which Lightning is installed."""

if not LIGHTNINGS:
    raise ImportError("alphacl_lightly.RepresentationMonitor needs Lightning: pip install 'alphacl-plugins[lightly]'")


@contextmanager
def as_if_nobody_looked(*modules: Any) -> Iterator[None]:
    """Switch modules to eval mode, without gradient, and give every generator of random numbers the same start.

    Afterwards each part of them is in the mode it was, and the generators go on where they were.
    """
    isolate_rng = importlib.import_module(f"{LIGHTNINGS[0]}.utilities.seed").isolate_rng
    parts = [part for module in modules if module is not None for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        with isolate_rng(), torch.no_grad():
            _seed(0)
            torch.manual_seed(0)  # of GPUs too
            for part in parts:
                part.training = False
            yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


class _SeededItems(Dataset[Any]):
    """Some items of a dataset, each with the same random numbers whenever and wherever it is asked for."""

    def __init__(self, dataset: Any, places: Sequence[int]) -> None:
        self.dataset, self.places = dataset, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Any:
        place = self.places[i]
        _seed(place)
        return self.dataset[place]


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def loader_of(loader: Any, places: Sequence[int], size: int) -> Iterator[Any]:
    """Yield batches of some items, loaded as the loader does."""
    return iter(
        DataLoader(
            _SeededItems(loader.dataset, places),
            batch_size=size,
            num_workers=loader.num_workers,
            collate_fn=None if loader.batch_sampler is None else loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )
    )


def batch_size(loader: Any, default: int | None = None) -> int:
    """Return how many samples are in a batch, as the loader says or the sampler that makes its batches.

    Raises:
        ValueError: none of them says it, and there is no default.
    """
    inner = getattr(getattr(loader.sampler, "dataset", None), "_sampler", None)  # Lightning's wrapper under DDP
    places = (loader, loader.batch_sampler, loader.sampler, inner)
    size = next(filter(None, (getattr(place, "batch_size", None) for place in places)), None)
    size = default if size is None else size
    if size is None:
        raise ValueError(f"dataloader: expected a batch_size, or a sampler that has one, got {type(loader.sampler)!r}")
    return int(size)


def check_loader(name: str, loader: object) -> None:
    """Raise unless it is a DataLoader of a dataset with at least two items."""
    if not isinstance(loader, DataLoader):
        raise TypeError(f"{name}: expected a DataLoader, got {type(loader).__name__}; pass one of what to look at")
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(
            f"{name}: expected a dataset with a length, got an IterableDataset; pass a loader of another one"
        )
    if len(loader.dataset) < 2:  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected at least 2 samples, got {len(loader.dataset)}")  # type: ignore[arg-type]
