"""Contrastive PCA: the max player of a linear network in closed form (Sec. 4 of the paper).

The covariance X_α (`covariance`; its α in `blocks`), its eigenvectors (`eigen`), the best embedding for a
fixed α (`pca`), and α and embedding by turns (`turns`).
"""

from alphacl_plugins.spectral.covariance import ContrastiveCovariance
from alphacl_plugins.spectral.eigen import Eigenstructure, leading_eigenvectors
from alphacl_plugins.spectral.pca import contrastive_pca
from alphacl_plugins.spectral.turns import Turns, take_turns

__all__ = [
    "ContrastiveCovariance",
    "Eigenstructure",
    "Turns",
    "contrastive_pca",
    "leading_eigenvectors",
    "take_turns",
]
