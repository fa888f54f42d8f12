"""Start a process of this checkout that ends when its parent does, even if that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / part) for part in ("benchmarks", "examples", "", "integrations")]
PR_SET_PDEATHSIG = 1  # of Linux; elsewhere a process runs on


def start(command: Sequence[str], threads: int, **streams: Any) -> subprocess.Popen[bytes]:
    """Start a command, with so many threads for the CPU; it gets SIGTERM when this process ends."""
    paths = [*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    wrapped = [sys.executable, str(Path(__file__)), str(os.getpid()), *command]
    return subprocess.Popen(wrapped, env=environment, **streams)


def _run(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("parent: expected a process that runs, got one that has ended")
    os.execvp(command[0], command)


if __name__ == "__main__":
    _run(int(sys.argv[1]), sys.argv[2:])
