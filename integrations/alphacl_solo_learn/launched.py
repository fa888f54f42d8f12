"""Processes that something else has started: torchrun's and SLURM's."""

import os

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment


def check_launched(expected: int, why: str) -> None:
    """Refuse to start beside processes that would each train the same run.

    Args:
        expected: how many processes share this run.
        why: what says so, for the message.

    Raises: ValueError if torchrun or SLURM has started another number.
    """
    launchers = ("torchrun", TorchElasticEnvironment, "WORLD_SIZE"), ("SLURM", SLURMEnvironment, "SLURM_NTASKS")
    for launcher, environment, number in launchers:
        if environment.detect():
            started = int(os.environ[number])
            if started != expected:
                raise ValueError(f"{launcher}: expected {expected}, as {why}, got {started} processes")
            return
