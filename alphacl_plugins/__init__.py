"""α-CL: contrastive losses by choosing which pairs of samples the gradient should care about."""

from alphacl_plugins import metrics, spectral, strategies
from alphacl_plugins.functional import contrastive_covariance, energy, squared_distances
from alphacl_plugins.loss import AlphaCLLoss
from alphacl_plugins.queue import EmbeddingQueue
from alphacl_plugins.rows import row_losses
from alphacl_plugins.strategies import PairWeights, build_strategy, register_strategy, strategy_names

__version__ = "0.1.0"

__all__ = [
    "AlphaCLLoss",
    "EmbeddingQueue",
    "PairWeights",
    "build_strategy",
    "contrastive_covariance",
    "energy",
    "metrics",
    "register_strategy",
    "row_losses",
    "spectral",
    "squared_distances",
    "strategies",
    "strategy_names",
]
