"""Measure cells in processes of their own: a crash loses one cell, the end of the time the cells that are left."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from typing import IO, Any

from gpu_steps.with_parent import start

Cell = dict[str, Any]
Row = dict[str, Any]
BROKEN = 75
"""Exit code of a worker that has reported its latest cell and can measure no other: the GPU's state is lost."""
READY = "ready"
"""First line of a worker: its imports and its device work."""


class OutOfTime(Exception):
    """The time of a step is over; ``cells`` have not been measured."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(f"no time left for {len(cells)} cells")
        self.cells = list(cells)


def measured(
    command: Sequence[str], cells: Sequence[Cell], *, workers: int, seconds: float, log: IO[str]
) -> Generator[tuple[Cell, list[Row]], None, None]:
    """Yield each cell with the rows that a worker reports, as soon as it does.

    Args:
        command: starts a worker. It reads the cells, a list in JSON, from its standard input, and prints a line
            ``READY``, then for each cell one line, a list of rows in JSON.
        cells: in the order of their value.
        workers: how many share the cells.
        seconds: after which all workers are killed.
        log: gets what workers write to standard error.

    Raises: OutOfTime; ChildProcessError if a worker does not start.
    """
    end = time.monotonic() + seconds
    threads = max(1, (os.cpu_count() or 1) // workers)
    running = [_Worker(command, list(cells[first::workers]), threads) for first in range(min(workers, len(cells)))]
    try:
        while running:
            for worker in list(running):
                ended = worker.process.poll() is not None  # asked before reading: what it reported is read
                for rows in worker.reports():
                    yield worker.waiting.pop(0), rows
                if not ended:
                    continue
                running.remove(worker)
                why = worker.close(log)
                if not worker.ready:
                    raise ChildProcessError(why)
                if worker.waiting and worker.process.returncode != BROKEN:
                    yield worker.waiting.pop(0), [{"failed": why}]
                if worker.waiting:
                    running.append(_Worker(command, worker.waiting, threads))
            if time.monotonic() > end and running:
                raise OutOfTime([cell for worker in running for cell in worker.waiting])
            time.sleep(0.02)
    finally:
        for worker in running:
            worker.process.kill()
            worker.close(log)


class _Worker:
    """A process with its cells, and what it has reported."""

    def __init__(self, command: Sequence[str], cells: list[Cell], threads: int) -> None:
        self.waiting = cells
        self.ready = False
        self._output, self._errors = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115  # `close` does it
        self._read, self._part = 0, b""
        with tempfile.TemporaryFile() as given:
            given.write(json.dumps(cells).encode())
            given.seek(0)
            self.process = start(command, threads, stdin=given, stdout=self._output, stderr=self._errors)

    def reports(self) -> Iterator[list[Row]]:
        """Yield the rows of each cell that was reported since the last call."""
        new = os.pread(self._output.fileno(), 2**24, self._read)
        self._read += len(new)
        *lines, self._part = (self._part + new).split(b"\n")
        for line in lines:
            if self.ready:
                yield json.loads(line)
            else:
                self.ready = line == READY.encode()

    def close(self, log: IO[str]) -> str:
        """Wait for the end; add what it said to the log, and return why it ended."""
        code = self.process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-4000:].strip()
        log.write(said + "\n" if said else "")
        log.flush()
        self._output.close()
        self._errors.close()
        return f"exit code {code}: {said.splitlines()[-1][:300] if said else 'nothing said'}"
