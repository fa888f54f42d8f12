"""CLIP's loss with a strategy in place of the softmax, by the call of ``open_clip.ClipLoss``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn
from torch.nn.functional import softplus

import alphacl_plugins
from alphacl_open_clip.model_scale import ModelScale
from alphacl_plugins.checks import is_scalar
from alphacl_plugins.distributed import world_size
from alphacl_plugins.functional import paired_squared_distances
from alphacl_plugins.options import BlockSize
from alphacl_plugins.strategies import AnyStrategy, Sigmoid, resolve_strategy

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Unpack

    from alphacl_plugins.strategies import StrategyOptions

_SCALED = ("tau", "t", "b", "learn", "learnable_tau", "effective_share")  # what the model decides


class ClipLoss(nn.Module):
    """Pair-weighted contrastive loss of images and texts, in place of ``open_clip.ClipLoss`` or ``SigLipLoss``.

    ``ClipLoss("infonce")`` is CLIP's loss, ``ClipLoss("sigmoid", symmetric=False)`` SigLIP's. The temperature is the
    model's, ``τ = 1 / logit_scale``, and its parameter learns from ``L/τ``. A strategy without a loss of its own
    (direct, inverse) gives ``logit_scale`` the gradient ``-E``: it rises while texts are closer to their own images
    than to the others by weight, so clamp it, as CLIP does.

    Args:
        strategy: a registered name, an import path, or a strategy object with a temperature, or sigmoid. ``tau`` (t and
            b of sigmoid) come from the model.
        symmetric: anchors are images and texts; False: images alone.
        gather_distributed: negatives of all ranks, exactly: "auto", if there are several; True; "ring"; False.
            open_clip's local_loss=True with gather_with_grad=True has the same gradient; its defaults have not.
        process_group: the processes that gather; None: all.
        block_size: as `alphacl_plugins.AlphaCLLoss`; memory is linear in the batch.
        **options: of a strategy given by name.

    Raises:
        TypeError, ValueError: an option is not these, or belongs to the model.

    Source:
        Tian (2022), arXiv:2201.12680, Definition 1; Radford et al. (2021), CLIP, for the scale.

    Examples:
        >>> import torch
        >>> round(ClipLoss("infonce")(torch.eye(3), torch.eye(3), torch.tensor(1.0)).item(), 4)  # log(1 + 2/e)
        0.5514
    """

    def __init__(
        self,
        strategy: str | AnyStrategy = "infonce",
        *,
        symmetric: bool = True,
        gather_distributed: bool | Literal["auto", "ring"] = "auto",
        process_group: ProcessGroup | DeviceMesh | None = None,
        block_size: BlockSize = "auto",
        **options: Unpack[StrategyOptions],
    ) -> None:
        super().__init__()
        own = [name for name in _SCALED if name in options]
        if own:
            raise TypeError(f"{own[0]}: expected none, as the model's logit_scale and logit_bias decide, got one")
        self.criterion = alphacl_plugins.AlphaCLLoss(
            ModelScale(resolve_strategy(strategy, options)),
            negatives="cross",
            symmetric=symmetric,
            l2_normalize=False,
            gather_distributed=gather_distributed,
            process_group=process_group,
            block_size=block_size,
            scale="ntxent",
        )

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            image_features: ``[N, D]``, of length 1, as the models return them.
            text_features: likewise.
            logit_scale: 1/τ, ``[]`` or ``[1]``, with its graph: ``model.logit_scale.exp()``.
            logit_bias: b of sigmoid; it has no effect on a softmax.
            output_dict: return ``{"contrastive_loss": loss}``.
        """
        for name, scalar in (("logit_scale", logit_scale), ("logit_bias", logit_bias)):
            if scalar is not None and not (
                isinstance(scalar, Tensor) and scalar.numel() == 1 and is_scalar(scalar.view(()))
            ):
                raise TypeError(f"{name}: expected a floating-point tensor of one number, got {scalar!r}")
        if logit_bias is None and isinstance(self.criterion.strategy.strategy, Sigmoid):
            raise TypeError("logit_bias: expected a tensor with sigmoid, from a model that has one, got None")
        strategy = self.criterion.strategy
        strategy.follow(logit_scale, logit_bias)
        try:
            alone = len(image_features) == len(text_features) == 1
            if alone and world_size(self.criterion.gathering_group()) == 1:
                loss = self._of_one_pair(image_features, text_features, logit_scale, logit_bias)
            else:
                loss = self.criterion(image_features, text_features)
        finally:
            strategy.follow(None)
        if logit_bias is not None and not isinstance(strategy.strategy, Sigmoid):
            loss = loss + 0 * logit_bias.sum()  # a gradient of 0, which DDP waits for
        return {"contrastive_loss": loss} if output_dict else loss

    def _of_one_pair(self, image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor | None) -> Tensor:
        """Return the loss of a pair without negatives: 0, or of sigmoid that of the positive."""
        cosine = 1 - paired_squared_distances(image, text)
        if isinstance(self.criterion.strategy.strategy, Sigmoid) and logit_bias is not None:
            return softplus(-(logit_scale.reshape(()) * cosine + logit_bias.reshape(()))).mean()
        return 0 * (logit_scale.reshape(()) * cosine).mean()
