"""Processes that something else has started: torchrun's and SLURM's, and what Lightning does under SLURM by itself."""

import os
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

ONE_PROCESS = "it trains in one process"
RANKS = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Where launchers number their processes, those of which Lightning does not know (MPI, Kubernetes) too."""


def check_launched(expected: int, why: str) -> None:
    """Refuse to start beside processes that would each train the same run.

    Args:
        expected: how many processes share this run.
        why: what says so, for the message.

    Raises: ValueError if torchrun or SLURM has started another number, or if this is one process too many of any
        launcher; the first of those trains alone.
    """
    launchers = ("torchrun", TorchElasticEnvironment, "WORLD_SIZE"), ("SLURM", SLURMEnvironment, "SLURM_NTASKS")
    for launcher, environment, number in launchers:
        if environment.detect():
            started = int(os.environ[number])
            if started != expected:
                raise ValueError(f"{launcher}: expected {expected}, as {why}, got {started} processes")
            break
    for name in RANKS:
        if int(os.environ.get(name, 0)) >= expected:
            raise ValueError(f"{name}: expected a number below {expected}, as {why}, got {os.environ[name]}")


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
