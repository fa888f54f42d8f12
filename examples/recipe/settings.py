"""A recipe's options together: what they mean, and which go together."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alphacl_lightly import AlphaCLLoss
from alphacl_plugins import build_strategy
from alphacl_plugins.strategies import AnyStrategy
from alphacl_solo_learn.schedule import Schedule
from recipe import protocol
from recipe.options import Data, Hardware, Loss, Output, Strategy, Training

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "infonce": ("infonce", {}),
    "quadratic": ("uniform", {}),
    "backprop": ("infonce", {"detach_alpha": False}),
}
"""Rows of the paper's Table 1 that are not α-CL: the strategy and the options of the loss that they mean."""
STRATEGY_OPTIONS = tuple(field.name for field in fields(Strategy))
PLACES = ("data_root", "download", "output", "resume")


@dataclass(frozen=True)
class Settings(Output, Hardware, Data, Training, Strategy, Loss):  # the last base has the first fields
    """What to train, on what, and where the results go."""

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "seed": 0, "devices": 1, "num_nodes": 1, "augment_ahead": 1}
        for name, low in (least | {"knn_every": 0, "memory_bank_size": 0}).items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected an int >= {low}, got {getattr(self, name)}")
        for name in ("limit", "classes"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise ValueError(f"{name}: expected an int >= 2, got {value}")
        if self.seed >= 2**32:
            raise ValueError(f"seed: expected an int < 2**32, got {self.seed}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected a finite number > 0, got {self.learning_rate}")
        if any(epoch < 1 for epoch in self.eval_epochs):
            raise ValueError(f"eval_epochs: expected epochs >= 1, got {self.eval_epochs}")
        if self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size: expected a multiple of the {self.world_size} devices (devices x num_nodes), "
                f"got {self.batch_size}"
            )
        if self.loss is not None and self.strategy != "direct":
            raise ValueError(f"loss: expected either a loss or a strategy, got {self.loss} and {self.strategy}")
        try:
            self.criterion()
        except (TypeError, ImportError) as error:  # tyro explains ValueErrors alone
            cause = "" if error.__cause__ is None else f" ({error.__cause__})"
            raise ValueError(f"{error}{cause}") from error

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes

    @property
    def milestones(self) -> tuple[int, ...]:
        """The epochs after which to evaluate, in order; the last one is always among them."""
        return tuple(sorted({*(epoch for epoch in self.eval_epochs if epoch < self.epochs), self.epochs}))

    @property
    def first_rate(self) -> float:
        """The learning rate of the first epochs."""
        return protocol.learning_rate(self.backbone) if self.learning_rate is None else self.learning_rate

    def schedule_for(self, *, own: bool) -> Schedule:
        """Return the schedule of the learning rate, for the user's own data or the paper's."""
        return self.schedule or ("cosine" if own else "paper")

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `recipe.data.load`."""
        return {
            "root": self.data_root,
            "data_format": self.data_format,
            "download": self.download,
            "classes": self.classes,
            "limit": self.limit,
        }

    @property
    def strategy_options(self) -> dict[str, Any]:
        """The options of the strategy that are not its own defaults."""
        return {name: getattr(self, name) for name in STRATEGY_OPTIONS if getattr(self, name) is not None}

    @property
    def label(self) -> str:
        """A short name of the loss with its options, for folders and tables."""
        options = self.strategy_options
        if self.memory_bank_size:
            options["memory_bank_size"] = self.memory_bank_size
        options |= {name: value for name, value in self.comparison.items() if value is not None}
        return "-".join([self.loss or self.strategy, *(f"{name}={value}" for name, value in options.items())])

    def folder(self, dataset: str) -> Path:
        """Where a run on a data set leaves its files: a place for each loss, seed, and what is often tried."""
        tried = {"batch_size": protocol.BATCH_SIZE, "learning_rate": None, "precision": "auto", "limit": None}
        changes = [f"{name}={getattr(self, name)}" for name, usual in tried.items() if getattr(self, name) != usual]
        if self.schedule == "cosine":
            changes.append("schedule=cosine")
        run = "-".join([self.label, *changes, f"seed{self.seed}"])
        return (self.output or Path(".runs")) / f"{dataset}_{self.backbone}" / run

    def build_strategy(self) -> AnyStrategy:
        """Return the pair weights."""
        name = self.strategy if self.loss is None else LOSSES[self.loss][0]
        return build_strategy(name, **self.strategy_options)

    def criterion(self) -> AlphaCLLoss:
        """Return the loss: lightly's adapter, as in any script that trains with lightly."""
        return AlphaCLLoss(
            self.build_strategy(),
            memory_bank_size=(self.memory_bank_size, protocol.EMBEDDING_WIDTH) if self.memory_bank_size else 0,
            gather_distributed=self.world_size > 1,
            **self.comparison,
            **({} if self.loss is None else LOSSES[self.loss][1]),
        )

    @property
    def comparison(self) -> dict[str, Any]:
        """Who is compared with whom."""
        return {"negatives": self.negatives, "symmetric": self.symmetric}

    def as_dict(self) -> dict[str, Any]:
        """Every option that says what is done, ready for JSON; where files lie on this machine is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in PLACES}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
