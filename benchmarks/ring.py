"""What a rank sends and holds when negatives come from all ranks: gathered, or round a ring.

    python benchmarks/ring.py               1 to 4 processes on this machine; two views of 1024 rows, D = 128, float32
    python benchmarks/ring.py --side 128    smaller tiles
    python benchmarks/ring.py --output F    a JSON file too

Bytes are counted, not estimated: those that a rank hands to its sends, and the tensors that live at once (forward and
backward, beyond the embeddings themselves). Times of processes that share a few cores say little and are left out.
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from command_line import in_one_line

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from alphacl_plugins import AlphaCLLoss
from live_bytes import LiveBytes
from provenance import check_writable, environment, write_json


@dataclass(frozen=True)
class Settings:
    """The batch, and how it is compared."""

    rows: int = 1024
    """Samples per rank, each with two views."""
    width: int = 128
    """Columns of an embedding."""
    side: int = 512
    """Anchors, and negatives, that the ring compares at once: its block_size, by default what "auto" is."""
    most_ranks: int = 4
    """Largest number of processes."""
    output: Path | None = None
    """A JSON file for the counts."""


def measure(rank: int, world: int, folder: str, settings: Settings) -> None:
    """Count one step of each way on one rank; rank 0 writes the counts."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{world}", rank=rank, world_size=world)
    sent = [0]
    exchange = dist.batch_isend_irecv

    def counted(operations: list[Any]) -> Any:
        sent[0] += sum(operation.tensor.nbytes for operation in operations if operation.op is dist.isend)
        return exchange(operations)

    dist.batch_isend_irecv = counted  # type: ignore[assignment]
    views = torch.randn(2, settings.rows, settings.width).unbind()
    counts = {}
    losses = {
        "True": AlphaCLLoss("infonce", gather_distributed=True),
        "ring": AlphaCLLoss("infonce", gather_distributed="ring", block_size=settings.side),
    }
    for name, loss in losses.items():
        z, z_aug = (view.clone().requires_grad_() for view in views)
        with LiveBytes() as memory:
            loss(z, z_aug).backward()
        counts[name] = memory.peak
    if rank == 0:
        Path(folder, f"{world}.json").write_text(json.dumps({"sent": sent[0], "held": counts}))
    dist.barrier()
    dist.destroy_process_group()


def main(settings: Settings) -> None:
    """Measure for every number of ranks and print the table."""
    if settings.output is not None:
        check_writable(settings.output.parent)
    block = 2 * settings.rows * settings.width * 4
    title = (
        f"per rank, in blocks of {block / 2**20:g} MiB (two views of {settings.rows} rows), tiles of {settings.side}"
    )
    table = Table(title=title)
    for column in ("ranks", "ring sends", "ring holds", "gathering holds"):
        table.add_column(column, justify="right")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in range(1, settings.most_ranks + 1):
            spawn(measure, args=(world, folder, settings), nprocs=world)  # type: ignore[no-untyped-call]
            counts = found[world] = json.loads(Path(folder, f"{world}.json").read_text())
            numbers = (counts["sent"], counts["held"]["ring"], counts["held"]["True"])
            table.add_row(str(world), *(f"{number / block:.1f}" for number in numbers))
    Console().print(table)
    if settings.output is not None:
        report = {"settings": asdict(settings) | {"output": None}, "environment": environment(), "bytes": found}
        write_json(settings.output, report)


if __name__ == "__main__":
    options = tyro.cli(Settings, description=__doc__)
    with in_one_line():
        main(options)
