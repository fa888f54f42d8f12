"""α-CL for CLIP: a drop-in for ``open_clip.ClipLoss`` and ``SigLipLoss``, for any model that owns a ``logit_scale``."""

from alphacl_open_clip.loss import ClipLoss

__all__ = ["ClipLoss"]
