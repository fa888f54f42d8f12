"""Where a number comes from: versions, hardware, commit; files never half written, folders of one run."""

import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch", "torchvision", "lightning", "lightly", "timm", "kornia", "scikit-learn", "scipy", "alphacl-plugins",
    "sentence-transformers", "transformers", "pytorch-metric-learning", "open_clip_torch",
)  # fmt: skip


def environment(*more: str) -> dict[str, Any]:
    """Return versions, those of further packages too, processor and commit."""
    versions = {name: _version(name) for name in (*PACKAGES, *more)}
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": COMMIT,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit(folder: Path) -> str | None:
    """Return a checkout's commit, with "-dirty" after it where files differ; None outside a checkout or without git.

    What a run writes into results/ while it is measured does not count.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def check_writable(folder: Path) -> None:
    """Raise OSError unless files can be written in a folder, which need not exist: before hours go into them."""
    place = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(f"output: expected a folder that can be written, got {folder} ({error.strerror})") from error


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its final name, then rename it: a run that is cut off never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text."""
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace a file by JSON; paths are written as text, and a number that is not finite is a ValueError."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False, default=os.fspath) + "\n")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from the folder of a run; the system lets go of it when a process ends, however it does.

    Raises: OSError if it cannot be written; ValueError if another process has it.
    """
    from filelock import FileLock, Timeout

    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            for part in folder.glob(".*.ckpt"):  # half of a checkpoint, of a run that was killed
                part.unlink()
            yield
    except Timeout as error:
        raise ValueError(
            f"output: expected a folder in which nothing runs, got {folder}, where a run is going on"
        ) from error


COMMIT = commit(Path(__file__).parent)
"""Of the code that runs, from its import: the checkout may have moved on when a long run ends."""
