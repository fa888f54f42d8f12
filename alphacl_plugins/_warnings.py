"""Warnings that point at the line of the user, however many libraries lie between."""

import sys
import warnings

LIBRARIES = ("alphacl_plugins", "alphacl_sklearn", "sklearn", "joblib", "torch")


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn as if from the innermost line that is in none of ``LIBRARIES``."""
    level = 1
    while _package(level + 1) in LIBRARIES:
        level += 1
    warnings.warn(message, category, stacklevel=level + 1)


def _package(level: int) -> str:
    try:
        name: str = sys._getframe(level).f_globals.get("__name__", "")
    except ValueError:  # no more frames
        return ""
    return name.partition(".")[0]
