"""create_backbone: the small stem, what pretrained weights become, the probed width, and every refusal."""

import random

import pytest
import timm
import torch
from timm.models import ResNet, list_models, list_modules
from torch import nn
from torch.testing import assert_close

from alphacl_timm import backbone, create_backbone

# One of each stem and pooling (plain, deep, tiered; average, blur, learned pool) and of each module.
KINDS = [
    "resnet18",
    "resnet18d",
    "resnet10t",
    "test_resnet",
    "resnext50_32x4d",
    "resnetaa34d",
    "resnetblur18",
    "resnetrs50",
    "resnest14d",
    "skresnet18",
    "res2net50_48w_2s",
]


def stem(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.maxpool(model.act1(model.bn1(model.conv1(images))))


@pytest.mark.parametrize("image_size", [8, 32, 64])
@pytest.mark.parametrize("name", KINDS)
def test_small_images_keep_their_resolution_through_the_stem(name, image_size):
    model = create_backbone(name, image_size).eval()
    images = torch.rand(1, 3, image_size, image_size)
    assert stem(model, images).shape[2:] == (image_size, image_size)
    assert model(images).shape == (1, model.num_features)


@pytest.mark.parametrize("name", KINDS)
def test_larger_images_keep_the_stem_of_timm(name):
    ours, theirs = create_backbone(name, 65), timm.create_model(name, num_classes=0)
    assert repr(ours) == repr(theirs)
    assert stem(ours.eval(), torch.rand(1, 3, 96, 96)).shape[2:] == (24, 24)


@pytest.mark.parametrize("name", list_models(module=list(backbone.RESNET_MODULES)))
def test_every_model_of_the_modules_is_a_resnet_with_a_stem_we_know(name):
    with torch.device("meta"):  # shapes alone, no weights
        model = timm.create_model(name, num_classes=0)
        assert isinstance(model, ResNet)
        backbone._shrink_stem(model, keep_kernel=False)
        assert stem(model, torch.rand(2, 3, 32, 32)).shape[2:] == (32, 32)


def test_no_other_module_of_timm_builds_resnets():
    holders = {
        module for module in list_modules() if getattr(getattr(timm.models, module, None), "ResNet", None) is ResNet
    }
    assert set(backbone.RESNET_MODULES) == holders


def test_the_plain_stem_is_a_3x3_convolution_of_stride_1_without_pooling():
    model = create_backbone("resnet18", 32)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert model.conv1.bias is None
    assert isinstance(model.maxpool, nn.Identity)


def test_a_pooling_that_is_learned_stays_with_stride_1():
    model, standard = create_backbone("resnetrs50", 32), timm.create_model("resnetrs50", num_classes=0)
    assert model.maxpool[0].stride == (1, 1)
    assert model.state_dict().keys() == standard.state_dict().keys()


def test_a_fresh_kernel_is_initialised_as_timm_does():
    weight = create_backbone("resnet18", 32).conv1.weight
    fan_out = 64 * 3 * 3
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)  # 1728 draws: 6 standard errors
    assert weight.mean().item() == pytest.approx(0, abs=0.01)


