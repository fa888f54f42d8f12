"""The recipes against the paper's protocol, written out again here."""

import math

import pytest
import torch
import torchvision
from torch import nn

from recipe import protocol
from recipe.data import Data, Images
from recipe.network import Network
from recipe.pretraining import Pretraining
from recipe.settings import Settings


def images(n, side, classes=10):
    return Images(torch.zeros(n, 3, side, side, dtype=torch.uint8), torch.arange(n) % classes)


@pytest.fixture
def small():
    none = Images(torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    return Data(images(128 * 390 + 80, 32), images(20, 32), none, tuple("0123456789"), "nothing")


@pytest.fixture
def module(small):
    return Pretraining(Settings(), protocol.DATASETS["cifar10"], small)


def test_adam_without_weight_decay(module):
    optimizer = module.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.01, 0, (0.9, 0.999))
    assert {id(p) for p in group["params"]} == {id(p) for p in module.network.parameters()}


def test_batches_of_128_and_none_smaller(module):
    assert module.settings.batch_size == 128
    assert len(module.steps) == 390  # 50,000 / 128, the last 80 images of the order left out


@pytest.mark.parametrize("epoch", [0, 10, 11, 50, 99, 400])
@pytest.mark.parametrize(("backbone", "first"), [("resnet18", 0.01), ("resnet50", 0.001)])
def test_the_learning_rate_of_an_epoch(epoch, backbone, first, module):
    module.settings = Settings(backbone=backbone)
    expected = first if epoch <= 10 else first * (1 + math.cos(math.pi * (epoch - 10) / 390)) / 2
    assert module.rate(epoch) == pytest.approx(expected, rel=1e-12)


def test_the_head():
    head = Network("test_resnet", 32, (0.0,) * 3, (1.0,) * 3).head.layers
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert (head[0].out_features, head[1].num_features, head[1].affine) == (512, 512, False)
    assert (head[3].in_features, head[3].out_features) == (512, 128)
    assert head[0].bias is not None
    assert head[3].bias is not None


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_stem(backbone):
    cifar = Network(backbone, 32, (0.0,) * 3, (1.0,) * 3).backbone
    stl = Network(backbone, 96, (0.0,) * 3, (1.0,) * 3).backbone
    assert (cifar.conv1.kernel_size, cifar.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(cifar.maxpool, nn.Identity)
    assert (stl.conv1.kernel_size, stl.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(stl.maxpool, nn.MaxPool2d)
    assert cifar.num_features == stl.num_features == {"resnet18": 512, "resnet50": 2048}[backbone]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_residual_branches_are_open_as_in_torchvisions_networks(backbone):
    ours = Network(backbone, 32, (0.0,) * 3, (1.0,) * 3).backbone
    theirs = torchvision.models.get_model(backbone)
    for network in (ours, theirs):
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == {"resnet18": 20, "resnet50": 53}[backbone]
        assert all((norm.weight == 1).all() for norm in norms)


def test_images_are_normalised_as_the_data_set_says():
    dataset = protocol.DATASETS["cifar10"]
    network = Network("test_resnet", 32, dataset.mean, dataset.std)
    seen = []
    network.backbone = nn.Module()
    network.backbone.forward = lambda pixels: seen.append(pixels) or pixels
    network.features(torch.full((1, 3, 32, 32), 0.5))
    expected = [(0.5 - mean) / std for mean, std in zip(dataset.mean, dataset.std, strict=True)]
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_each_view_passes_the_network_by_itself(module, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "_views", lambda step: torch.stack([torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 32, 32)])
    )
    monkeypatch.setattr(module, "network", nn.Module())
    module.network.forward = lambda view: seen.append(view) or torch.rand(4, 128, requires_grad=True)
    monkeypatch.setattr(module, "_seed", lambda *_: 0)
    monkeypatch.setattr(Pretraining, "global_rank", 0)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    module.training_step(0, 0)
    assert [view.mean().item() for view in seen] == [0.0, 1.0]


def test_the_losses_of_table_1():
    def described(**options):
        criterion = Settings(**options).criterion()
        return repr(criterion.strategy), criterion.detach_alpha

    assert described() == ("Direct(tau=0.5, p=4.0, normalize=True)", True)
    assert described(loss="infonce") == ("InfoNCE(tau=0.5, eps=1.0)", True)
    assert described(loss="backprop") == ("InfoNCE(tau=0.5, eps=1.0)", False)
    assert described(loss="quadratic") == ("Uniform()", True)
    assert described(strategy="entropy") == ("Entropy(tau=0.5)", True)
    assert described(strategy="inverse") == ("Inverse(tau=0.5, gamma=2.0)", True)
    assert described(strategy="square") == ("Square(tau=5.0)", True)


def test_cosine_similarity_and_both_views_as_anchors():
    criterion = Settings().criterion()
    assert (criterion.l2_normalize, criterion.symmetric, criterion.negatives) == (True, True, "both")


def test_the_probe():
    probe = protocol.PROBE
    assert (probe.learning_rate, probe.weight_decay, probe.batch_size, probe.epochs) == (3e-4, 1e-3, 128, 50)


def test_evaluations_after_100_300_and_500_epochs():
    assert Settings().epochs == 500
    assert Settings().milestones == (100, 300, 500)
    assert Settings(epochs=200).milestones == (100, 200)
    assert Settings(epochs=1).milestones == (1,)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_views_of_cifar(name):
    dataset = protocol.DATASETS[name]
    views = dataset.augmentation
    assert dataset.image_size == 32
    assert (views.crop_scale, views.flip, views.grayscale, views.blur) == ((0.08, 1.0), 0.5, 0.2, 0.0)
    jitter = views.jitter
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.4, 0.4, 0.1)
    assert views.jitter_probability == 0.8
    assert dataset.std != (1.0, 1.0, 1.0)  # normalised


def test_the_views_of_stl10():
    dataset = protocol.DATASETS["stl10"]
    views = dataset.augmentation
    assert dataset.image_size == 96
    assert (views.flip, views.grayscale, views.jitter_probability) == (0.5, 0.2, 0.8)
    jitter = views.jitter
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (views.blur, views.blur_kernel, views.blur_sigma) == (0.5, 9, (0.1, 2.0))
    assert (dataset.mean, dataset.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # not normalised
    assert dataset.unlabeled == 100_000
