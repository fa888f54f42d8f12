"""Commands in processes of their own, several at once, to which Ctrl-C and SIGTERM are passed on."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from recipe.stopping import SIGNALS, Stopped


class Task(NamedTuple):
    """A command; what it prints goes to the log, if there is one."""

    name: str
    command: Sequence[str]
    log: Path | None = None


def run_child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command to its end; return its exit code (negative: the signal that ended it).

    Args:
        command: and its arguments.
        environment: variables beside those of this process.

    Raises: Stopped when the child has ended after a signal that this process got.
    """
    ((_, code),) = run_children(iter([Task("", command)]), environment=environment)
    return code


def run_children(
    tasks: Iterator[Task],
    *,
    jobs: int = 1,
    environment: Mapping[str, str] | None = None,
    end: float = math.inf,
) -> Iterator[tuple[str, int]]:
    """Run tasks, each taken when there is room for it; yield name and exit code of each when it has ended.

    A signal goes to the children alone, once: each has a session of its own, so that a terminal's Ctrl-C does not
    reach it by another way too.

    Args:
        tasks: what to run.
        jobs: how many at once.
        environment: variables beside those of this process.
        end: of the time, by `time.monotonic`: no task is begun after it, and those that run get SIGTERM.

    Raises: Stopped when all children have ended after a signal that this process got.
    """
    received: list[int] = []
    running: dict[subprocess.Popen[bytes], str] = {}

    def pass_on(which: int, frame: FrameType | None) -> None:
        received.append(which)
        _send(which, running)

    previous: dict[signal.Signals, Any] = {which: signal.signal(which, pass_on) for which in SIGNALS}
    out_of_time = False
    try:
        while True:
            while len(running) < jobs and not received and time.monotonic() < end:
                task = next(tasks, None)
                if task is None:
                    break
                child = _start(task, {**os.environ, **(environment or {})})
                running[child] = task.name
                if received:  # between the start of the child and its name
                    _send(received[-1], [child])
            if not running:
                break
            if not out_of_time and time.monotonic() >= end:
                out_of_time = True
                _send(signal.SIGTERM, running)
            for child in [child for child in running if child.poll() is not None]:
                yield running.pop(child), child.returncode
            time.sleep(0.02)
    finally:
        _send(signal.SIGTERM, running)  # those still running where the caller stops early
        for child in running:
            child.wait()
        for which, handler in previous.items():
            signal.signal(which, handler)
    if received:
        raise Stopped(128 + received[-1])


def _start(task: Task, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    if task.log is None:
        return subprocess.Popen(task.command, env=environment, start_new_session=True)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        return subprocess.Popen(
            task.command, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )


def _send(which: int, children: Mapping[subprocess.Popen[bytes], str] | list[subprocess.Popen[bytes]]) -> None:
    for child in list(children):
        if child.poll() is None:
            child.send_signal(which)
