"""Pictures of α and of embeddings, each with how to read it: ``pip install "alphacl-plugins[plots]"``.

Every function draws into the axes it is given, or into a figure of its own, and returns the axes:
``plots.alpha_curves(["infonce", "square"]).figure.savefig("alpha.png", dpi=150)``.
"""

from alphacl_plugins.plots.alpha import alpha_curves, alpha_heatmap, effective_negatives
from alphacl_plugins.plots.embeddings import similarities, singular_values
from alphacl_plugins.plots.training import CURVES, training_curves

__all__ = [
    "CURVES",
    "alpha_curves",
    "alpha_heatmap",
    "effective_negatives",
    "similarities",
    "singular_values",
    "training_curves",
]
