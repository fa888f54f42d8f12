"""Run a check in several gloo processes at once."""

import gc
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing, nn


def network(width_in: int = 5, width_out: int = 4) -> nn.Module:
    """A small network, the same in each process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(width_in, 7), nn.Tanh(), nn.Linear(7, width_out)).double()


def run_in_processes(world: int, folder: Path, check: Callable[..., None], *args: Any) -> None:
    """Call ``check(rank, world, *args)`` in ``world`` processes that can talk; an exception in one fails the test."""
    multiprocessing.spawn(_worker, args=(world, f"file://{folder}/meeting-point", check, args), nprocs=world)


def _worker(rank: int, world: int, meeting_point: str, check: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "You are using `torch.load`", FutureWarning)  # torch 2.4 and 2.5, in pickle
    timeout = timedelta(seconds=120)  # a rank that waits in vain fails the test
    dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=world, timeout=timeout)
    check(rank, world, *args)
    gc.collect()  # DDP before its process group, whose threads must not outlive the interpreter
    dist.barrier()  # nobody leaves while others still talk
    dist.destroy_process_group()
