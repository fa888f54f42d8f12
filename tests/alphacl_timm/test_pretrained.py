"""What trained weights become: timm loads a checkpoint that these tests wrote, in place of a download."""

import functools

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor
from torch.testing import assert_close

from alphacl_timm import create_backbone


def checkpoint_of(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> dict[str, Tensor]:
    """Let timm find a file with weights of the standard model, and return them."""
    torch.manual_seed(7)
    weights = timm.create_model(name).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    create = functools.partial(timm.create_model, pretrained_cfg_overlay=overlay)
    monkeypatch.setattr(timm, "create_model", create)
    return weights


def without(weights: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith(prefixes)}


@pytest.mark.parametrize("image_size", [32, 96])
def test_a_resnet_keeps_the_centre_of_its_kernel_and_every_other_weight(image_size, monkeypatch, tmp_path):
    trained = without(checkpoint_of("resnet18", monkeypatch, tmp_path), "fc.")
    ours = create_backbone("resnet18", image_size, pretrained=True).state_dict()
    kernel = trained["conv1.weight"]
    trained["conv1.weight"] = kernel[:, :, 2:5, 2:5] if image_size == 32 else kernel
    assert_close(ours, trained, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18d", "regnetx_002", "mobilenetv3_small_100", "convnext_atto"])
def test_other_convolutional_networks_keep_every_weight(name, monkeypatch, tmp_path):
    head = ("fc.", "head.fc.") if not name.startswith("mobile") else ("classifier.",)
    trained = without(checkpoint_of(name, monkeypatch, tmp_path), *head)
    assert_close(create_backbone(name, 32, pretrained=True).state_dict(), trained, rtol=0, atol=0)


def test_a_vit_has_its_embeddings_resampled_by_timm(monkeypatch, tmp_path):
    trained = without(checkpoint_of("vit_tiny_patch16_224", monkeypatch, tmp_path), "head.")
    ours = create_backbone("vit_tiny_patch16_224", 32, pretrained=True).state_dict()
    trained["patch_embed.proj.weight"] = resample_patch_embed(trained["patch_embed.proj.weight"], [4, 4])
    trained["pos_embed"] = resample_abs_pos_embed(trained["pos_embed"], [8, 8])
    assert_close(ours, trained)


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")  # timm's interpolation
def test_a_swin_has_its_patches_and_position_biases_resampled(monkeypatch, tmp_path):
    name = "swin_tiny_patch4_window7_224"
    trained = without(checkpoint_of(name, monkeypatch, tmp_path), "head.")
    ours = create_backbone(name, 32, pretrained=True).state_dict()
    changed = {key for key in trained if ours[key].shape != trained[key].shape}
    assert {key.split(".")[-1] for key in changed} == {"weight", "relative_position_bias_table"}
    assert ours["patch_embed.proj.weight"].shape[-2:] == (1, 1)
    expected = resample_patch_embed(trained["patch_embed.proj.weight"], [1, 1])
    assert_close(ours["patch_embed.proj.weight"], expected)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert ours[table].shape == ((2 * 4 - 1) ** 2, trained[table].shape[1])
    centres = ours[table][24], trained[table][84]  # the offset (0, 0) of windows of 4 and of 7
    assert_close(*centres, rtol=0, atol=0.02)
    assert_close(
        {key: ours[key] for key in trained.keys() - changed},
        {key: trained[key] for key in trained.keys() - changed},
        rtol=0,
        atol=0,
    )
