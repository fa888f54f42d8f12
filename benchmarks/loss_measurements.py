"""Time and memory of one loss: `python loss_measurements.py CASE` is the process whose memory is measured."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from loss_peers import Loss, build

Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One loss at one size."""

    loss: str
    size: int
    width: int
    device: str
    threads: int
    memory_limit: float  # GiB of a process on a CPU
    matmul_precision: str = "highest"  # of products of float32 on a GPU

    def views(self) -> tuple[Tensor, Tensor]:
        """Two views that belong together, with gradient."""
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(self.size, self.width, generator=generator)
        z_aug = z + 0.5 * torch.randn(self.size, self.width, generator=generator)
        return z.to(self.device).requires_grad_(), z_aug.to(self.device).requires_grad_()


def measure_times(cases: list[Case], seconds: float, most_runs: int = 200) -> dict[str, Result]:
    """Lower quartile of forward and backward, one run of each loss in turn; a loss pauses once its time is spent.

    Turns are in random order: what runs after a large loss finds the caches full of that.
    """
    order = random.Random(0)
    _keep_freed_memory()
    losses = {case.loss: build(case.loss) for case in cases}
    runs: dict[str, list[float]] = {case.loss: [] for case in cases}
    for turn in range(most_runs):
        for case in order.sample(cases, len(cases)):
            spent = runs[case.loss]
            if turn < 3 or sum(spent) < seconds:
                spent.append(_timed(losses[case.loss], case))
    return {
        name: {
            "seconds": quantiles(spent[1:], method="inclusive")[0],
            "least_seconds": min(spent[1:]),
            "runs": len(spent) - 1,
        }
        for name, spent in runs.items()
    }


def _keep_freed_memory() -> None:
    """Free a large tensor, as every step of a training does.

    The C library gives small pieces back to the system until it has seen a large one, and to fault them in again takes
    as long as the loss itself.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _timed(loss: Loss, case: Case) -> float:
    views = case.views()
    if case.device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        loss(*views).backward()  # type: ignore[no-untyped-call]
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    begin = time.perf_counter()
    loss(*views).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - begin


def measure_rate(size: int = 8192) -> float | None:
    """Multiplications and additions per second of a product of two float32 matrices on a GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    matrix = torch.randn(size, size, device="cuda")
    spent = []
    for _ in range(6):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        matrix @ matrix
        end.record()
        torch.cuda.synchronize()
        spent.append(float(start.elapsed_time(end)) / 1e3)
    return 2 * size**3 / median(spent[1:])


def measure_memory(case: Case, seconds: float) -> Result:
    """Extra memory and bytes saved for backward; why not, under "failed".

    By a process of its own, which knows no other way to look at the memory of a CPU; a GPU's allocator counts.
    """
    if case.device == "cuda":
        return _measure_on_gpu(case)
    command = [sys.executable, "-W", "ignore", __file__, json.dumps(asdict(case))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30 + 6 * seconds)
    except subprocess.TimeoutExpired:
        return {"failed": "too slow"}
    if done.returncode == 0:
        result: Result = json.loads(done.stdout.splitlines()[-1])
        return result
    killed = done.returncode < 0 or "allocate memory" in done.stderr or "out of memory" in done.stderr
    why = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
    return {
        "failed": "out of memory"
        if killed
        else "absent"
        if "ImportError" in why[0] or "ModuleNotFound" in why[0]
        else why[0]
    }


def _measure_on_gpu(case: Case) -> Result:
    try:
        return _measure_here(case)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    except ImportError:
        return {"failed": "absent"}
    except Exception as error:  # of a peer: what it cannot do is a result
        return {"failed": str(error).splitlines()[0]}
    finally:
        torch.cuda.empty_cache()


class PeakOfProcess(threading.Thread):
    """The largest resident set while it runs, looked at every millisecond, and as the kernel saw it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = _resident()
        self._high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._done = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._done.wait(0.001):
            self.peak = max(self.peak, _resident())

    def extra(self) -> int:
        """Stop; bytes beyond the beginning."""
        self._done.set()
        self.join()
        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return max(self.peak, high if high > self._high else 0) - self.before


def limit_memory(gib: float, *, beyond: bool = False) -> None:
    """Limit the address space of this process; beyond: over what it has already."""
    limit = int(gib * 2**30) + (
        beyond and int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _measure_here(case: Case) -> Result:
    torch.set_num_threads(case.threads)
    torch.set_float32_matmul_precision(case.matmul_precision)
    if case.device == "cpu":  # this process ends after it
        limit_memory(case.memory_limit)
    loss, views = build(case.loss), case.views()
    small = [view[:4].detach().clone().requires_grad_() for view in views]
    loss(*small).backward()  # type: ignore[no-untyped-call]  # what is loaded on first use is not the batch's
    saved = [0]

    def pack(tensor: Tensor) -> Tensor:
        saved[0] += tensor.nbytes
        return tensor

    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        peak = PeakOfProcess()
        peak.start()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(*views)
    value.backward()  # type: ignore[no-untyped-call]
    extra = torch.cuda.max_memory_allocated() - before if case.device == "cuda" else peak.extra()
    return {"extra_bytes": extra, "saved_bytes": saved[0]}


if __name__ == "__main__":
    print(json.dumps(_measure_here(Case(**json.loads(sys.argv[1])))))
