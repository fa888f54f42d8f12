"""This package's losses beside the losses that people use: time, memory, and what is kept for the backward pass.

    python benchmarks/loss.py                            the table, and results/loss.{md,json,png}
    python benchmarks/loss.py --sizes 64 128 --widths 128    a part of it

Peers: `pip install -e ".[benchmarks]"`, and a clone of solo-learn in SOLO_LEARN_HOME (default ~/solo-learn); on a GPU
also inf-cl and memeff. One that is absent, runs out of memory or takes too long is a result: the table says so.

Times are lower quartiles of forward and backward, one run of each loss in turn; memory is that of a process of its own
(on a GPU: of the allocator) beyond what it held before, each with N samples in two views of float32.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from command_line import in_one_line

import torch
import tyro

from loss_measurements import Case, measure_memory, measure_rate, measure_times
from loss_peers import ON_A_GPU, OURS, PACKAGES, PEERS
from loss_report import goals, markdown, plot
from provenance import check_writable, environment, replace_file, write_json, write_text


@dataclass(frozen=True)
class Settings:
    """Time and memory of losses, forward and backward."""

    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    """Samples N."""
    widths: tuple[int, ...] = (128, 512)
    """Columns D of an embedding."""
    losses: tuple[str, ...] = (*OURS, *PEERS)
    """Names of the losses."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of float32 products on a GPU, as torch names it. inf-cl and memeff always use TF32."""
    threads: int = 2
    """Threads of a CPU."""
    memory_limit: float = 8.0
    """GiB of address space for the process of a case on a CPU; beyond is out of memory."""
    seconds: float = 10.0
    """Time for the runs of one loss at one size; one that a single run exceeds is left out at larger sizes."""
    output: Path = Path("results/loss")
    """Where the Markdown, JSON and picture go, without the suffix."""


def main(settings: Settings) -> None:
    """Measure, print, write."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    known = OURS | PEERS
    if unknown := [name for name in settings.losses if name not in known]:
        sys.exit(f"--losses: expected names among {', '.join(map(repr, known))}, got {', '.join(map(repr, unknown))}")
    torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision(settings.matmul_precision)
    check_writable(settings.output.parent)
    rate = measure_rate()
    results = []
    for width in settings.widths:
        skipped: dict[str, str] = {}  # losses that larger sizes are not for, and why
        for size in settings.sizes:
            cases = [
                Case(name, size, width, device, settings.threads, settings.memory_limit, settings.matmul_precision)
                for name in settings.losses
                if device == "cuda" or name not in ON_A_GPU
            ]
            memory = {case.loss: measure_memory(case, settings.seconds) for case in cases if case.loss not in skipped}
            fit = [case for case in cases if "failed" not in memory.get(case.loss, {"failed": ""})]
            times = measure_times(fit, settings.seconds)
            for case in cases:
                found = memory.get(case.loss) or {"failed": skipped[case.loss]}
                found |= times.get(case.loss, {})
                results.append(asdict(case) | found)
                if "failed" in found or found["seconds"] > settings.seconds:
                    skipped[case.loss] = found.get("failed", "too slow")
            print(markdown([r for r in results if (r["size"], r["width"]) == (size, width)]), flush=True)
            write(results, settings, rate)


def write(results: list[dict[str, Any]], settings: Settings, rate: float | None) -> None:
    """Leave what is known so far in the three files."""
    about = environment(*PACKAGES)
    report = {"settings": asdict(settings) | {"output": None}, "environment": about, "rate": rate, "results": results}
    write_json(settings.output.with_suffix(".json"), report)
    write_text(settings.output.with_suffix(".md"), f"{markdown(results)}\n\n{goals(results, rate)}\n")
    replace_file(settings.output.with_suffix(".png"), partial(plot, results))


if __name__ == "__main__":
    options = tyro.cli(Settings, description=__doc__)
    with in_one_line():
        main(options)
