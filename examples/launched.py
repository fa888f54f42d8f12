"""Lightning as the examples use it: under torchrun and SLURM, which start processes themselves, and without noise."""

import logging
import os
import warnings
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from alphacl_solo_learn.launched import check_launched

__all__ = ["ONE_PROCESS", "check_launched", "one_process", "quiet", "without_requeue"]

ONE_PROCESS = "it trains in one process"


def without_requeue() -> list[SLURMEnvironment]:
    """Return plugins for a Trainer that keeps its own checkpoints: under SLURM, Lightning does not resume by itself.

    Under torchrun there is nothing to turn off, and a plugin would replace torchrun's numbers of processes by SLURM's.
    """
    by_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if by_slurm else []


def one_process() -> dict[str, Any]:
    """Return options for a Trainer of one process that keeps no checkpoint.

    Under SLURM Lightning would go on from ``hpc_ckpt_*`` in the current folder, whichever job left it.
    """
    return {
        "devices": 1,
        "plugins": [LightningEnvironment()],
        "default_root_dir": os.devnull,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }


def quiet() -> None:
    """Keep Lightning to what a user can act on."""
    for name in ("lightning.pytorch", "pytorch_lightning"):  # lightly brings the second, which then logs for the first
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning 2.6 under PyTorch 2.15: theirs to mend
    warnings.filterwarnings("ignore", ".*does not have many workers")  # the data are in memory already
    warnings.filterwarnings("ignore", ".*GPU available but not used")  # --device cpu was asked for
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")  # a try with few images
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # it is this run's own
