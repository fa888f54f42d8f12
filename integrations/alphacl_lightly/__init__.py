"""α-CL for lightly: a drop-in for ``NTXentLoss`` and ``DCLLoss``, and a monitor for any Lightning module."""

from typing import Any

from alphacl_lightly.loss import AlphaCLLoss

__all__ = ["AlphaCLLoss", "RepresentationMonitor"]


def __getattr__(name: str) -> Any:
    """Import the monitor, which needs Lightning, when it is asked for."""
    if name == "RepresentationMonitor":
        from alphacl_lightly.monitor import RepresentationMonitor

        return RepresentationMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
