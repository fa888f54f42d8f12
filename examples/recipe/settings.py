"""The options of a recipe, as the command line shows them. The defaults are the paper's."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from alphacl_lightly import AlphaCLLoss
from alphacl_plugins import build_strategy
from alphacl_plugins.strategies import AnyStrategy
from alphacl_solo_learn.schedule import Schedule
from recipe import protocol

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "infonce": ("infonce", {}),
    "quadratic": ("uniform", {}),
    "backprop": ("infonce", {"detach_alpha": False}),
}
"""Rows of the paper's Table 1 that are not α-CL: the strategy and the options of the loss that they mean."""
STRATEGY_OPTIONS = (
    *("tau", "p", "gamma", "normalize", "eps", "c", "include_augs", "kernel", "t", "a", "tau_alpha", "tau_beta", "mu"),
    *("sigma", "tau_plus", "beta", "detach", "b", "nu", "q", "lam", "alpha", "a_0", "base", "m"),
    *("index", "rho", "bounds", "learn", "effective_share", "masked"),
)
PLACES = ("data_root", "download", "output", "resume")


@dataclass(frozen=True)
class Settings:
    """What to train, on what, and where the results go."""

    strategy: str = "direct"
    """Pair weights α: a registered name, or the import path of a class of your own, my_package.MyAlpha (one in the
    current folder: with PYTHONPATH=.)."""
    loss: Literal["infonce", "quadratic", "backprop"] | None = None
    """In place of --strategy, another row of the paper's Table 1: the InfoNCE loss; the quadratic loss (α = 1/K); or
    InfoNCE's α with the gradient passing through it. (The value that backprop reports is the energy's.)"""
    tau: float | None = None
    """Temperature τ, > 0. This and the options up to masked belong to the strategy; None is its own default."""
    p: float | None = None
    """Exponent of the distance in direct, > 0."""
    gamma: float | None = None
    """Exponent of inverse, > 0, and of inverse_exact, > 1; of kcl, the weight of the negatives, > 0; circle: scale."""
    normalize: bool | None = None
    """direct: whether weights sum to 1."""
    eps: float | None = None
    """ε of infonce, triplet, soft_triplet and lifted_structured."""
    c: float | None = None
    """Steepness of modified_triplet."""
    include_augs: bool | None = None
    """dhel: whether every view gives anchors."""
    kernel: str | None = None
    """kcl: gaussian, log, imq, riesz or gaussian_riesz."""
    t: float | None = None
    """Parameter of the kernel of kcl and student_t; inverse temperature of sigmoid."""
    a: float | None = None
    """hardness: how much more near negatives count."""
    tau_alpha: float | None = None
    """dual_temperature: temperature of the shape."""
    tau_beta: float | None = None
    """dual_temperature: temperature of the mass."""
    mu: float | None = None
    """adnce: cosine of the negatives with the largest weight."""
    sigma: float | None = None
    """adnce: width around it; dcl_weighted: width of the weight of a positive."""
    tau_plus: float | None = None
    """debiased: share of the negatives that are false, >= 0 and < 1."""
    beta: float | None = None
    """Hardness of debiased; steepness of the push of multi_similarity."""
    detach: bool | None = None
    """debiased: whether the weights of hard negatives are held fixed."""
    b: float | None = None
    """sigmoid: bias."""
    nu: float | None = None
    """student_t: degrees of freedom."""
    q: float | None = None
    """rince: robustness, > 0 and <= 1."""
    lam: float | None = None
    """rince: weight of the negatives, > 0 and <= 1."""
    alpha: float | None = None
    """multi_similarity: steepness of the pull; macl: how much τ follows the alignment, in [0, 1]."""
    a_0: float | None = None
    """macl: alignment at which the temperature is τ, in [0, 1]."""
    base: float | None = None
    """multi_similarity: cosine at which a pair is half attracted."""
    m: float | None = None
    """circle: margin."""
    index: float | None = None
    """tsallis: index of the regulariser, <= 2."""
    rho: float | None = None
    """kl_ball: how far α is from uniform in every row, in nats, > 0."""
    bounds: tuple[float, float] | None = None
    """kl_ball: smallest and largest τ."""
    learn: bool | None = None
    """sigmoid: whether t and b learn."""
    effective_share: float | None = None
    """In place of --tau: effective negatives divided by negatives, in (0, 1); τ is found on the first batch."""
    masked: float | None = None
    """Any strategy: negatives nearer than the positive by more than this are considered false, and get no weight."""
    negatives: Literal["both", "same", "cross", "queue"] | None = None
    """Negatives: all other samples in both views, in the anchor's own view, in the other view, or only the memory bank.
    None: what the strategy declares, else both; with a memory bank, only the bank."""
    symmetric: bool | None = None
    """Whether both views give anchors. None: what the strategy declares, else yes; with a memory bank, no."""
    memory_bank_size: int = 0
    """Embeddings of earlier batches to compare with, as lightly's memory bank; 0: none."""

    backbone: str = "resnet18"
    """Any timm model."""
    epochs: int = 500
    """Passes over the training images. The paper's learning rate of an epoch does not depend on it."""
    eval_epochs: tuple[int, ...] = protocol.EPOCHS
    """Epochs after which to evaluate, besides the last one."""
    batch_size: int = protocol.BATCH_SIZE
    """Images in a batch, over all devices."""
    learning_rate: float | None = None
    """Learning rate of Adam in the first epochs. None: 0.001 for a ResNet-50, else 0.01."""
    schedule: Schedule | None = None
    """How the learning rate falls: paper, by the published code's formula, which needs an epoch of many batches; or
    cosine, to 0 at the end of the last epoch. None: cosine for an image folder of your own, else paper."""
    seed: int = 0
    """Random seed of the first weights, the order of the images, their augmentation, and the probe."""

    data_root: Path = Path(".data")
    """Where the data set is, or a folder that holds it."""
    data_format: Literal["auto", "torchvision", "folder"] = "auto"
    """torchvision's own files, or an image folder, train/<class>/* and test/<class>/* (and unlabeled/*), which is also
    the way to data of your own. auto: a folder if there is a train/ in it."""
    download: bool = False
    """Let torchvision download the data set into the data root."""
    classes: int | None = None
    """Number of classes of the data. None: that of this recipe's data set."""
    limit: int | None = None
    """Use at most this many training, test and unlabeled images each, for a trial run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: a GPU if there is one."""
    devices: int = 1
    """Processes on this machine, one for each device; the loss compares across all of them."""
    num_nodes: int = 1
    """Number of machines, each with --devices devices; start the same command on all, as for any Lightning script."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """Precision of the network in training: bfloat16 or float16 autocast, or float32. auto: bf16 on a GPU, else 32."""
    compile: bool = False
    """Compile the network with torch.compile: slow to start, faster afterwards."""
    augment_ahead: int = 8
    """Number of batches augmented at once: a GPU needs as long for one as for eight."""

    knn_every: int = 10
    """Number of epochs between two kNN evaluations; 0: only in the evaluations."""
    output: Path | None = None
    """Folder of the runs, <data set>_<backbone>/<run>/ in it. None: .runs."""
    resume: bool = False
    """Continue where the run stopped, or start it if there is no checkpoint yet."""

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
        """Return the schedule of the learning rate, for data of one's own or the paper's."""
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
