"""Weights out of a recipe and back: the same features, bit for bit, by timm alone, by the recipes and by solo-learn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms import v2

from alphacl_solo_learn.backbones import timm_backbone
from export import export
from recipe import data, run
from recipe.evaluation import extract, knn_accuracy
from recipe.network import Network
from recipe.protocol import DATASETS
from recipe.results import ALWAYS, KEPT
from recipe.settings import Settings
from recipe.trained import read_trained

CIFAR10, STL10 = DATASETS["cifar10"], DATASETS["stl10"]


def write_run(folder: Path, backbone: str, dataset=CIFAR10) -> tuple[Path, Network]:
    """Write what a run leaves: a checkpoint and its result; return the checkpoint, and the network."""
    torch.manual_seed(0)
    network = Network(backbone, dataset.image_size, dataset.mean, dataset.std)
    network(torch.rand(4, 3, dataset.image_size, dataset.image_size))  # statistics that are not those of a fresh one
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights, "recipe": {"curve": []}}, folder / "last.ckpt")
    result = {key: {} for key in (*KEPT, *ALWAYS)}
    result |= {"dataset": dataset.name, "backbone": backbone, "data": {"image_size": dataset.image_size}}
    (folder / "result.json").write_text(json.dumps(result))
    return folder / "last.ckpt", network.eval()


@torch.no_grad()
def same_features(backbone: nn.Module, network: Network, dataset=CIFAR10) -> None:
    """Compare features in the memory layout of the recipes, as convolutions round differently in another."""
    images = torch.rand(4, 3, dataset.image_size, dataset.image_size, generator=torch.Generator().manual_seed(1))
    pixels = v2.Normalize(dataset.mean, dataset.std)(images).contiguous(memory_format=torch.channels_last)
    features = backbone.eval().to(memory_format=torch.channels_last)(pixels)
    assert torch.equal(features, network.features(images))
    assert features.std() > 0


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_a_resnet_of_small_images_is_timms_with_the_usual_stem(tmp_path):
    checkpoint, network = write_run(tmp_path, "resnet18")
    backbone = timm.create_model("resnet18", num_classes=0)
    backbone.conv1, backbone.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    backbone.load_state_dict(load(export(checkpoint)))
    same_features(backbone, network)


def test_a_resnet_of_stl10_is_timms(tmp_path):
    checkpoint, network = write_run(tmp_path, "resnet18", STL10)
    backbone = timm.create_model("resnet18", num_classes=0)
    backbone.load_state_dict(load(export(checkpoint)))
    same_features(backbone, network, STL10)


def test_a_vit_is_timms_for_this_size(tmp_path):
    checkpoint, network = write_run(tmp_path, "test_vit")
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=4)
    backbone.load_state_dict(load(export(checkpoint, tmp_path / "weights.pth")))
    same_features(backbone, network)


def test_the_printed_lines_load_it(tmp_path, capsys):
    checkpoint, network = write_run(tmp_path, "test_resnet")
    export(checkpoint)
    said, *lines = capsys.readouterr().out.splitlines()
    assert said.startswith("test_resnet for images of 32 px in [0, 1], normalised by mean (0.4914, 0.4822, 0.4465)")
    names: dict[str, nn.Module] = {}
    exec("\n".join(["import torch", "from alphacl_timm import create_backbone", *lines]), names)
    same_features(names["backbone"], network)
    same_features(read_trained(checkpoint).backbone, network)


def test_weights_come_back_into_the_recipes_network(tmp_path):
    checkpoint, network = write_run(tmp_path, "test_resnet")
    other = Network("test_resnet", 32, CIFAR10.mean, CIFAR10.std)
    other.backbone.load_state_dict(load(export(checkpoint)))
    same_features(other.backbone, network)


def test_weights_come_back_into_solo_learns_evaluation(tmp_path):
    checkpoint, network = write_run(tmp_path, "test_resnet")
    saved = {"state_dict": {f"backbone.{name}": value for name, value in load(export(checkpoint)).items()}}
    backbone = timm_backbone("test_resnet", image_size=32)
    state = {name.replace("backbone.", ""): value for name, value in saved["state_dict"].items()}  # as main_linear.py
    assert backbone.load_state_dict(state, strict=False) == (["built_for"], [])
    same_features(backbone, network)


@pytest.mark.slow  # trains
def test_a_run_and_its_exported_weights_are_judged_alike(digits_folder, tmp_path):
    settings = Settings(backbone="test_resnet", epochs=1, batch_size=32, device="cpu", knn_every=0)
    result = run.run(CIFAR10, replace(settings, data_root=digits_folder, output=tmp_path))
    network = Network("test_resnet", 32, CIFAR10.mean, CIFAR10.std)
    network.backbone.load_state_dict(load(export(result.parent / "epoch-1.ckpt")))
    features = extract(network, data.load(CIFAR10, digits_folder), torch.device("cpu"))
    assert knn_accuracy(features) == json.loads(result.read_text())["evaluations"]["1"]["knn"]


def test_what_is_no_trained_backbone_stops(tmp_path):
    checkpoint, _ = write_run(tmp_path, "test_resnet")
    saved = torch.load(checkpoint)
    with pytest.raises(ValueError, match=r"output: expected another file than the checkpoint, got .*last\.ckpt"):
        export(checkpoint, checkpoint)
    with pytest.raises(FileNotFoundError, match="nothing"):
        export(tmp_path / "nothing.ckpt")
    for weights in ({}, {"backbone.conv1.weight": torch.zeros(1)}, dict(list(saved["state_dict"].items())[8:])):
        torch.save({**saved, "state_dict": weights}, checkpoint)
        with pytest.raises(ValueError, match=r"checkpoint: expected the weights of test_resnet, got others in .*last"):
            export(checkpoint)
    torch.save({"state_dict": saved["state_dict"]}, checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint: expected one of a recipe, got .*last\.ckpt"):
        export(checkpoint)
    broken = {name: value * float("nan") for name, value in saved["state_dict"].items()}
    torch.save({**saved, "state_dict": broken}, checkpoint)
    with pytest.raises(ValueError, match=r"weights: expected finite numbers, got others in .*last\.ckpt; .* diverged"):
        export(checkpoint)
    for content in (b"", b"abc", b"]", b"PK\3\4"):
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint: expected one of a recipe, got .*last\.ckpt"):
            export(checkpoint)
    assert not (tmp_path / "last.pth").exists()
    torch.save([saved], checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint: expected one of a recipe, got .*last\.ckpt"):
        export(checkpoint)
    torch.save(saved, checkpoint)
    (tmp_path / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        export(checkpoint)
