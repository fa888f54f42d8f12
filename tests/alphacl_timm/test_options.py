"""timm's own options, names of models that lie elsewhere, and timm's reset_classifier on what was built."""

import copy
import json
import pickle

import pytest
import timm
import torch
from timm.models import _factory
from torch import nn
from torch.testing import assert_close

from alphacl_timm import create_backbone

OTHER_WIDTHS = ["mobilenetv3_small_050", "lcnet_050", "hardcorenas_a", "mobilenetv4_conv_small_035", "vgg11"]
"""Models whose features are wider than timm's num_features."""


def same_state(ours: nn.Module, theirs: nn.Module) -> None:
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def images(channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", OTHER_WIDTHS)
def test_a_classifier_can_be_added_and_removed_as_by_timm(name):
    with torch.device("meta"):
        ours, theirs = create_backbone(name, 32), timm.create_model(name, num_classes=0)
        width = ours.num_features
        assert width != theirs.num_features
        for model in (ours, theirs):
            model.reset_classifier(10)
        assert ours(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
        assert repr(ours.get_classifier()) == repr(theirs.get_classifier())
        assert ours.num_features == width
        ours.reset_classifier(0)
        assert ours(torch.zeros(2, 3, 32, 32)).shape == (2, width)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_a_classifier_of_its_own(twin):
    model = create_backbone("test_resnet", 32, global_pool="catavgmax")
    copied = twin(model)
    copied.reset_classifier(10)
    assert copied(images()).shape == (2, 10)
    assert model(images()).shape == (2, model.num_features)


def test_layers_can_be_pruned_as_by_timm():
    ours, theirs = create_backbone("mobilenetv3_small_050", 32), timm.create_model("mobilenetv3_small_050")
    for model in (ours, theirs):
        model.prune_intermediate_layers([1], prune_head=True)
    assert ours.num_features == theirs.num_features
    assert ours(images()).shape[1] == theirs(images()).shape[1] == ours.num_features


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    "name", ["test_resnet", "resnet10t", "convnext_atto", "test_efficientnet", "test_vit", "vgg11_bn", "regnetx_002"]
)
def test_the_small_stem_reads_any_number_of_channels(name, channels):
    with torch.device("meta"):
        model = create_backbone(name, 32, in_chans=channels)
        coloured = create_backbone(name, 32)
        assert model(torch.zeros(2, channels, 32, 32)).shape == (2, model.num_features)
    differing = [key for key, value in model.state_dict().items() if value.shape != coloured.state_dict()[key].shape]
    assert len(differing) == 1
    assert model.state_dict()[differing[0]].shape[1] == channels


@pytest.mark.parametrize(
    "options",
    [
        {"in_chans": 1},
        {"in_chans": None},
        {"global_pool": "max"},
        {"global_pool": "catavgmax"},
        {"drop_path_rate": 0.2, "drop_rate": 0.1},
        {"act_layer": "gelu"},
        {"num_classes": 0},
        {"dtype": torch.float64},
    ],
)
def test_options_are_those_of_timm(options):
    channels, dtype = options.get("in_chans") or 3, options.get("dtype", torch.float32)
    torch.manual_seed(0)
    ours = create_backbone("test_resnet", 32, stem="keep", **options).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", **{**options, "num_classes": 0}).eval()
    assert repr(ours) == repr(theirs)
    same_state(ours, theirs)
    features = ours(images(channels).to(dtype))
    assert torch.equal(features, theirs(images(channels).to(dtype)))
    assert ours.num_features == features.shape[1]


def test_an_option_goes_before_what_the_stem_would_set():
    with torch.device("meta"):
        assert create_backbone("vit_tiny_patch16_224", 32, patch_size=8).patch_embed.patch_size == (8, 8)


def test_weights_of_a_file_are_read_whole_before_the_stem_is_changed(tmp_path):
    trained = timm.create_model("resnet18", num_classes=0)
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    ours = create_backbone("resnet18", 32, checkpoint_path=tmp_path / "weights.pth")
    expected = {**trained.state_dict(), "conv1.weight": trained.conv1.weight[:, :, 2:5, 2:5]}
    assert_close(ours.state_dict(), expected, rtol=0, atol=0)


def test_weights_that_do_not_fit_or_are_none_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match=r"checkpoint_path: expected a file, got .*weights\.pth"):
        create_backbone("test_resnet", 32, checkpoint_path=path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"checkpoint_path: expected weights of .* test_resnet .*got .*weights\.pth"):
        create_backbone("test_resnet", 32, checkpoint_path=path)
    torch.save({"other.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="checkpoint_path: expected weights of timm's test_resnet"):
        create_backbone("test_resnet", 32, checkpoint_path=path)


def test_weights_that_are_described_by_an_option_are_read(tmp_path):
    trained = timm.create_model("test_resnet")
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    ours = create_backbone(
        "test_resnet", 96, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}
    )
    trained.reset_classifier(0)
    same_state(ours, trained)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"num_classes": 10}, ValueError, "num_classes: expected none, .* got 10"),
        ({"in_chans": 0}, ValueError, "in_chans: expected an int >= 1, got 0"),
        ({"in_chans": "1"}, TypeError, "in_chans: expected an int >= 1, got '1'"),
        ({"no_such": 1}, TypeError, "options: expected those of timm's test_resnet .*no_such"),
        ({"global_pool": "no_such"}, ValueError, "options: expected those of timm's test_resnet .*no_such"),
        ({"global_pool": ""}, ValueError, "name: expected a model that gives one vector per image"),
    ],
)
def test_options_that_make_no_backbone_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        create_backbone("test_resnet", 32, **options)


