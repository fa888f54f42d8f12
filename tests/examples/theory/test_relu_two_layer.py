"""Section 5's claims hold in a short run; ranks and modes are counted on networks whose answer is known."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch.testing import assert_close

import alphacl_plugins as acl
from problems import random_mixtures
from relu_flow import energies, follow, relu_gradient, start_for, sticky_gradient
from relu_two_layer import (
    HIDDEN,
    MODES,
    SAMPLES,
    ZERO,
    Settings,
    draw_ranks,
    figure_3,
    main,
    modes_in_use,
    rank,
    theorem_4,
    theorem_5,
    theorem_6,
)

pytestmark = pytest.mark.usefixtures("in_float64")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_energies_of_all_networks_are_those_of_each():
    mixtures = random_mixtures(4, 4, 10, seeded())
    w1, w2 = start_for(mixtures, 6, seeded())
    w1 = w1 * torch.sign(torch.randn(w1.shape, generator=seeded(1)))
    for i, got in enumerate(energies([w1, w2], mixtures)):
        z, z_aug = (torch.relu(x[i] @ w1[i].T) @ w2[i].T for x in (mixtures.x, mixtures.x_aug))
        assert_close(got, acl.energy(z, z_aug, mixtures.alpha[i]), rtol=1e-12, atol=0)


def test_a_weight_at_zero_has_no_gradient_through_the_relu_but_has_one_without():
    mixtures = random_mixtures(4, 4, 10, seeded())
    w1, w2 = start_for(mixtures, 6, seeded())
    w1[:, 2, 1] = 0
    relu, sticky = relu_gradient([w1, w2], mixtures), sticky_gradient([w1, w2], mixtures)
    for a, b in zip(relu, sticky, strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)
    assert (relu[0][:, 2, 1] == 0).all()
    assert (relu[0].abs().amax(dim=(1, 2)) > 1e-3).all()


def test_theorem_4_along_a_trajectory():
    found = theorem_4(seeded(), networks=5, steps=300)
    assert found["lemma_3_formula_error"] < 1e-10
    assert found["lemma_3_clamping_error"] < 1e-12
    assert found["largest_difference_along_the_way"] < 1e-8
    assert found["largest_difference_without_the_sticky_rule"] > 1e-2


def test_weights_that_begin_at_zero_are_not_counted_as_stuck():
    found = theorem_4(seeded(), networks=5, steps=300)
    generator = seeded()
    mixtures = random_mixtures(5, MODES, SAMPLES, generator)
    start = start_for(mixtures, HIDDEN, generator)
    end = follow(start, mixtures, relu_gradient, steps=300).weights
    pairs = list(zip(start[0].flatten().tolist(), end[0].flatten().tolist(), strict=True))
    assert any(before == 0 for before, _ in pairs)
    stuck = [after == 0 for before, after in pairs if before > 0]
    assert found["share_of_weights_above_zero_that_stuck"] == pytest.approx(sum(stuck) / len(stuck))
    assert 0.2 < sum(stuck) / len(stuck) < 0.9


def test_theorem_5_every_run_ends_one_hot():
    found = theorem_5(30, seeded())
    assert found["one_hot"] == found["runs"] == 30
    assert found["leading_eigenvector_one_hot"] == 0
    assert sum(count > 0 for count in found["at_each_mode"]) > 2
    assert found["at_the_best_mode"] < 30  # which one depends on the start
    assert found["energy_not_positive_and_no_mode_has_more"] <= found["energy_not_positive"] < 10


@pytest.mark.slow
def test_theorem_6_has_both_branches_and_no_other():
    found = theorem_6(25, seeded())
    assert found["neither"] == 0
    assert found["one_mode"] > 0
    assert found["rank_above_one"] > 0
    assert found["one_mode"] + found["rank_above_one"] + len(found["still_moving"]) >= found["energy_positive"]
    assert found["linear"]["rank_one"] == 25
    assert found["linear"]["one_mode"] == 0


def test_ranks_and_modes_of_known_matrices():
    first = torch.zeros(3, 4, 5)
    first[0, :, 2] = torch.tensor([1.0, 0.5, 0.0, 2.0])  # v e_mᵀ
    first[1] = torch.outer(torch.rand(4, generator=seeded()), torch.rand(5, generator=seeded()))  # rank 1, all modes
    first[2, 0, 0] = first[2, 1, 1] = 1.0
    first[2, 2, 3] = ZERO / 10
    assert rank([first]).tolist() == [1, 1, 2]
    assert modes_in_use([first]).tolist() == [1, 5, 2]


def test_the_script_writes_numbers_and_picture(tmp_path, capsys):
    report = main(Settings(problems=3, networks=2, steps=50, output=tmp_path))
    assert report["theorem_4"]["networks"] == 2
    saved = json.loads((tmp_path / "relu_two_layer.json").read_text(encoding="utf-8"))
    assert saved["theorem_6"] == report["theorem_6"]
    assert (tmp_path / "relu_two_layer.png").read_bytes().startswith(b"\x89PNG")
    assert "Theorem 5, one hidden node: 3 of 3 one-hot" in capsys.readouterr().out


def test_every_run_is_in_a_bar():
    report = {"runs": 10, "ranks": [0, 5, 2], "still_moving": [{"rank": 2}, {"rank": 3}, {"rank": 3}]}
    axis = Figure().subplots()
    draw_ranks(axis, report | {"linear": {"rank_one": 10}})
    assert [[bar.get_height() for bar in bars] for bars in axis.containers] == [[5, 2, 0], [0, 1, 2], [10, 0, 0]]


def test_the_picture_of_the_manual_can_be_drawn_from_its_numbers():
    published = Path(__file__).parents[3] / "docs" / "theory" / "relu_two_layer.json"
    six = json.loads(published.read_text(encoding="utf-8"))["theorem_6"]
    figure = figure_3(six)
    panels = [axes.get_title() for axes in figure.axes if axes.get_title()]
    names = ["ReLU: $W_1$", "linear: $W_1$", "Rank of $W_1$ in 300 runs", "ReLU: $W_2^T W_2$", "linear: $W_2^T W_2$"]
    assert panels == names
    relu, linear = (torch.tensor(six["figure_3"][network][0]) for network in ("relu", "linear"))
    assert (figure.axes[0].images[0].get_array() == relu.numpy()).all()
    assert rank([torch.stack([relu, linear])]).tolist() == [2, 1]


@pytest.mark.slow
def test_theorems_5_and_6_on_two_hundred_runs():
    five, six = theorem_5(200, seeded(77)), theorem_6(200, seeded(78))
    assert five["one_hot"] == 200
    assert six["neither"] == 0
    assert six["one_mode"] > 20
    assert six["rank_above_one"] > 5
    assert six["linear"]["rank_one"] >= 198
