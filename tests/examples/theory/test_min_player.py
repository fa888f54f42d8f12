"""Taking turns with the min player is gradient descent on InfoNCE."""

import json

import pytest
import torch
from torch.testing import assert_close

from alphacl_plugins import strategies
from min_player import EPS, TAU, Settings, closed_min_player, infonce, main, mass, numerical_min_player, train


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    output = tmp_path_factory.mktemp("min_player")
    found = main(Settings(rivals=20, steps=12, output=output))
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


def test_the_path_has_every_step_and_the_start():
    x, x_aug = views()
    start = [torch.ones(5, 3).double() / 3, torch.eye(5).double()]
    path, losses = train("closed", start, x, x_aug, steps=4)
    assert len(path) == len(losses) == 5
    assert path[0] is start


def test_sizes_can_be_chosen_and_must_make_sense(tmp_path, capsys):
    found = main(Settings(steps=2, rivals=1, samples=3, inputs=2, hidden=4, outputs=2, output=tmp_path))
    torch.set_default_dtype(torch.float32)
    assert found["theorem_2"]["rivals"] == 1
    assert "Corollary 1: in 2 steps" in capsys.readouterr().out
    with pytest.raises(ValueError, match="samples: expected an int >= 2, got 1"):
        Settings(samples=1)
    with pytest.raises(ValueError, match="steps: expected an int >= 1, got 0"):
        Settings(steps=0)
