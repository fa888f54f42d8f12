"""Taking turns with the min player is gradient descent on InfoNCE."""

import json

import pytest
import torch
from torch.testing import assert_close

from alphacl_plugins import strategies
from experiment import Settings
from min_player import EPS, TAU, closed_min_player, infonce, main, mass, numerical_min_player


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    output = tmp_path_factory.mktemp("min_player")
    found = main(Settings(problems=20, output=output), steps=12)
    torch.set_default_dtype(torch.float32)
    saved = json.loads((output / "min_player.json").read_text(encoding="utf-8"))
    assert saved["corollary_1"] == found["corollary_1"]
    assert (output / "min_player.png").read_bytes().startswith(b"\x89PNG")
    return found


def views():
    return torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_loss_is_the_strategys():
    z, z_aug = views()
    d2 = torch.cdist(z, z).square() / 2
    value = strategies.InfoNCE(TAU, EPS)((z - z_aug).square().sum(1) / 2, d2.fill_diagonal_(torch.inf)).value
    assert_close(infonce(z, z_aug), value.sum(), rtol=1e-10, atol=0)


def test_the_numerical_min_player_finds_theorem_2():
    z, z_aug = views()
    numerical, _ = numerical_min_player(z, z_aug, torch.zeros(7, 7, dtype=torch.float64))
    closed = closed_min_player(z, z_aug)
    assert_close(numerical, closed, rtol=0, atol=1e-3)
    assert_close(closed.sum(dim=1), mass(z, z_aug), rtol=1e-12, atol=0)
    assert closed.std() > 0.01


def test_no_rival_is_better(report):
    found = report["theorem_2"]
    assert found["rivals"] == 20
    assert found["least_excess_of_a_rival"] > 0
    assert found["largest_difference_to_the_numerical_minimiser"] < 1e-4


def test_the_trajectories_are_one(report):
    found = report["corollary_1"]
    assert found["largest_difference_closed"] < 1e-13
    assert found["largest_difference_numerical"] < 1e-5
    assert found["largest_difference_direct"] > 1e-3
    assert found["weights_moved"] > 1e-2
    assert found["loss"][1] < found["loss"][0]
