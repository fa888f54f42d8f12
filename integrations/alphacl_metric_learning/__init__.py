"""α-CL for pytorch-metric-learning: a pair loss that takes its distances, miners, reducers and wrappers."""

from alphacl_metric_learning.loss import AlphaCLLoss
from alphacl_metric_learning.wrappers import CrossBatchMemory, SelfSupervisedLoss

__all__ = ["AlphaCLLoss", "CrossBatchMemory", "SelfSupervisedLoss"]
