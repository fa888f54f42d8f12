"""The paper's method: SimCLR's step with another head, other first weights and another learning rate."""

from __future__ import annotations

from typing import Any, get_args

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from alphacl_plugins.checks import check_count
from alphacl_solo_learn.config import NAME
from alphacl_solo_learn.methods import SimCLR
from alphacl_solo_learn.schedule import Schedule, early_zero, relative_rate, whole_batches

SCHEDULE = "alpha_cl_schedule"
"""Key of a checkpoint: how its learning rate falls."""


class AlphaCL(SimCLR):
    """``method: alpha_cl``: SimCLR with the α-CL paper's head, first weights and, by default, its learning rate.

    The head is Linear - BatchNorm (no affine) - ReLU - Linear, 512 and 128 wide unless ``method_kwargs`` says
    otherwise. ``scheduler: {name: alpha_cl, schedule: paper}``: in epoch e = 0, 1, ... the rate is
    ``lr (1 + cos(π max(0, e - 10) / T)) / 2``, T the number of batches that an epoch has in one process with the batch
    of all; ``schedule: cosine`` reaches 0 at the end. Left out, it is cosine for ``data.dataset: custom``, else paper.
    Other schedulers are solo-learn's.
    """

    def __init__(self, cfg: Any) -> None:
        _fill(cfg, method_kwargs={"proj_hidden_dim": 512, "proj_output_dim": 128, "temperature": None})
        _fill(cfg, loss=NAME, scheduler={"name": NAME})
        self.schedule = _schedule(cfg)
        self.schedule_epochs = _schedule_epochs(cfg)
        super().__init__(cfg)
        from alphacl_timm import open_residuals

        open_residuals(self.backbone)
        hidden, out = cfg.method_kwargs.proj_hidden_dim, cfg.method_kwargs.proj_output_dim
        self.projector = nn.Sequential(
            nn.Linear(self.features_dim, hidden),
            nn.BatchNorm1d(hidden, affine=False),
            nn.ReLU(),
            nn.Linear(hidden, out),
        )

    def configure_optimizers(self) -> Any:
        """Take solo-learn's optimizer, and the schedule of `relative_rate` if the config asks for it."""
        if self.scheduler != NAME:
            return super().configure_optimizers()
        self.scheduler = "none"
        optimizer: Any = super().configure_optimizers()
        self.scheduler = NAME
        return [optimizer], [{"scheduler": LambdaLR(optimizer, self._relative_rate), "interval": "epoch"}]

    def on_train_start(self) -> None:
        """Warn of a learning rate that reaches 0 too early."""
        super().on_train_start()
        if self.scheduler == NAME:
            from lightning.pytorch.utilities import rank_zero_warn

            note = early_zero(self.schedule, batches=self._batches(), epochs=self.schedule_epochs)
            if note is not None:
                rank_zero_warn(note)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the schedule."""
        super().on_save_checkpoint(checkpoint)
        if self.scheduler == NAME:
            checkpoint[SCHEDULE] = self._described_schedule

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if a run would go on by another schedule; early checkpoints, without a note, are paper's."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get(SCHEDULE, "paper")
        if self.scheduler == NAME and saved != self._described_schedule:
            raise ValueError(
                f"scheduler.schedule: expected that of the checkpoint, {saved}, got {self._described_schedule}"
            )

    @property
    def _described_schedule(self) -> str:
        return "paper" if self.schedule == "paper" else f"{self.schedule} over {self.schedule_epochs} epochs"

    def _relative_rate(self, epoch: int) -> float:
        return relative_rate(self.schedule, epoch, batches=self._batches(), epochs=self.schedule_epochs)

    def _batches(self) -> float:
        """Return T; inf until the data are loaded. Samplers of several processes repeat images, which may add one."""
        batches: float = self.trainer.num_training_batches
        images = getattr(self.trainer.train_dataloader, "dataset", None)  # none before, and with DALI
        if images is None:
            return batches
        return min(batches, whole_batches(len(images), self.batch_size, self.trainer.world_size))


def _schedule(cfg: Any) -> Schedule:
    asked = cfg.scheduler.get("schedule")
    if asked is None:
        return "cosine" if cfg.data.dataset == "custom" else "paper"
    if asked not in get_args(Schedule):
        raise ValueError(f"scheduler.schedule: expected one of {', '.join(get_args(Schedule))}, got {asked}")
    schedule: Schedule = asked
    return schedule


def _schedule_epochs(cfg: Any) -> int:
    asked = cfg.scheduler.get("epochs")
    epochs: int = cfg.max_epochs if asked is None else asked
    if cfg.scheduler.name == NAME and _schedule(cfg) == "cosine":
        check_count("scheduler.epochs", epochs)
        if epochs < cfg.max_epochs:
            raise ValueError(
                f"scheduler.epochs: expected at least max_epochs={cfg.max_epochs}, as the learning rate would rise "
                f"again, got {epochs}"
            )
    return epochs


def _fill(cfg: Any, **defaults: Any) -> None:
    """Set what a config does not."""
    for key, default in defaults.items():
        if cfg.get(key) is None:
            cfg[key] = default
        elif isinstance(default, dict):
            for inner, value in default.items():
                cfg[key].setdefault(inner, value)
