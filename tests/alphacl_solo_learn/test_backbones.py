"""``backbone: {name: timm/...}`` in solo-learn's tables."""

import pytest
import torch
from solo_clone import build, load_solo, needs_clone, small_config, unchanged_timm
from timm import models
from torch import nn

import alphacl_timm
from alphacl_solo_learn.backbones import timm_backbone

pytestmark = needs_clone


@pytest.fixture(scope="module")
def solo():
    return load_solo()


def built_for(backbone):
    return bytes(backbone.built_for.tolist()).decode()


def with_backbone(method, name, **changes):
    return small_config(method, backbone={"name": name}, **changes)


@pytest.mark.parametrize("method", ["simclr", "mocov3", "byol", "alpha_cl"])
def test_a_timm_name_is_a_backbone_of_any_method_for_the_size_of_its_crops(solo, method):
    cfg = with_backbone(method, "timm/test_resnet", augmentations=[{"crop_size": 48}])
    model = build(solo.METHODS[method], cfg)
    assert isinstance(model.backbone, models.ResNet)
    assert model.features_dim == model.backbone.num_features == 96
    assert built_for(model.backbone) == "image_size=48, stem=auto"
    assert cfg.backbone.kwargs.image_size == 48  # and so in args.json, from which main_knn.py reads
    out = model(torch.rand(2, 3, 48, 48, dtype=torch.float64))
    assert out["feats"].shape == (2, 96)
    if hasattr(model, "momentum_backbone"):
        assert isinstance(model.momentum_backbone, models.ResNet)
        for online, momentum in zip(model.backbone.parameters(), model.momentum_backbone.parameters(), strict=True):
            assert torch.equal(online, momentum)


def test_a_size_of_ones_own_is_kept_and_solo_learns_backbones_are_left_alone(solo):
    changes = {
        "augmentations": [{"crop_size": 48}],
        "backbone": {"name": "timm/test_resnet", "kwargs": {"image_size": 32}},
    }
    model = build(solo.METHODS["simclr"], small_config("simclr", **changes))
    assert built_for(model.backbone) == "image_size=32, stem=auto"
    cfg = with_backbone("simclr", "resnet18", augmentations=[{"crop_size": 48}])
    assert isinstance(build(solo.METHODS["simclr"], cfg).backbone.fc, nn.Identity)
    assert cfg.backbone.kwargs == {}


def test_the_table_holds_solo_learns_names_and_timms(solo):
    table = solo.BaseMethod._BACKBONES
    assert "resnet18" in table
    assert "timm/resnet18" in table
    assert "resnet19" not in table
    with pytest.raises(KeyError, match="resnet19"):
        table["resnet19"]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet19", {}, "^backbone timm/resnet19: name: expected a timm model name, .*close names: .*resnet18"),
        ("test_resnet", {"image_size": 0}, "^backbone timm/test_resnet: image_size: expected an int >= 1, got 0"),
        ("test_resnet", {"no_such": 3}, "no_such"),
    ],
)
def test_what_timm_cannot_build_is_one_readable_error(solo, name, kwargs, message):
    cfg = small_config("simclr", backbone={"name": f"timm/{name}", "kwargs": kwargs})
    with pytest.raises((ValueError, TypeError), match=message):
        build(solo.METHODS["simclr"], cfg)


@pytest.mark.parametrize("other", [{"image_size": 48}, {"stem": "keep"}, {"global_pool": "max"}])
def test_weights_know_what_they_were_trained_for(other):
    trained = timm_backbone("test_resnet", method="simclr", image_size=32, drop_path_rate=0.1)
    timm_backbone("test_resnet", method="simclr", image_size=32).load_state_dict(trained.state_dict())
    got = ", ".join(f"{name}={value}" for name, value in sorted(({"image_size": 32, "stem": "auto"} | other).items()))
    message = f"backbone.kwargs: expected image_size=32, stem=auto, which the weights were trained with, got {got}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        timm_backbone("test_resnet", **other).load_state_dict(trained.state_dict(), strict=False)
    del trained.built_for  # weights from elsewhere
    timm_backbone("test_resnet", image_size=48).load_state_dict(trained.state_dict(), strict=False)


def solos_model(name):
    def model(**kwargs):
        raise TypeError("multiple values for num_classes")

    model.__name__, model.__module__ = name, "solo.backbones"
    return model


def test_timms_own_model_is_built_where_solo_learn_took_its_name(solo, recwarn):
    with unchanged_timm():
        models.register_model(solos_model("test_resnet"))
        assert isinstance(timm_backbone("test_resnet"), models.ResNet)
        assert models.model_entrypoint("test_resnet") is models.test_resnet
    assert len(recwarn) == 1  # timm's, from this test's own line


def test_a_name_that_is_solo_learns_own_is_an_error(solo):
    with unchanged_timm():
        models.register_model(solos_model("vit_tiny"))
        with pytest.raises(
            ValueError, match=r"^backbone: expected a timm model after timm/, got vit_tiny, which is solo"
        ):
            timm_backbone("vit_tiny")


class Inner(nn.Module):
    """A model with an attribute that main_linear.py takes for the width."""

    def __init__(self, name):
        super().__init__()
        self.inplanes, self.num_features = 3, 7
        self.add_module(name, nn.Linear(2, 7))


def test_main_linear_reads_the_true_width(monkeypatch):
    monkeypatch.setattr(alphacl_timm, "create_backbone", lambda name, **_: Inner("layer"))
    assert timm_backbone("any").inplanes == 7


