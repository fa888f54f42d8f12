"""solo-learn's methods with another loss: their own training steps, in which one function is replaced.

Each class here is mixed in before solo-learn's own class of that method (see `alphacl_solo_learn.registration`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from alphacl_plugins import AlphaCLLoss, EmbeddingQueue, PairWeights
from alphacl_plugins.functional import l2_normalize
from alphacl_solo_learn.backbones import check_validation_size, set_image_size
from alphacl_solo_learn.config import (
    BANK,
    LOSS_OPTIONS,
    MONITOR,
    NAME,
    build_criterion,
    forget_unset,
    given_options,
    monitor_options,
    selected,
)
from alphacl_solo_learn.run_folder import check_not_shared

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    class _Base(LightningModule):
        """What is used of ``solo.methods.BaseMethod``."""

        backbone: nn.Module
        num_crops: int
        features_dim: int
        cfg: Any
        scheduler: str
        batch_size: int
        max_epochs: int

        @property
        def learnable_params(self) -> list[dict[str, Any]]: ...
else:
    _Base = object


QUEUE = MappingProxyType({"negatives": "queue", "symmetric": False})
ONE_DIRECTION = MappingProxyType({"negatives": "cross", "symmetric": False})
"""What some methods decide: their step adds up two directions, and only one side of each has a gradient."""

TRAINED_WITH = tuple(x for x in ("strategy", *LOSS_OPTIONS) if x not in ("block_size", "gather_distributed"))
"""The options that decide what is learned; the others, how it is computed."""

ADDRESS = " at 0x[0-9a-fA-F]+"
"""What Python writes for an object without words of its own, another in each process."""

LOOK_EVERY = 50
"""Steps from one look at the loss's statistics to the next, as Lightning's own ``log_every_n_steps``."""


class AnyMethod(_Base):
    """Any method of solo-learn: its timm backbone is made for the size of its crops, and it can be monitored."""

    def __init__(self, cfg: Any) -> None:
        set_image_size(cfg)
        super().__init__(cfg)
        check_validation_size(cfg, self.backbone)

    def configure_callbacks(self) -> Any:
        """Return the monitor that ``monitor`` in the config asks for."""
        options, own = monitor_options(self.cfg), list(super().configure_callbacks())  # type: ignore[arg-type]
        if options is None:
            return own
        from alphacl_lightly import RepresentationMonitor

        try:
            monitor = RepresentationMonitor(weigh=self.weigh, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{MONITOR}: {error}") from None
        return [*own, monitor]

    def weigh(self, loss: AlphaCLLoss, views: list[Tensor], labels: Tensor | None) -> PairWeights:
        """Return the weights of the pairs of a batch, as the training step compares them."""
        return loss.pair_weights(*views)


class ContrastiveMethod(AnyMethod):
    """A method of solo-learn that trains with α-CL if its config says so, and else is what it was.

    The training step is solo-learn's. While it runs, the name by which it calls its loss means `contrast`.

    Attributes:
        criterion: the loss, or None.
        trained_with: the loss in words, as its config has it, and the seed, or None. A checkpoint keeps it.
    """

    loss_function: ClassVar[str]
    fixed: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    criterion: Any  # AlphaCLLoss | None
    trained_with: str | None
    contrast: Callable[..., Tensor]  # the loss, from what solo-learn's loss function gets

    def __init__(self, cfg: Any) -> None:
        criterion = build_criterion(cfg, fixed=self.fixed)  # first, as it is quick to refuse
        forget_unset(cfg.get("loss"))
        super().__init__(cfg)
        self.criterion = criterion
        self.trained_with = None
        if criterion is not None:
            self.trained_with = re.sub(ADDRESS, "", f"{_options(criterion, TRAINED_WITH)}, seed={cfg.get('seed')}")
            _announce(criterion, cfg)

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        """Return solo-learn's groups and, if the loss has parameters (a learnable τ), theirs, without decay."""
        groups = super().learnable_params
        if self.criterion is not None and any(True for _ in self.criterion.parameters()):
            groups = [*groups, {"name": NAME, "params": list(self.criterion.parameters()), "weight_decay": 0}]
        return groups

    def setup(self, stage: str) -> None:
        """Refuse to train one run once per process of torchrun or SLURM, where ``devices`` says otherwise."""
        super().setup(stage)
        if self.criterion is not None:
            from alphacl_solo_learn.launched import check_launched

            check_launched(self.trainer.world_size, "devices x num_nodes says")
            _warn_of_another_rate(self.cfg, self.trainer.world_size)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Run solo-learn's own step, with its loss replaced if there is another."""
        step = super().training_step
        if self.criterion is None:
            return step(batch, batch_idx)
        # The same steps in every process, as averaging over the processes needs all of them.
        look = batch_idx == 0 or (self.global_step + 1) % LOOK_EVERY == 0
        with _replaced(step.__globals__, self.loss_function, self._contrast_and_log if look else self.contrast):
            return step(batch, batch_idx)

    def _contrast_and_log(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = self.contrast(*args, **kwargs)
        stats = self.criterion.last_stats
        log = {
            "train_alignment": 2 * stats["d2_pos"],
            "train_negative_distance": 2 * stats["d2_neg"],
            "train_alpha_entropy": stats["alpha_entropy"],
        }
        if "tau" in stats:
            log["train_tau"] = stats["tau"]
        self.log_dict(log, on_epoch=True, sync_dist=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep with the weights which loss trained them; refuse to write them into the folder of another run."""
        super().on_save_checkpoint(checkpoint)
        if self.trained_with is not None:
            checkpoint[NAME] = self.trained_with
            if self._trainer is not None:
                check_not_shared(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another run that was found in the folder, by ``auto_resume`` or under SLURM.

        Another run is one of another loss or seed. A checkpoint that ``resume_from_checkpoint`` names is taken anyway.
        """
        super().on_load_checkpoint(checkpoint)
        named = "resume_from_checkpoint" not in self.cfg  # main_pretrain.py deletes the key if it has a value
        saved = checkpoint.get(NAME)
        if self._trainer is not None and not named and saved != self.trained_with:
            own = "solo-learn's own loss"
            raise ValueError(
                f"checkpoint: expected that of a run with {self.trained_with or own}, found that of one with "
                f"{saved or own}; give each run a folder of its own, or name it: +resume_from_checkpoint=PATH"
            )


class SimCLR(ContrastiveMethod):
    """The views of a sample, of any number and size, are positives of each other. Samples of a batch are distinct."""

    loss_function = "simclr_loss_func"

    def contrast(self, z: Tensor, indexes: Tensor, temperature: float) -> Tensor:
        """Compare the views, stacked in ``z``."""
        loss: Tensor = self.criterion(*z.chunk(self.num_crops))
        return loss


class SupCon(ContrastiveMethod):
    """All views of all samples of a class are positives of each other.

    With ``loss.memory_bank_size`` so are the latest embeddings of the class, those of other classes are negatives too.
    """

    loss_function = "simclr_loss_func"

    def __init__(self, cfg: Any) -> None:
        if selected(cfg):
            _check_labels(cfg.data)
        super().__init__(cfg)
        size = None if self.criterion is None else given_options(cfg.get("loss")).get(BANK)
        self.memory_bank = None
        if size is not None:
            gathers, width = bool(self.criterion.gather_distributed), cfg.method_kwargs.proj_output_dim
            self.memory_bank = EmbeddingQueue(size, width, gather_distributed=gathers, labels=True)
            self.trained_with = f"{self.trained_with}, {BANK}={size}"

    def weigh(self, loss: AlphaCLLoss, views: list[Tensor], labels: Tensor | None) -> PairWeights:
        """Compare the views, and the bank, by their labels."""
        bank = self.memory_bank
        queued: Any = {} if bank is None else {"queue": bank.embeddings, "queue_labels": bank.labels}
        return loss.pair_weights(*views, labels=labels, **queued)

    def contrast(self, z: Tensor, indexes: Tensor, temperature: float) -> Tensor:
        """Compare the views, stacked in ``z``; solo-learn's indexes are the labels here."""
        views, labels, bank = z.chunk(self.num_crops), indexes.chunk(self.num_crops)[0], self.memory_bank
        if bank is None:
            return self.criterion(*views, labels=labels)  # type: ignore[no-any-return]
        loss: Tensor = self.criterion(*views, labels=labels, queue=bank.embeddings, queue_labels=bank.labels)
        bank.enqueue(l2_normalize(z.detach()) if self.criterion.l2_normalize else z, indexes)
        return loss


class MoCoV2Plus(ContrastiveMethod):
    """Queries against keys; negatives are the method's queue."""

    loss_function = "mocov2plus_loss_func"
    fixed = QUEUE

    def weigh(self, loss: AlphaCLLoss, views: list[Tensor], labels: Tensor | None) -> PairWeights:
        """Compare the first view, as queries, with the second and the queue of its keys."""
        queue: Any = self.queue
        return loss.pair_weights(*views[:2], queue=queue[1].T)

    def contrast(self, query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
        """Compare one direction; the queue is ``[D, Q]``."""
        loss: Tensor = self.criterion(query, key, queue=queue.T)
        return loss


class MoCoV3(ContrastiveMethod):
    """Queries against keys; negatives are the keys of the other samples."""

    loss_function = "mocov3_loss_func"
    fixed = ONE_DIRECTION

    def contrast(self, query: Tensor, key: Tensor, temperature: float) -> Tensor:
        """Compare one direction."""
        loss: Tensor = self.criterion(query, key)
        return loss


class NNCLR(ContrastiveMethod):
    """Nearest neighbours of one view against predictions from the other; negatives are the other predictions."""

    loss_function = "nnclr_loss_func"
    fixed = ONE_DIRECTION

    def contrast(self, nn: Tensor, p: Tensor, temperature: float) -> Tensor:
        """Compare one direction."""
        loss: Tensor = self.criterion(nn, p)
        return loss


CONTRASTIVE: dict[str, type[ContrastiveMethod]] = {
    "simclr": SimCLR,
    "supcon": SupCon,
    "mocov2plus": MoCoV2Plus,
    "mocov3": MoCoV3,
    "nnclr": NNCLR,
}
"""The methods of solo-learn that accept ``loss: alpha_cl``."""


@contextmanager
def _replaced(names: dict[str, Any], name: str, value: Callable[..., Tensor]) -> Iterator[None]:
    original = names[name]
    names[name] = value
    try:
        yield
    finally:
        names[name] = original


def _check_labels(data: Any) -> None:
    """Refuse data that are one class to solo-learn, which have no negatives, or whose unlabelled images are a class."""
    if data.get("no_labels"):
        raise ValueError("data.no_labels: expected false with method supcon, whose positives are a class, got true")
    if data.dataset == "stl10":
        raise ValueError(
            "data.dataset: expected labelled images with method supcon, got stl10, whose unlabelled images solo-learn "
            "takes for one class"
        )
    if data.num_classes < 2:
        raise ValueError(f"data.num_classes: expected >= 2 with method supcon, got {data.num_classes}")


def _warn_of_another_rate(cfg: Any, processes: int) -> None:
    """Warn where solo-learn has scaled the learning rate for another number of processes, the length of ``devices``."""
    from lightning.pytorch.utilities import rank_zero_warn

    devices = cfg.get("devices")
    if hasattr(devices, "__len__") and len(devices) * cfg.get("num_nodes", 1) != processes:
        rank_zero_warn(
            f"devices: solo-learn multiplied the learning rate by {len(devices)}, the length of {devices!r}, and "
            f"{processes} processes train"
        )


def _options(criterion: AlphaCLLoss, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name}={getattr(criterion, name)!r}" for name in names)


def _announce(criterion: AlphaCLLoss, cfg: Any) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    temperature = cfg.method_kwargs.get("temperature")
    ignored = "" if temperature is None else f"; ignored: method_kwargs.temperature={temperature}"
    line = f"{cfg.method} with loss {NAME}: {_options(criterion, ('strategy', *LOSS_OPTIONS))}{ignored}"
    rank_zero_only(print)(line)  # not a logger: solo-learn's configs switch those off
