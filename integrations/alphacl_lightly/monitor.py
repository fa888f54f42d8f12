"""RepresentationMonitor: what the embeddings of a Lightning module look like while it trains."""

from __future__ import annotations

import copy
import importlib
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import alphacl_plugins
from alphacl_lightly.embedding import Embedded, embed, joined, knn_accuracy, of_all_processes
from alphacl_lightly.looking import LIGHTNINGS, as_if_nobody_looked, batch_size, check_loader, loader_of
from alphacl_plugins import PairWeights, metrics
from alphacl_plugins.checks import check_count
from alphacl_plugins.distributed import Maybe
from alphacl_plugins.functional import l2_normalize
from alphacl_plugins.statistics import entropy_of_rows

COLLAPSED_UNIFORMITY = -0.5
"""Above it embeddings are nearly one point: cosines around 0.88 and more. Two distant clusters have log ½ = -0.69."""

COLLAPSED_SHARE = 0.03
"""Of the directions beyond the first: with fewer in use, the embeddings lie on a line, or nearly so."""

LEAST_STEPS = 100
"""Of training, before a collapse is told: untrained networks often begin near a point."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:  # a trainer of either package takes callbacks of its own
    Callback = type("Callback", tuple(importlib.import_module(name).Callback for name in LIGHTNINGS), {})


class RepresentationMonitor(Callback):
    """Log, every few epochs, how good the embeddings are, how selective α is, and warn of collapse.

    Logged to every logger of the trainer, and for callbacks such as EarlyStopping, with the names ``monitor/...``:
    ``alignment``, ``uniformity``, ``rank`` and ``effective_rank`` of the embeddings, scaled to length 1;
    ``alpha_entropy`` and ``effective_negatives``, and five quantiles of the effective negatives of an anchor, if the
    module has an `AlphaCLLoss`; with labels ``tolerance``, and ``knn``: the accuracy in % of nearest neighbours, where
    one half of the samples names the other. What needs two views is left out where there is one.

    The same samples are looked at each time, with the same random views, in eval mode; training goes on as if nobody
    had looked: its random numbers, batch statistics and queue stay as they were. Of several processes each embeds a
    part, and all of them know the whole. The numbers are part of the checkpoint, so that a run that is resumed
    continues them: ``history``.

    Args:
        dataloader: of what to look at; its samples should be views as in training. None: the training data, which the
            module has been fitted to; held-out data tell more. A loader gives its dataset, batch size and workers: the
            samples are taken evenly from the whole dataset, in order.
        every_n_epochs: how often to look; also before the first epoch and after the last.
        samples: how many samples to look at, >= 2; at least a batch of training, at most all.
        embed: what embeds a batch, as `embed` does: ``(module, batch) -> Embedded``. The batch is on the device of the
            module, after Lightning's hooks.
        loss: whose α to watch, on batches as large as those it compares in training; None: the `AlphaCLLoss` among the
            submodules, if there is one.
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

    Source:
        the metrics of Wang & Isola (2020), Wang & Liu (2021), Roy & Vetterli (2007), Tian (2022).
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
        if samples == 1:
            raise ValueError("samples: expected an int >= 2, got 1")
        if dataloader is not None:
            check_loader("dataloader", dataloader)
        if loss is not None and not isinstance(loss, alphacl_plugins.AlphaCLLoss):
            raise TypeError(f"loss: expected an AlphaCLLoss or None, got {type(loss).__name__}")
        self.dataloader, self.every_n_epochs, self.samples = dataloader, every_n_epochs, samples
        self.embed, self.loss, self.weigh, self.neighbours, self.prefix = embed, loss, weigh, neighbours, prefix
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._epochs = 0

    @property
    def state_key(self) -> str:
        """The name in a checkpoint: two monitors differ by their prefix."""
        return f"RepresentationMonitor[{self.prefix}]"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Look before any other callback, so that a checkpoint of this epoch has the look in it."""
        trainer.callbacks.remove(self)
        trainer.callbacks.insert(0, self)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the untrained module, and begin a new history; a run that is resumed has done so."""
        if trainer.global_step == 0:
            self.history = []
            self._look(trainer, pl_module, epoch=0)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look every few epochs, and after the last one."""
        self._epochs = epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs:
            found = self._look(trainer, pl_module, epoch)
            pl_module.log_dict(found, logger=False, on_step=False, on_epoch=True, sync_dist=True)
            if trainer.global_step >= LEAST_STEPS:
                self._warn_of_collapse(epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look once more where training ended before its last epoch: by steps, time or an early stop."""
        if not self.history or self.history[-1]["step"] != trainer.global_step:
            self._look(trainer, pl_module, self._epochs)
            if trainer.global_step >= LEAST_STEPS:
                self._warn_of_collapse(self._epochs)

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
            check_loader("dataloader", loader)
        loss, gathers = self._loss_of(module)
        training = trainer.train_dataloader if isinstance(trainer.train_dataloader, DataLoader) else loader
        batch = batch_size(training, default=64 if loss is None else None)  # that the loss compares in training
        batch *= trainer.world_size if gathers else 1
        with as_if_nobody_looked(module, loss), trainer.precision_plugin.forward_context():
            seen = self._embed_all(trainer, module, loader, max(self.samples, batch))
        with as_if_nobody_looked(module, loss):
            values = self._measure(seen, loss, batch)
        self.history.append({"epoch": epoch, "step": trainer.global_step, **values})
        named = {f"{self.prefix}/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        self.seconds += time.perf_counter() - began
        return named

    def _embed_all(self, trainer: Any, module: Any, loader: Any, samples: int) -> Embedded:
        """Embed the samples, each process its part, and return those of all in order."""
        n = min(samples, len(loader.dataset))
        places = [i * len(loader.dataset) // n for i in range(n)]
        each = -(-n // trainer.world_size)  # the last are embedded twice, so that processes have as many batches
        start = trainer.global_rank * each
        own = [places[min(i, n - 1)] for i in range(start, start + each)]
        batches = []
        for batch in loader_of(loader, own, batch_size(loader, default=64)):
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            views, features, labels = self.embed(module, batch)
            batches.append(Embedded([view.float() for view in views], features.float(), labels))
        seen = joined(batches)
        return (joined(of_all_processes(seen)) if trainer.world_size > 1 else seen).first(n, module.device)

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
        if seen.labels is not None and 1 < len(torch.unique(seen.labels)) < len(seen.labels):
            found["tolerance"] = metrics.tolerance(unit[0], seen.labels)
            knn = knn_accuracy(seen.features, seen.labels, self.neighbours)
            found["knn"] = torch.tensor(knn if seen.features.isfinite().all() else math.nan)
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

    def _loss_of(self, module: nn.Module) -> tuple[Any, bool]:
        """Return the loss to watch as it is in one process, and whether it gathers; None if there is none."""
        if self.loss is None:
            kind = alphacl_plugins.AlphaCLLoss
            losses = {name: part for name, part in module.named_modules() if isinstance(part, kind)}
            if len(losses) > 1:
                raise ValueError(f"loss: expected one AlphaCLLoss in the module, got {', '.join(losses)}; pass loss=")
            loss: Any = next(iter(losses.values()), None)
        else:
            loss = self.loss
        if loss is None or not loss.gather_distributed:
            return loss, False
        alone = copy.copy(loss)
        alone.gather_distributed = False
        return alone, True

    def _warn_of_collapse(self, epoch: int) -> None:
        found = self.history[-1]
        before = self.history[-2] if len(self.history) > 1 else found
        uniformity, rank = found["uniformity"], found["effective_rank"]
        least = 1 + COLLAPSED_SHARE * (found["rank"] - 1)
        if uniformity > COLLAPSED_UNIFORMITY and uniformity >= before["uniformity"]:
            sign = f"uniformity {uniformity:.3f} > {COLLAPSED_UNIFORMITY}: the embeddings are nearly one point"
        elif rank < least and rank <= before["effective_rank"]:
            sign = f"effective_rank {rank:.2f} < {least:.2f} at rank {found['rank']:.0f}: few directions are in use"
        elif math.isnan(uniformity):
            sign = "the embeddings are not finite"
        else:
            return
        warn = importlib.import_module(f"{LIGHTNINGS[0]}.utilities").rank_zero_warn
        warn(
            f"RepresentationMonitor, after epoch {epoch}: {sign}, and it is not getting better. Try a lower learning "
            "rate or a warm-up, a sharper α (a smaller tau), a batch norm in the projection head, stronger augmentation"
        )