@pytest.fixture
def shared(tmp_path):
    """A model as timm shares it: a folder of its description and its weights."""
    model = timm.create_model("test_resnet", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    described = {"num_classes": 7, "input_size": [3, 160, 160], "first_conv": "conv1.0", "classifier": "fc"}
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": described}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model.reset_classifier(0)
    return tmp_path, model


def test_a_model_in_a_folder_is_read_by_timm(shared):
    folder, model = shared
    ours = create_backbone(f"local-dir:{folder}", 96, pretrained=True).eval()
    same_state(ours, model)
    assert torch.equal(ours(images()), model(images()))
    small = create_backbone(f"local-dir:{folder}", 32)
    assert small.maxpool.__class__ is nn.Identity


@pytest.mark.parametrize("prefix", ["backbone.", "network."])
def test_pretrained_weights_of_other_names_are_refused(prefix, shared):
    folder, model = shared
    weights = folder / "pytorch_model.bin"
    torch.save({f"{prefix}{name}": weight for name, weight in model.state_dict().items()}, weights)
    load = nn.Module.load_state_dict
    overlay = {"pretrained_cfg_overlay": {"file": str(weights)}}
    for name, options in ((f"local-dir:{folder}", {}), ("test_resnet", overlay)):
        with pytest.raises(
            ValueError, match=f"^pretrained: expected weights of timm's {name}, got ones of other names"
        ):
            create_backbone(name, 96, pretrained=True, **options)
    assert nn.Module.load_state_dict is load


@pytest.mark.parametrize("prefix", ["hf-hub:", "hf_hub:"])
def test_a_model_of_the_hub_is_found_by_timm(prefix, shared, monkeypatch):
    folder, model = shared
    asked = []

    def from_hub(model_id: str, cache_dir: object = None) -> object:
        asked.append(model_id)
        return _factory.load_model_config_from_path(folder)

    monkeypatch.setattr(_factory, "load_model_config_from_hf", from_hub)
    ours = create_backbone(f"{prefix}owner/model", 96, pretrained=True)
    same_state(ours, model)
    assert set(asked) == {"owner/model"}


def test_a_name_with_another_prefix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"name: expected a timm model name, got 'hub:a/b': .*valid sources: hf-hub"):
        create_backbone("hub:a/b")
    with pytest.raises(ValueError, match=r"name: expected a timm model name, got 'a/b': .*hf-hub:a/b"):
        create_backbone("a/b")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create_backbone(f"local-dir:{tmp_path / 'nowhere'}")
