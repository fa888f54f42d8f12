"""α-CL for lightly: a drop-in for ``lightly.loss.NTXentLoss`` and ``DCLLoss``."""

from alphacl_lightly.loss import AlphaCLLoss

__all__ = ["AlphaCLLoss"]
