"""Processes that something else has started: torchrun's and SLURM's."""

import os

RANKS = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Where launchers number their processes, those of which Lightning does not know (MPI, Kubernetes) too."""


def check_launched(expected: int, why: str) -> None:
    """Refuse to start beside processes that would each train the same run.

    Args:
        expected: how many processes share this run.
        why: what says so, for the message.

    Raises:
        ValueError: if torchrun or SLURM has started another number, or if this is one process too many of any launcher;
            the first of those trains alone.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

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
