"""Writes how many cases were tried, and on what, to the file that RELIABILITY_RECORD names."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path

import hypothesis
import pytest
import torch
from reliability import record

_FILE = os.environ.get("RELIABILITY_RECORD")
_started = time.monotonic()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


_commit = _output("git", "rev-parse", "--short=10", "HEAD") if _FILE else ""  # of the code that is imported now


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _FILE is None or "PYTEST_XDIST_WORKER" in os.environ:
        return
    report = {
        "cases": [
            [claim, subject, record.tried[claim, subject], record.failed[claim, subject]]
            for claim, subject in record.tried
        ],
        "failed tests": session.testsfailed,
        "minutes": round((time.monotonic() - _started) / 60, 1),
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hypothesis": hypothesis.__version__,
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    Path(_FILE).write_text(json.dumps(report, indent=1) + "\n")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
