"""Warnings that point at the user's own line, however many libraries lie in between."""

import sys
import warnings
from collections.abc import Collection

SKIPPED = ("alphacl_plugins", "alphacl_lightly", "torch")


def warn_caller(message: str, category: type[Warning], skip: Collection[str] = SKIPPED) -> None:
    """Warn as if from the innermost line outside some packages.

    Args:
        message: what to say.
        category: of the warning.
        skip: top-level packages whose lines are not the caller's. An adapter names itself and its host as well.
    """
    level = 1
    while _package(level + 1) in skip:
        level += 1
    warnings.warn(message, category, stacklevel=level + 1)


def _package(level: int) -> str:
    try:
        name: str = sys._getframe(level).f_globals.get("__name__", "")
    except ValueError:  # no more frames
        return ""
    return name.partition(".")[0]
