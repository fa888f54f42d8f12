"""pytorch-metric-learning's wrappers, which look a loss up by the name of its class."""

from typing import Any

from pytorch_metric_learning import losses

from alphacl_metric_learning.loss import AlphaCLLoss


class SelfSupervisedLoss(losses.SelfSupervisedLoss):  # type: ignore[misc]  # the host has no types
    """The host's wrapper for two views, around `AlphaCLLoss` as around the host's own losses."""

    @staticmethod
    def supported_losses() -> list[Any]:
        """Return the names of the losses that it takes."""
        return [*losses.SelfSupervisedLoss.supported_losses(), AlphaCLLoss.__name__]


class CrossBatchMemory(losses.CrossBatchMemory):  # type: ignore[misc]  # the host has no types
    """The host's memory of earlier batches, around `AlphaCLLoss` as around the host's own losses."""

    @staticmethod
    def supported_losses() -> list[Any]:
        """Return the names of the losses that it takes."""
        return [*losses.CrossBatchMemory.supported_losses(), AlphaCLLoss.__name__]
