"""This package's losses beside the hosts' own: time and memory of forward and backward.

    python benchmarks/hosts.py                     the table, and docs/hosts.json

Each measurement is a process of its own, float32 on one thread; memory is what the process holds beyond the embeddings
at its peak. Host and ours take turns, so that other work on the machine meets both; read the ratio, not the seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from command_line import in_one_line

import torch
import tyro
from torch import Tensor
from torch.nn.functional import normalize

from loss_measurements import PeakOfProcess, limit_memory
from provenance import check_writable, environment, write_json

Result = dict[str, Any]
WIDTH, TAU, MIB = 128, 0.05, 2**20


@dataclass(frozen=True)
class Case:
    """A host's loss at one size."""

    host_loss: str
    size: int
    hard: int = 0  # negatives of each sample

    def loss(self, ours: bool) -> Callable[[list[Tensor]], Tensor]:
        """Return a function of columns of embeddings ``[N, D]``."""
        found: Callable[[list[Tensor]], Tensor] = LOSSES[self.host_loss](ours)
        return found

    def columns(self) -> list[Tensor]:
        """Return embeddings that belong together, with gradient."""
        generator = torch.Generator().manual_seed(0)
        first = torch.randn(self.size, WIDTH, generator=generator)
        rest = [first + torch.randn(self.size, WIDTH, generator=generator) for _ in range(1 + self.hard)]
        return [normalize(x, dim=1).requires_grad_() for x in (first, *rest)]


def _sentence_transformers(ours: bool) -> Any:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from alphacl_sentence_transformers import AlphaCLRankingLoss

    model = torch.nn.Sequential()
    if ours:
        return AlphaCLRankingLoss(model, "infonce", tau=TAU).compute_loss_from_embeddings
    return partial(MultipleNegativesRankingLoss(model, scale=1 / TAU).compute_loss_from_embeddings, labels=None)


