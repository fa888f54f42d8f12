"""Processes that something else has started: torchrun's and SLURM's, and what Lightning does under SLURM by itself."""

import os
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from alphacl_solo_learn.launched import check_launched

__all__ = ["ONE_PROCESS", "check_launched", "one_process", "without_requeue"]

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
