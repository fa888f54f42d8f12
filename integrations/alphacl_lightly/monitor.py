"""RepresentationMonitor: what the embeddings of a Lightning module look like while it trains."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import alphacl_plugins
from alphacl_plugins import PairWeights, metrics
from alphacl_plugins.checks import check_count
from alphacl_plugins.distributed import Maybe
from alphacl_plugins.functional import l2_normalize
from alphacl_plugins.statistics import entropy_of_rows

LIGHTNINGS = [name for name in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(name.split(".")[0])]
"""The names under which Lightning is installed: a trainer of either takes a callback of its own package alone."""

if not LIGHTNINGS:
    raise ImportError("alphacl_lightly.RepresentationMonitor needs Lightning: pip install 'alphacl-plugins[lightly]'")

COLLAPSED_UNIFORMITY = -0.5
"""Above it embeddings are nearly one point: cosines around 0.88 and more. Two distant clusters have log ½ = -0.69."""

COLLAPSED_SHARE = 0.03
"""Of the directions beyond the first: with fewer in use, the embeddings lie on a line, or nearly so."""

LEAST_STEPS = 100
"""Of training, before a collapse is told: untrained networks often begin near a point."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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


def embed(module: Any, batch: Any) -> Embedded:
    """Embed a batch as lightly and solo-learn have them: ``module(view)`` for each view.

    Args:
        module: a LightningModule whose ``forward`` takes a view and returns embeddings, or a mapping that has them
            under ``"z"``, or else features under ``"feats"``. The features are the output of ``module.backbone`` on the first view, if it has one, else the
            embeddings.
        batch: a tensor, or nested lists. Tensors of two axes and more are views, the last integers ``[n]`` that come
            after them the labels; all else is left alone.

    Raises: TypeError, ValueError: there is no view in the batch, or the module returns something else.
    """
    views: list[Tensor] = []
    labels = None
    for tensor in _tensors(batch):
        if tensor.ndim > 1:
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


