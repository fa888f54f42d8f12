"""CLIP's symmetric cross entropy is InfoNCE across two modalities: τ times it, value and gradient."""

import pytest
import torch
from oracles import random_views, relative_error
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.strategies import InfoNCE


def clip_loss(images: Tensor, texts: Tensor, tau: float) -> Tensor:
    """Each image is classified among all texts, each text among all images."""
    logits = normalize(images, dim=1) @ normalize(texts, dim=1).T / tau
    partners = torch.arange(len(images))
    return (cross_entropy(logits, partners) + cross_entropy(logits.T, partners)) / 2


@pytest.mark.parametrize("tau", [0.01, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_infonce_across_modalities_is_tau_times_clip(seed, tau):
    images, texts = random_views(seed, n=9, d=5)
    ours = AlphaCLLoss(InfoNCE(tau, eps=1), negatives="cross", symmetric=True)(images, texts)
    theirs = tau * clip_loss(images, texts, tau)
    assert relative_error(ours, theirs) < 1e-12
    for got, expected in zip(
        torch.autograd.grad(ours, (images, texts)), torch.autograd.grad(theirs, (images, texts)), strict=True
    ):
        assert relative_error(got, expected) < 1e-12
