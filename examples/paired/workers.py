"""Several runs at once, each in a process that computes with one thread (on a CPU), and dies with its parent."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import cycle, islice
from multiprocessing.connection import wait as wait_for
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from paired.budget import Costs, measure
from paired.images import Parts
from paired.losses import Loss
from paired.run import Protocol, Run, execute
from recipe.data import Data, Images
from recipe.protocol import Augmentation, Jitter

THREADS = 1
"""CPU threads of a run, part of what makes it repeatable."""
POLL = 0.5
"""Seconds between two looks at what has been done."""

_parts: Parts
_epochs: "Synchronized[int]"


class Workers:
    """A pool of processes that hold the images of a study. Leaving it by an exception ends them at once.

    Args:
        jobs: how many.
        parts: the images.
    """

    def __init__(self, jobs: int, parts: Parts) -> None:
        context = multiprocessing.get_context("spawn")
        self.jobs = jobs
        self.epochs: Synchronized[int] = context.Value("i", 0)
        self.folder = tempfile.TemporaryDirectory()  # a pipe would be read when a process has started, one by one
        images = Path(self.folder.name) / "images.pt"
        torch.save(parts, images)
        self.pool = ProcessPoolExecutor(jobs, context, _start, (images, self.epochs))
        self.others = multiprocessing.active_children()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            for process in multiprocessing.active_children():
                if process not in self.others:
                    process.kill()
        self.pool.shutdown(wait=kind is None, cancel_futures=True)
        self.folder.cleanup()

    def measure(self, protocol: Protocol, precisions: tuple[str, ...], losses: list[Loss]) -> dict[str, Costs]:
        """Return the largest costs that the processes measure while all of them are busy, for each precision.

        Each process has one of the losses: on a GPU a small batch is launches, of which some losses have many more.
        """
        each_has = islice(cycle(losses), self.jobs)
        with _without_interrupts():
            futures = [self.pool.submit(_measure, protocol, precisions, loss) for loss in each_has]
        found = [_result(future, "calibration") for future in futures]
        return {
            each: Costs(max(costs[each][0] for costs in found), max(costs[each][1] for costs in found))
            for each in precisions
        }

    def run(
        self,
        runs: list[Run],
        protocol: Protocol,
        done: Callable[[Run, dict[str, Any]], object],
        may_begin: Callable[[], bool],
        tick: Callable[[int], object],
    ) -> list[Run]:
        """Run as many as may begin, in order; return those that were left out.

        Args:
            runs: what to do.
            protocol: of the study.
            done: is called with each run and its content.
            may_begin: whether there is time for another run.
            tick: is called about twice a second with the number of epochs done in all.

        Raises: ValueError if a run fails; OSError if a process has died.
        """
        waiting, futures = list(runs), dict[Future[dict[str, Any]], Run]()
        while waiting or futures:
            while waiting and len(futures) < self.jobs and may_begin():
                run = waiting.pop(0)
                with _without_interrupts():
                    futures[self.pool.submit(_execute, run, protocol)] = run
            if not futures:
                break
            finished, _ = wait(futures, timeout=POLL, return_when=FIRST_COMPLETED)
            tick(self.epochs.value)
            for future in finished:
                run = futures.pop(future)
                done(run, _result(future, run.name))
        return waiting


def _result(future: "Future[Any]", name: str) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise OSError(
            f"jobs: expected {name} to end, got a process that died (out of memory?); the same command goes on, "
            "with --jobs fewer at once"
        ) from error
    except Exception as error:  # whatever a strategy of the user's raises
        raise ValueError(f"{name}: {error}") from error


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that begin here ignore Ctrl-C, which a terminal sends to them too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _start(images: Path, epochs: "Synchronized[int]") -> None:
    global _parts, _epochs
    torch.set_num_threads(THREADS)
    torch.serialization.add_safe_globals([Parts, Data, Images, Augmentation, Jitter])
    _parts, _epochs = torch.load(images, weights_only=True, mmap=True), epochs
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _measure(protocol: Protocol, precisions: tuple[str, ...], loss: Loss) -> dict[str, Costs]:
    return measure(protocol, _parts, precisions, loss)


def _execute(run: Run, protocol: Protocol) -> dict[str, Any]:
    return execute(run, protocol, _parts, _count)


def _count() -> None:
    with _epochs.get_lock():
        _epochs.value += 1