class RepresentationMonitor(*(importlib.import_module(name).Callback for name in LIGHTNINGS)):  # type: ignore[misc]
    """Log, every few epochs, how good the embeddings are, how selective α is, and warn of collapse.

    Logged to every logger of the trainer, and for callbacks such as EarlyStopping, with the names ``monitor/...``:
    ``alignment``, ``uniformity``, ``rank`` and ``effective_rank`` of the embeddings, scaled to length 1;
    ``alpha_entropy`` and ``effective_negatives``, and five quantiles of the effective negatives of an anchor, if the
    module has an `AlphaCLLoss`; with labels ``tolerance``, and ``knn``: the accuracy in % of nearest neighbours, every
    other sample predicted by the rest. What needs two views is left out where there is one.

    The same samples are looked at each time, with the same random views, in eval mode; training goes on as if nobody
    had looked: its random numbers, batch statistics and queue stay as they were. Of several processes each embeds a
    part, and all of them know the whole. The numbers are part of the checkpoint, so that a run that is resumed
    continues them: ``history``.

    Args:
        dataloader: of what to look at; its samples should be views as in training. None: the training data, which the
            module has been fitted to; held-out data tell more. A loader gives its dataset, batch size and workers: the
            samples are taken evenly from the whole dataset, in order.
        every_n_epochs: how often to look; also before the first epoch and after the last.
        samples: how many samples to look at, at most.
        embed: what embeds a batch, as `embed` does: ``(module, batch) -> Embedded``. The batch is on the device of the
            module, after Lightning's hooks.
        loss: whose α to watch; None: the `AlphaCLLoss` in the module, if there is one.
        weigh: what weighs the pairs of a batch: ``(loss, views, labels) -> PairWeights``. None: ``loss.pair_weights``
            of the views, without labels.
        neighbours: how many vote.
        prefix: of the names.

    Attributes:
        history: a dict for each look: ``epoch`` (epochs done), ``step``, and the numbers by name, without prefix.
        seconds: what the looks have cost so far, in this process.

    Raises:
        TypeError: an option is of another kind.
        ValueError: an option is outside the above, there are several losses, or data that have no length.

    Warns:
        UserWarning: the embeddings have collapsed to a point or a line, or are not finite, and are no better than at
            the look before: with the number, its bound, and what to try; after 100 steps.

    Source: the metrics of Wang & Isola (2020), Wang & Liu (2021), Roy & Vetterli (2007), Tian (2022).
    """

    def __init__(
        self,
        dataloader: DataLoader[Any] | None = None,
        *,
        every_n_epochs: int = 5,
        samples: int = 2048,
        embed: Callable[[Any, Any], Embedded] = embed,
        loss: alphacl_plugins.AlphaCLLoss | None = None,
        weigh: Callable[[Any, list[Tensor], Maybe], PairWeights] | None = None,
        neighbours: int = 20,
        prefix: str = "monitor",
    ) -> None:
        super().__init__()
        for name, value in (("every_n_epochs", every_n_epochs), ("samples", samples), ("neighbours", neighbours)):
            check_count(name, value)
        if dataloader is not None:
            _check_loader("dataloader", dataloader)
        if loss is not None and not isinstance(loss, alphacl_plugins.AlphaCLLoss):
            raise TypeError(f"loss: expected an AlphaCLLoss or None, got {type(loss).__name__}")
        self.dataloader, self.every_n_epochs, self.samples = dataloader, every_n_epochs, samples
        self.embed, self.loss, self.weigh, self.neighbours, self.prefix = embed, loss, weigh, neighbours, prefix
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Look before any other callback, so that a checkpoint of this epoch has the look in it."""
        trainer.callbacks.remove(self)
        trainer.callbacks.insert(0, self)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the untrained module; a run that is resumed has done so."""
        if trainer.global_step == 0:
            self._look(trainer, pl_module, epoch=0)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look every few epochs, and after the last one."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs:
            found = self._look(trainer, pl_module, epoch)
            pl_module.log_dict(found, logger=False, on_step=False, on_epoch=True, sync_dist=True)
            if trainer.global_step >= LEAST_STEPS:
                self._warn_of_collapse(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history = list(state_dict["history"])

    def _look(self, trainer: Any, module: Any, epoch: int) -> dict[str, float]:
        began = time.perf_counter()
        loader = self.dataloader
        if loader is None:
            loader = trainer.train_dataloader
            _check_loader("dataloader", loader)
        loss = self._loss_of(module)
        with as_if_nobody_looked(module, loss), trainer.precision_plugin.forward_context():
            size = _batch_size(loader)
            seen = self._embed_all(trainer, module, loader, size)
        with as_if_nobody_looked(module, loss):
            values = self._measure(seen, loss, size * trainer.world_size)
        self.history.append({"epoch": epoch, "step": trainer.global_step, **values})
        named = {f"{self.prefix}/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**named, "epoch": trainer.current_epoch}, step=trainer.global_step)
        self.seconds += time.perf_counter() - began
        return named

    def _embed_all(self, trainer: Any, module: Any, loader: Any, size: int) -> Embedded:
        """Embed the samples, each process its part, and return those of all in order."""
        n = min(self.samples, len(loader.dataset))
        places = [i * len(loader.dataset) // n for i in range(n)]
        each = -(-n // trainer.world_size)  # the last are embedded twice, so that processes have as many batches
        start = trainer.global_rank * each
        own = [places[min(i, n - 1)] for i in range(start, start + each)]
        views: list[list[Tensor]] = []
        features, labels = [], []
        for batch in _loader_of(loader, own, size):
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            found = self.embed(module, batch)
            views.append([view.detach().float() for view in found.views])
            features.append(found.features.detach().float())
            labels.append(found.labels)
        part = Embedded(
            [torch.cat(view) for view in zip(*views, strict=True)],
            torch.cat(features),
            None if any(label is None for label in labels) else torch.cat(labels),
        )
        parts = _of_all_processes(part) if trainer.world_size > 1 else [part]
        return Embedded(
            [torch.cat(view)[:n].to(module.device) for view in zip(*(part.views for part in parts), strict=True)],
            torch.cat([part.features for part in parts])[:n].to(module.device),
            None if part.labels is None else torch.cat([part.labels for part in parts])[:n].to(module.device),  # type: ignore[misc]
        )

    def _measure(self, seen: Embedded, loss: Any, batch: int) -> dict[str, float]:
        unit = [l2_normalize(view) for view in seen.views]
        found = {
            "uniformity": metrics.uniformity(unit[0]),
            "rank": metrics.rank(unit[0]),
            "effective_rank": metrics.effective_rank(unit[0]),
        }
        if len(unit) > 1:
            found["alignment"] = metrics.alignment(unit[0], unit[1])
            if loss is not None:
                found |= self._selectivity(seen, loss, batch)
        if seen.labels is not None and len(seen.labels.unique()) < len(seen.labels):
            found["tolerance"] = metrics.tolerance(unit[0], seen.labels)
            found["knn"] = knn_accuracy(seen.features, seen.labels, self.neighbours)
        return {name: float(value) for name, value in found.items()}

    def _selectivity(self, seen: Embedded, loss: Any, batch: int) -> dict[str, Tensor]:
        """Weigh the pairs of whole batches, each as large as one of training."""
        n = len(seen.features)
        entropies = []
        for start in range(0, max(n - batch, 0) + 1, batch):
            part = slice(start, start + batch)
            views = [view[part] for view in seen.views]
            labels = None if seen.labels is None else seen.labels[part]
            weights = loss.pair_weights(*views) if self.weigh is None else self.weigh(loss, views, labels)
            entropies.append(entropy_of_rows(weights.neg).masked_fill((weights.neg <= 0).all(dim=1), -torch.inf))
        entropy = torch.cat(entropies)
        effective = entropy.exp()
        mean = entropy.clamp_min(0.0).mean()
        found = {"alpha_entropy": mean, "effective_negatives": mean.exp() * (effective > 0).any()}
        quantiles = effective.quantile(torch.tensor(QUANTILES, device=effective.device))
        return found | {
            f"effective_negatives_{round(100 * q):02}": value for q, value in zip(QUANTILES, quantiles, strict=True)
        }

    def _loss_of(self, module: nn.Module) -> Any:
        """Return the loss to watch, as it is for one process with the whole batch; None if there is none."""
        if self.loss is None:
            kind = alphacl_plugins.AlphaCLLoss
            losses = {name: part for name, part in module.named_modules() if isinstance(part, kind)}
            if len(losses) > 1:
                raise ValueError(f"loss: expected one AlphaCLLoss in the module, got {', '.join(losses)}; pass loss=")
            loss: Any = next(iter(losses.values()), None)
        else:
            loss = self.loss
        if loss is None or not loss.gather_distributed:
            return loss
        alone = copy.copy(loss)
        alone.gather_distributed = False
        return alone

    def _warn_of_collapse(self, epoch: int) -> None:
        before, found = self.history[-2], self.history[-1]
        uniformity, rank = found["uniformity"], found["effective_rank"]
        least = 1 + COLLAPSED_SHARE * (found["rank"] - 1)
        if uniformity > COLLAPSED_UNIFORMITY and uniformity >= before["uniformity"]:
            sign = f"uniformity {uniformity:.3f} > {COLLAPSED_UNIFORMITY}: the embeddings are nearly one point"
        elif rank < least and rank <= before["effective_rank"]:
            sign = f"effective_rank {rank:.2f} < {least:.2f}: embeddings use {rank:.1f} of {found['rank']:.0f} directions"
        elif math.isnan(uniformity):
            sign = "the embeddings are not finite: training has diverged"
        else:
            return
        warn = importlib.import_module(f"{LIGHTNINGS[0]}.utilities").rank_zero_warn
        warn(
            f"RepresentationMonitor, after epoch {epoch}: {sign}, and it is not getting better. Try a lower learning "
            "rate or a warm-up, a sharper α (a smaller tau), a batch norm in the projection head, stronger augmentation"
        )


def knn_accuracy(features: Tensor, labels: Tensor, neighbours: int = 20, temperature: float = 0.1) -> float:
    """Return the accuracy in % of nearest neighbours by cosine: every other sample is predicted by the rest.

    Args:
        features: ``[N, F]``.
        labels: classes ``[N]``.
        neighbours: how many vote, at most half of the samples.
        temperature: of their votes.
    """
    from lightly.utils.benchmarking import knn_predict

    classes, labels = labels.unique(return_inverse=True)
    unit = l2_normalize(features)
    right = 0
    for queries, bank in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        k = min(neighbours, len(unit[bank]))
        predicted = knn_predict(unit[queries], unit[bank].T.contiguous(), labels[bank], len(classes), k, temperature)
        right += int((predicted[:, 0] == labels[queries]).sum())
    return 100 * right / len(labels)


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
            torch.manual_seed(0)
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
        random.seed(place)
        torch.random.default_generator.manual_seed(place)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(place)
        return self.dataset[place]


def _loader_of(loader: Any, places: Sequence[int], size: int) -> Iterator[Any]:
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


def _batch_size(loader: Any) -> int:
    """Return how many samples are in a batch; a loader whose sampler makes the batches does not say so itself."""
    sizes = (getattr(place, "batch_size", None) for place in (loader, loader.batch_sampler, loader.sampler))
    return next(filter(None, sizes), 64)


def _check_loader(name: str, loader: object) -> None:
    if not isinstance(loader, DataLoader):
        raise TypeError(f"{name}: expected a DataLoader, got {type(loader).__name__}; pass one of what to look at")
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(f"{name}: expected a dataset with a length, got an IterableDataset; pass a loader of another one")
    if len(loader.dataset) < 2:  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected at least 2 samples, got {len(loader.dataset)}")  # type: ignore[arg-type]


def _of_all_processes(part: Embedded) -> list[Embedded]:
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    labels = None if part.labels is None else part.labels.cpu()
    torch.distributed.all_gather_object(parts, ([view.cpu() for view in part.views], part.features.cpu(), labels))
    return [Embedded(*one) for one in parts]


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
        raise TypeError(f"embed: expected embeddings [n, D] from the module, or a mapping with z, got {got}; pass embed=")
    return output
