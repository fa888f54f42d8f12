"""α-CL for lightly: a drop-in for ``NTXentLoss`` and ``DCLLoss``, and a monitor for any Lightning module."""

from typing import TYPE_CHECKING, Any

from alphacl_lightly.loss import AlphaCLLoss

if TYPE_CHECKING:
    from alphacl_lightly.embedding import Embedded
    from alphacl_lightly.monitor import RepresentationMonitor

__all__ = ["AlphaCLLoss", "Embedded", "RepresentationMonitor"]


def __getattr__(name: str) -> Any:
    """Import the monitor, which needs Lightning, when it is asked for."""
    if name in ("Embedded", "RepresentationMonitor"):
        from alphacl_lightly import monitor

        return getattr(monitor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