@pytest.mark.parametrize("part", ["backbone", "encoder"])
def test_weights_that_main_linear_would_lose_are_refused(monkeypatch, part):
    monkeypatch.setattr(alphacl_timm, "create_backbone", lambda name, **_: Inner(part))
    with pytest.raises(ValueError, match=rf"^backbone timm/any: expected a model without .* got {part}.weight"):
        timm_backbone("any")


class FixedSize(nn.Module):
    """A backbone that takes 32 px alone."""

    num_features = 5

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 5)

    def forward(self, images):
        assert images.shape[-1] == 32, f"Input height ({images.shape[-1]}) doesn't match model (32)"
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_validation_at_a_size_that_the_backbone_cannot_take_is_an_error_before_data_load(solo, monkeypatch, method):
    monkeypatch.setattr(alphacl_timm, "create_backbone", lambda name, **_: FixedSize())
    cfg = with_backbone(method, "timm/fixed", data={"val_path": "/nowhere"})
    with pytest.raises(
        ValueError, match=r"^data.val_path: expected null with backbone timm/fixed, .* at 224 px, .*Input"
    ):
        build(solo.METHODS[method], cfg)
    cfg.data.val_path = None
    assert build(solo.METHODS[method], cfg).backbone.training


def loaded_as_main_linear_does(solo, name, state, **kwargs):
    """What main_linear.py does with the ``state_dict`` of a checkpoint."""
    backbone = solo.BaseMethod._BACKBONES[name](method=None, **kwargs)
    state = {key.replace("backbone.", ""): value for key, value in state.items() if "backbone" in key}
    backbone.load_state_dict(state, strict=False)
    return backbone


def renamed(model, prefix):
    return {prefix + name: value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["timm/test_resnet", "tiny"])
def test_a_checkpoint_with_every_weight_is_read(solo, name):
    trained = solo.BaseMethod._BACKBONES[name](method=None)
    state = {**renamed(trained, "backbone."), "backbone.fc.weight": torch.zeros(2)}  # one more is harmless
    got = loaded_as_main_linear_does(solo, name, state)
    for own, weight in zip(got.parameters(), trained.parameters(), strict=True):
        assert torch.equal(own, weight)


@pytest.mark.parametrize("name", ["timm/test_resnet", "tiny"])
@pytest.mark.parametrize(
    "prefix", ["network.backbone.", "module.backbone.", "_orig_mod.backbone.", "model.", "backbone.0.", ""]
)
def test_a_checkpoint_that_would_load_nothing_is_an_error(solo, name, prefix):
    state = renamed(solo.BaseMethod._BACKBONES[name](method=None), prefix)
    with pytest.raises(
        ValueError, match=r"^checkpoint: expected every weight .* got one without (\d+) of \1, which would"
    ):
        loaded_as_main_linear_does(solo, name, state)


def test_a_checkpoint_without_one_weight_is_an_error(solo):
    state = renamed(solo.BaseMethod._BACKBONES["timm/test_resnet"](method=None), "backbone.")
    name = "backbone.layer1.0.conv1.weight"
    assert state.pop(name) is not None
    with pytest.raises(ValueError, match=rf"under its name, {name} .* got one without 1 of \d+, "):
        loaded_as_main_linear_does(solo, "timm/test_resnet", state)


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_a_checkpoint_without_a_statistic_is_an_error(solo, statistic):
    state = renamed(solo.BaseMethod._BACKBONES["timm/test_resnet"](method=None), "backbone.")
    state = {name: value for name, value in state.items() if not name.endswith(statistic)}
    with pytest.raises(ValueError, match=rf"under its name, backbone\..*{statistic} .* which would stay random"):
        loaded_as_main_linear_does(solo, "timm/test_resnet", state)


def test_what_changes_no_feature_may_be_missing(solo):
    state = renamed(solo.BaseMethod._BACKBONES["timm/test_resnet"](method=None), "backbone.")
    without = {name: value for name, value in state.items() if not name.endswith(("num_batches_tracked", "built_for"))}
    assert len(without) < len(state)
    loaded_as_main_linear_does(solo, "timm/test_resnet", without)


@pytest.mark.parametrize("trained", ["timm/resnet18", "resnet18"])
def test_weights_of_a_timm_backbone_are_refused_by_solo_learns_of_that_name(solo, trained):
    """Their names and shapes are the same, their stems are not."""
    backbone = build(solo.METHODS["simclr"], with_backbone("simclr", trained, data={"dataset": "cifar10"})).backbone
    own = build(solo.METHODS["simclr"], with_backbone("simclr", "resnet18", data={"dataset": "cifar10"})).backbone
    state = {name.removeprefix("backbone."): value for name, value in renamed(backbone, "").items()}
    if trained == "resnet18":
        own.load_state_dict(state, strict=False)
        return
    with pytest.raises(
        ValueError, match=r"^backbone.name: expected timm/\.\.\., which .* \(image_size=32, stem=auto\)"
    ):
        own.load_state_dict(state, strict=False)


def test_a_whole_model_is_checked_too(solo):
    model = build(solo.METHODS["simclr"], with_backbone("simclr", "tiny"))
    with pytest.raises(ValueError, match=r"^checkpoint: expected every weight"):
        model.load_state_dict({"projector.0.bias": torch.zeros(8)}, strict=False)
