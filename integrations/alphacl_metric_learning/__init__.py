"""α-CL for pytorch-metric-learning: a pair loss that takes its distances, miners, reducers and wrappers."""

import inspect

TRIED = "2.9"
"""The version of pytorch-metric-learning that this adapter was tried with."""

try:
    from pytorch_metric_learning.losses import GenericPairLoss

    if "mat_based_loss" not in inspect.signature(GenericPairLoss.__init__).parameters:
        raise ImportError("GenericPairLoss has no option mat_based_loss")
except ImportError as error:
    raise ImportError(
        f"alphacl_metric_learning: expected pytorch-metric-learning {TRIED}, the version that it was tried with; "
        f"pip install 'alphacl-plugins[metric-learning]' ({error})"
    ) from error

from alphacl_metric_learning.loss import AlphaCLLoss  # noqa: E402
from alphacl_metric_learning.wrappers import CrossBatchMemory, SelfSupervisedLoss  # noqa: E402

__all__ = ["AlphaCLLoss", "CrossBatchMemory", "SelfSupervisedLoss"]