def _metric_learning(ours: bool) -> Any:
    from pytorch_metric_learning.losses import NTXentLoss

    from alphacl_metric_learning import AlphaCLLoss

    loss = AlphaCLLoss("infonce", tau=TAU) if ours else NTXentLoss(temperature=TAU)
    return lambda columns: loss(columns[0], torch.arange(len(columns[0])) // 4)  # four samples of each class


def _open_clip(ours: bool) -> Any:
    from open_clip.loss import ClipLoss as HostLoss

    from alphacl_open_clip import ClipLoss

    loss, scale = ClipLoss("infonce") if ours else HostLoss(), torch.tensor(1 / TAU, requires_grad=True)
    return lambda columns: loss(*columns, scale)


LOSSES = {
    "MultipleNegativesRankingLoss": _sentence_transformers,
    "NTXentLoss": _metric_learning,
    "ClipLoss": _open_clip,
}
CASES = (
    *(Case("MultipleNegativesRankingLoss", size, hard) for size in (1024, 4096) for hard in (0, 3)),
    *(Case("NTXentLoss", size) for size in (128, 512)),
    *(Case("ClipLoss", size) for size in (1024, 4096)),
)


@dataclass(frozen=True)
class Settings:
    """How it is measured."""

    rounds: int = 2
    """Processes for each loss; host and ours in turn. The table has the median of the seconds."""
    memory_limit: float = 6.0
    """GiB of address space beyond what the libraries take; a loss that needs more is left out."""
    seconds: float = 300.0
    """Time for one process; a loss that needs more is left out."""
    largest: int = 4096
    """Largest N."""
    output: Path = Path("docs/hosts.json")
    """Where the numbers go."""


def measure_here(case: Case, ours: bool, memory_limit: float) -> Result:
    """Run one loss: memory of the first run, median seconds of up to five more within five seconds."""
    torch.set_num_threads(1)
    loss, columns = case.loss(ours), case.columns()
    loss([x[:8].detach().requires_grad_() for x in columns]).backward()  # type: ignore[no-untyped-call]
    limit_memory(memory_limit, beyond=True)
    peak = PeakOfProcess()
    peak.start()
    value = loss(columns)
    value.backward()  # type: ignore[no-untyped-call]
    extra = peak.extra()
    spent: list[float] = []
    while not spent or (len(spent) < 5 and sum(spent) < 5):
        columns = case.columns()
        begin = time.perf_counter()
        loss(columns).backward()  # type: ignore[no-untyped-call]
        spent.append(time.perf_counter() - begin)
    return {"seconds": median(spent), "extra_bytes": extra, "loss": value.item()}


def measure(case: Case, ours: bool, settings: Settings) -> Result:
    """Measure in a process of its own; why not, under "failed"."""
    what = json.dumps({"case": asdict(case), "ours": ours, "memory_limit": settings.memory_limit})
    command = [sys.executable, "-W", "ignore", __file__, what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=settings.seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {settings.seconds:.0f} s"}
    if done.returncode == 0:
        result: Result = json.loads(done.stdout.splitlines()[-1])
        return result
    if done.returncode < 0 or "allocate memory" in done.stderr:
        return {"failed": f"over {settings.memory_limit:g} GiB"}
    return {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}


def measured(case: Case, settings: Settings) -> Result:
    """Return what host and ours took, run in turn."""
    runs: dict[str, list[Result]] = {"host": [], "ours": []}
    for _ in range(settings.rounds):
        for who, found in runs.items():
            if not found or "failed" not in found[-1]:
                found.append(measure(case, who == "ours", settings))
    summary: Result = asdict(case)
    for who, found in runs.items():
        summary[who] = found[-1]
        if "failed" not in found[-1]:
            summary[who] |= {name: median(run[name] for run in found) for name in ("seconds", "extra_bytes")}
            summary[who]["runs"] = [run["seconds"] for run in found]
    return summary


def row(result: Result) -> str:
    """Return a line of the table."""
    host, ours = result["host"], result["ours"]
    cells = [f"`{result['host_loss']}`", str(result["size"]), str(result["hard"])]
    for name, unit in (("seconds", 1e-3), ("extra_bytes", MIB)):
        cells += [one.get("failed") or f"{one[name] / unit:,.0f}" for one in (host, ours)]
        known = "failed" not in host and "failed" not in ours
        cells.append(f"{ours[name] / max(host[name], 1e-9):.2g}" if known else "")
    return f"| {' | '.join(cells)} |"


def markdown(results: list[Result]) -> str:
    """Return the table."""
    head = "| host's loss | N | hard negatives | ms, host | ms, ours | ratio | MiB, host | MiB, ours | ratio |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|---|", *map(row, results)])


def main(settings: Settings) -> None:
    """Measure, print, write."""
    check_writable(settings.output.parent)
    about, load = environment(), os.getloadavg()
    results: list[Result] = []
    print(markdown(results))
    for case in CASES:
        if case.size <= settings.largest:
            results.append(measured(case, settings))
            print(row(results[-1]), flush=True)
            write(results, settings, about, load)


def write(results: list[Result], settings: Settings, about: Result, load: tuple[float, ...]) -> None:
    """Leave what is known so far."""
    note = "load averages over 1, 5 and 15 minutes; above 1 other work ran at the same time, so read the ratios"
    report = {
        "settings": asdict(settings) | {"output": None, "width": WIDTH, "tau": TAU, "threads": 1, "dtype": "float32"},
        "environment": about,
        "load": {"before": load, "after": os.getloadavg(), "note": note},
        "results": results,
    }
    write_json(settings.output, report)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        asked = json.loads(sys.argv[1])
        print(json.dumps(measure_here(Case(**asked["case"]), asked["ours"], asked["memory_limit"])))
    else:
        options = tyro.cli(Settings, description=__doc__)
        with in_one_line():
            main(options)
