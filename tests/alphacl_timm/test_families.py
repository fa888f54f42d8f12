"""Every row of the table of families, the models named in the documentation, and models drawn at random."""

import random
import re
from pathlib import Path

import pytest
import timm
import torch
from selection import slow_but
from timm.models import list_models, list_modules

import backbones
from alphacl_timm import create_backbone
from alphacl_timm.families import FAMILIES, Family

WIDTHS = {
    "resnet18": 512,
    "resnet18d": 512,
    "resnext26ts": 2048,
    "regnetx_002": 368,
    "regnety_002": 368,
    "efficientnet_b0": 1280,
    "mobilenetv3_small_100": 1024,  # timm's num_features: 576
    "mobilenetv2_050": 1280,
    "convnext_atto": 320,
    "vit_tiny_patch16_224": 192,
    "deit_tiny_patch16_224": 192,
    "swin_tiny_patch4_window7_224": 768,
    "vgg11": 4096,  # timm's num_features: 512
    "vgg11_bn": 4096,
}
LARGE = ("swin_tiny_patch4_window7_224", "vgg11", "vgg11_bn")
"""Seconds for each size."""

MODULES = [pytest.param(module, family, id=module) for family in FAMILIES if family.small for module in family.modules]
NOT_AT_32 = "bat_resnext26ts"
"""Its bilinear attention splits a map into 8x8 parts."""


def expected_sides(name: str) -> list[int]:
    """Of the last map, or of the square of patches, at 32, 64, 96 and 224 px."""
    if name.startswith("resnet"):
        return [4, 8, 3, 7]
    return [8, 8, 6, 14] if name.startswith(("vit", "deit")) else [4, 4, 3, 7]


def backward_works(name: str, image_size: int) -> None:
    torch.manual_seed(0)
    model = create_backbone(name, image_size)
    features = model(torch.rand(2, 3, image_size, image_size))
    assert features.shape == (2, model.num_features)
    features.square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert (gradients[0] != 0).any()  # of the stem: others are 0 where a branch starts at 0
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        pytest.param(name, size, marks=[pytest.mark.slow] if name in LARGE or size in (64, 224) else [])
        for name in WIDTHS
        for size in (32, 64, 96, 224)
    ],
)
def test_a_model_of_each_family_trains(name, image_size):
    backward_works(name, image_size)


@pytest.mark.parametrize("name", slow_but(["resnet18", "vit_tiny_patch16_224"], WIDTHS))
def test_the_documented_table_has_the_true_width_and_the_expected_maps(name):
    sides = " | ".join(f"{side}x{side}" for side in expected_sides(name))
    row = backbones.row(name)
    assert row == f"| `{name}` | {sides} | {WIDTHS[name]} |"
    assert row in (Path(__file__).parents[2] / "docs" / "timm.md").read_text().splitlines()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.modules[0])
def test_every_rule_is_documented(family):
    modules = ", ".join(f"`{module}`" for module in family.modules)
    documented = (Path(__file__).parents[2] / "docs" / "timm.md").read_text()
    assert f"| {family.title} | {modules} | {family.why} |" in documented.splitlines()


def test_a_module_of_timm_has_one_row_at_most():
    listed = [module for family in FAMILIES for module in family.modules]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(list_modules())


@pytest.mark.slow
@pytest.mark.parametrize(("module", "family"), MODULES)
def test_models_of_every_module_keep_their_last_map_large(module, family):
    names = sorted(set(list_models(module=module)) - {NOT_AT_32})
    for name in random.Random(0).sample(names, min(4, len(names))):
        check_small_stem(name, family)


def check_small_stem(name: str, family: Family) -> None:
    expected = {"ResNet": (4, 8), "ViT": (8, 8)}.get(re.match(r"\w+", family.title)[0], (4, 4))
    if name.startswith("resnetv2") and name.endswith("_bit"):
        expected = (5, 4)  # its pooling is preceded by a padding, which stays
    assert tuple(backbones.last_map(name, size)[0] for size in (32, 64)) == expected, name


def drawn_names(count: int = 20, seed: int = 0, most_parameters: float = 60e6) -> list[str]:
    """Names drawn from all of timm's but for those above, until ``count`` have at most that many parameters."""
    names = sorted(set(list_models()) - WIDTHS.keys())
    random.Random(seed).shuffle(names)
    drawn: list[str] = []
    for name in names:
        with torch.device("meta"):
            size = sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
        drawn += [name] if size <= most_parameters else []
        if len(drawn) == count:
            break
    return drawn


@pytest.mark.slow
def test_of_twenty_drawn_names_fifteen_train_and_the_others_are_refused():
    refusals = {}
    for name in drawn_names():
        try:
            for image_size in (32, 96):
                backward_works(name, image_size)
        except ValueError as error:
            refusals[name] = str(error)
    assert len(refusals) <= 5
    for name, message in refusals.items():
        assert re.match(f"image_size: expected a size that {name} can process|name: expected a model that", message)
