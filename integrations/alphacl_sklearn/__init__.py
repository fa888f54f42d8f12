"""Contrastive PCA as a scikit-learn estimator: ``ContrastivePCA(n_components=16).fit_transform(X)``."""

from alphacl_sklearn.contrastive_pca import ContrastivePCA

__all__ = ["ContrastivePCA"]
