"""The options of a recipe in groups, each a box in the help. Whatever is left out is the paper's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from alphacl_solo_learn.schedule import Schedule
from option_help import LR, StrategyName
from recipe import protocol


@dataclass(frozen=True)
class Loss:
    """Who is compared with whom, and by which pair weights."""

    strategy: StrategyName = "direct"
    """Pair weights α: a registered name, or the import path of a class of your own, my_package.MyAlpha (one in the
    current folder: with PYTHONPATH=.)."""
    loss: Literal["infonce", "quadratic", "backprop"] | None = None
    """In place of --strategy, another row of the paper's Table 1: the InfoNCE loss; the quadratic loss (α = 1/K); or
    InfoNCE's α with the gradient passing through it. (The value that backprop reports is the energy's.)"""
    negatives: Literal["both", "same", "cross", "queue"] | None = None
    """Negatives: all other samples in both views, in the anchor's own view, in the other view, or only the memory bank.
    None: what the strategy declares, else both; with a memory bank, only the bank."""
    symmetric: bool | None = None
    """Whether both views give anchors. None: what the strategy declares, else yes; with a memory bank, no."""
    memory_bank_size: int = 0
    """Embeddings of earlier batches to compare with, as lightly's memory bank; 0: none."""


@dataclass(frozen=True)
class Strategy:
    """Options of the strategy; None: its own default."""

    tau: float | None = None
    """Temperature τ, > 0."""
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


@dataclass(frozen=True)
class Training:
    """The network and how it is trained."""

    backbone: str = "resnet18"
    """Any timm model."""
    epochs: int = 500
    """Passes over the training images. The paper's learning rate of an epoch does not depend on it."""
    eval_epochs: tuple[int, ...] = protocol.EPOCHS
    """Epochs after which to evaluate, besides the last one."""
    batch_size: int = protocol.BATCH_SIZE
    """Images in a batch, over all devices."""
    learning_rate: Annotated[float | None, LR] = None
    """Learning rate of Adam in the first epochs. None: 0.001 for a ResNet-50, else 0.01."""
    schedule: Schedule | None = None
    """How the learning rate falls: paper, by the published code's formula, which needs an epoch of many batches; or
    cosine, to 0 at the end of the last epoch. None: cosine for an image folder of your own, else paper."""
    seed: int = 0
    """Random seed of the first weights, the order of the images, their augmentation, and the probe."""


@dataclass(frozen=True)
class Data:
    """The images."""

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


@dataclass(frozen=True)
class Hardware:
    """Where it runs, and how fast."""

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


@dataclass(frozen=True)
class Output:
    """Where the results go."""

    knn_every: int = 10
    """Number of epochs between two kNN evaluations; 0: only in the evaluations."""
    output: Path | None = None
    """Folder of the runs, <data set>_<backbone>/<run>/ in it. None: .runs."""
    resume: bool = False
    """Continue where the run stopped, or start it if there is no checkpoint yet."""