def fake_pretrained(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Stand in for timm's download: the returned weights are what create_model(pretrained=True) then gives."""
    trained = timm.create_model("resnet18", num_classes=0)
    create_model = timm.create_model

    def offline(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        model = create_model(name, num_classes=num_classes)
        if pretrained:
            model.load_state_dict(trained.state_dict())
        return model

    monkeypatch.setattr(timm, "create_model", offline)
    return trained.state_dict()


def test_pretrained_keeps_the_centre_of_the_kernel_and_every_other_weight(monkeypatch):
    trained = fake_pretrained(monkeypatch)
    ours = create_backbone("resnet18", 32, pretrained=True).state_dict()
    centre = trained.pop("conv1.weight")[:, :, 2:5, 2:5]
    assert_close(ours.pop("conv1.weight"), centre, rtol=0, atol=0)
    assert_close(ours, trained, rtol=0, atol=0)


def test_pretrained_at_96_pixels_is_the_model_of_timm(monkeypatch):
    trained = fake_pretrained(monkeypatch)
    assert_close(create_backbone("resnet18", 96, pretrained=True).state_dict(), trained, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["test_resnet", "resnet18"])
def test_num_features_is_the_width_of_the_output_whatever_timm_says(name, monkeypatch):
    create_model = timm.create_model

    def mistaken(*args: object, **options: object) -> nn.Module:
        model = create_model(*args, **options)
        model.num_features += 1
        return model

    monkeypatch.setattr(timm, "create_model", mistaken)
    model = create_backbone(name, 32)
    assert model.num_features == model(torch.rand(2, 3, 32, 32)).shape[1]


def test_probing_leaves_statistics_and_training_mode_alone():
    model = create_backbone("resnet18", 32)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.num_batches_tracked == 0 and (layer.running_mean == 0).all() for layer in norms)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_building_draws_only_the_random_numbers_that_weights_need():
    random.seed(0)
    torch.manual_seed(0)
    create_backbone("resnet18", 32)
    ours, python_state = torch.get_rng_state(), random.getstate()
    torch.manual_seed(0)
    timm.create_model("resnet18", num_classes=0)
    nn.init.kaiming_normal_(torch.empty(64, 3, 3, 3))
    assert torch.equal(ours, torch.get_rng_state())
    random.seed(0)
    assert python_state == random.getstate()


def test_a_seed_gives_the_same_weights():
    def build() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return create_backbone("resnet18", 32).state_dict()

    assert_close(build(), build(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "resnetv2_50", "mobilenetv3_small_100", "convnext_tiny"])
def test_another_family_is_refused_before_anything_is_built(name, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: pytest.fail("built a model to refuse it"))
    with pytest.raises(ValueError, match=f"ResNet family .*res2net, resnest, resnet, sknet.* got '{name}'"):
        create_backbone(name)


def test_a_model_of_another_family_under_an_old_name_is_refused():
    with (
        pytest.warns(UserWarning, match="deprecated model name"),
        pytest.raises(ValueError, match="ResNet family"),
    ):
        create_backbone("tv_densenet121")


def test_an_unknown_name_brings_close_ones():
    with pytest.raises(ValueError, match="got 'resnt18'; close names: resnet18"):
        create_backbone("resnt18")
    with pytest.raises(ValueError, match=r"expected a timm model name, got '%%'$"):
        create_backbone("%%")


def test_an_unknown_tag_brings_the_known_ones():
    with pytest.raises(ValueError, match=r"tags a1_in1k, .* for resnet18, got 'resnet18.nothing'"):
        create_backbone("resnet18.nothing")


@pytest.mark.parametrize("image_size", [0, -32])
def test_a_size_that_is_not_positive_is_refused(image_size):
    with pytest.raises(ValueError, match=f"image_size: expected an int >= 1, got {image_size}"):
        create_backbone("resnet18", image_size)


@pytest.mark.parametrize("image_size", [32.0, "32", True, None, (32, 32)])
def test_a_size_that_is_not_an_int_is_refused(image_size):
    with pytest.raises(TypeError, match="image_size: expected an int, got"):
        create_backbone("resnet18", image_size)


def test_a_size_the_model_cannot_process_is_named():
    with pytest.raises(ValueError, match="image_size: expected a size that resnetblur18 can process, got 1"):
        create_backbone("resnetblur18", 1)


def test_a_stem_of_unknown_form_is_refused(monkeypatch):
    create_model = timm.create_model

    def odd(*args: object, **options: object) -> nn.Module:
        model = create_model(*args, **options)
        model.act1 = nn.AvgPool2d(2)
        return model

    monkeypatch.setattr(timm, "create_model", odd)
    with pytest.raises(ValueError, match="whose stem is a known form, got 'resnet18'"):
        create_backbone("resnet18", 32)
