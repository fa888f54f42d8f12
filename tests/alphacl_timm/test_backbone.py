"""create_backbone: ResNet's stem, the choice of stem, the probed width, what a model can do, and every refusal."""

import copy
import pickle
import random

import pytest
import timm
import torch
from timm.models import ResNet, register_model
from timm.models.resnet import BasicBlock
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


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {}), ("convnext_atto", {}), ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4})],
)
def test_building_draws_only_the_random_numbers_that_timm_draws(name, options):
    random.seed(0)
    torch.manual_seed(0)
    create_backbone(name, 32)
    ours, python_state = torch.get_rng_state(), random.getstate()
    torch.manual_seed(0)
    timm.create_model(name, num_classes=0, **options)
    assert torch.equal(ours, torch.get_rng_state())
    random.seed(0)
    assert python_state == random.getstate()


def test_a_seed_gives_the_same_weights():
    def build() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return create_backbone("resnet18", 32).state_dict()

    assert_close(build(), build(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_keep_is_the_model_of_timm_and_small_holds_at_any_size(name):
    standard = timm.create_model(name, num_classes=0)
    assert repr(create_backbone(name, 32, stem="keep")) == repr(standard)
    with torch.device("meta"):
        small = create_backbone(name, 128, stem="small").eval()
        map_side = small.forward_features(torch.zeros(1, 3, 128, 128)).shape[-1]
    assert map_side == {"resnet18": 16, "convnext_atto": 8}[name]


def test_keep_leaves_the_patches_of_a_transformer():
    vit = create_backbone("vit_tiny_patch16_224", 32, stem="keep")
    assert vit.patch_embed.proj.kernel_size == (16, 16)
    assert vit(torch.rand(1, 3, 32, 32)).shape == (1, 192)


def test_windows_are_an_eighth_of_the_map():
    def windows(image_size: int, **options: str) -> tuple[int, int]:
        with torch.device("meta"):
            model = create_backbone("swin_tiny_patch4_window7_224", image_size, **options)
        return model.layers[0].blocks[0].window_size

    assert windows(32) == windows(64) == (4, 4)
    assert windows(96) == (3, 3)  # maps of 24, 12, 6, 3
    assert windows(224) == (7, 7)
    assert windows(224, stem="small") == (14, 14)


def test_patches_divide_the_image():
    def patch(image_size: int, **options: str) -> int:
        with torch.device("meta"):
            return create_backbone("vit_tiny_patch16_224", image_size, **options).patch_embed.patch_size[0]

    assert [patch(size) for size in (8, 28, 32, 36, 48, 50, 64)] == [1, 4, 4, 4, 6, 5, 8]
    assert patch(96) == 16
    assert patch(96, stem="small") == 8


def test_a_model_without_a_small_stem_is_built_as_it_is():
    with torch.device("meta"):
        assert repr(create_backbone("pvt_v2_b0", 32)) == repr(timm.create_model("pvt_v2_b0", num_classes=0))


def test_a_model_whose_attention_pools_is_built_for_its_larger_map():
    with torch.device("meta"):
        model = create_backbone("resnet50_clip", 32)
    assert model.head.pos_embed.shape[0] == 4 * 4 + 1


def test_an_old_name_has_the_stem_of_the_new_one():
    with pytest.warns(UserWarning, match="deprecated model name"):
        assert create_backbone("tv_resnet50", 32).conv1.kernel_size == (3, 3)


def test_a_model_of_the_users_has_the_stem_of_its_class(monkeypatch):
    def my_resnet(pretrained: bool = False, num_classes: int = 1000, **options: object) -> nn.Module:
        return ResNet(BasicBlock, [1, 1, 1, 1], num_classes)

    register_model(my_resnet)
    assert create_backbone("my_resnet", 32).conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "test_vit"])
def test_a_backbone_can_be_copied_pickled_and_saved(name, tmp_path):
    torch.manual_seed(0)
    model, images = create_backbone(name, 32).eval(), torch.rand(2, 3, 32, 32)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = create_backbone(name, 32).eval()
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
            assert_close(twin(images), model(images), rtol=0, atol=0)
            assert twin.num_features == model.num_features


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "test_efficientnet", "test_vit", "vgg11_bn"])
def test_a_backbone_compiles_without_a_graph_break(name):
    model, images = create_backbone(name, 32).eval(), torch.rand(2, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(images), model(images))


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
    with pytest.raises(TypeError, match="image_size: expected an int >= 1, got"):
        create_backbone("resnet18", image_size)


def test_a_size_the_model_cannot_process_is_named():
    with pytest.raises(ValueError, match="image_size: expected a size that resnetblur18 can process, got 1"):
        create_backbone("resnetblur18", 1)


def test_the_reason_of_a_family_is_named():
    expected = "image_size: expected a size that inception_v3 can process .*are not padded.*, got 32: RuntimeError"
    with torch.device("meta"), pytest.raises(ValueError, match=expected):
        create_backbone("inception_v3", 32)


@pytest.mark.parametrize("stem", ["auto", "keep"])
def test_an_image_that_patches_do_not_divide_is_refused(stem):
    expected = "image_size: expected a multiple of 14, the patch of vit_small_patch14_dinov2, or a small stem, got 96"
    with torch.device("meta"), pytest.raises(ValueError, match=expected):
        create_backbone("vit_small_patch14_dinov2", 96, stem=stem)


@pytest.mark.parametrize("stem", ["tiny", None, 3])
def test_an_unknown_stem_is_refused(stem):
    with pytest.raises(ValueError, match=f"stem: expected one of 'auto', 'keep', 'small', got {stem!r}"):
        create_backbone("resnet18", stem=stem)


@pytest.mark.parametrize(("name", "reason"), [("pvt_v2_b0", ""), ("crossvit_9_240", ".*patches of 12 and 16 px")])
def test_a_small_stem_that_a_family_does_not_have_is_refused(name, reason):
    with pytest.raises(
        ValueError, match=f"stem: expected 'auto' or 'keep', as {name} has no small stem{reason}.*'small'"
    ):
        create_backbone(name, stem="small")


def test_a_model_that_does_not_give_one_vector_is_refused():
    expected = r"name: expected a model that gives one vector per image, got 'qwen3_vit_88m_enc', .* \[2, 1, 1024\]"
    with torch.device("meta"), pytest.raises(ValueError, match=expected):
        create_backbone("qwen3_vit_88m_enc", 32)


def test_weights_that_timm_does_not_have_are_refused():
    expected = "pretrained: expected False, as timm has no weights for regnetz_005, got True"
    with pytest.raises(ValueError, match=expected):
        create_backbone("regnetz_005", pretrained=True)


def test_a_name_that_timm_has_removed_is_refused(monkeypatch):
    monkeypatch.setattr(backbone, "get_deprecated_models", lambda: {"resnet18": None})
    with pytest.raises(ValueError, match="name: expected a timm model name, got 'resnet18', which timm has removed"):
        create_backbone("resnet18")
