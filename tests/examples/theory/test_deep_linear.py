"""Section 4's claims hold in a short run, and what is counted is what is said."""

import json

import pytest
import torch
from torch.testing import assert_close

import deep_linear
from deep_linear import (
    arrive,
    balance,
    classify,
    depth_one,
    filter_error,
    lemma_2,
    relative_gap,
    second_over_first,
    theorem_3,
)
from experiment import Settings
from flow import FILTER, LAYER, ascend, random_start
from problems import random_covariances


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("normalization", [LAYER, FILTER])
def test_theorem_3_and_corollary_3_on_a_few_problems(normalization):
    found = theorem_3(20, normalization, seeded())
    assert found["problems"] == 20
    assert found["both"] >= 19
    assert len(found["exceptions"]) == 20 - found["both"]
    for row in found["by_depth"]:
        assert 0 < row["negative_eigenvalues"] < 1
        if normalization == FILTER:
            assert row["largest_error_of_v"] < 1e-6


def test_without_per_filter_norms_the_vectors_are_not_that_constrained():
    covariance = random_covariances(4, 8, seeded())
    widths = torch.tensor([[8, 6, 5]]).expand(4, -1)
    ended = arrive(random_start(widths, seeded()), covariance, LAYER)
    assert filter_error(ended.weights[:-1], widths, torch.ones(4, dtype=torch.bool)) > 0.05


def test_the_flow_ends_at_the_eigenvector():
    covariance = random_covariances(3, 8, seeded(1))
    ended = arrive(random_start(torch.tensor([[8, 4, 6, 3]]).expand(3, -1), seeded()), covariance, LAYER)
    v0 = torch.linalg.svd(ended.weights[0]).Vh[:, 0]
    expected = torch.linalg.eigh(covariance).eigenvectors[:, :, -1]
    assert_close((v0 * expected).sum(dim=1).abs(), torch.ones(3))
    assert relative_gap(covariance, ended.energy).abs().max() < 1e-6
    assert second_over_first(ended.weights).max() < 1e-4


def test_a_run_that_is_cut_off_counts_as_an_exception():
    covariance = random_covariances(2, 8, seeded())
    ended = ascend(random_start(torch.tensor([[8, 6, 6, 6]]).expand(2, -1), seeded()), covariance, steps=3)
    found = classify(ended, covariance, 1, 3, LAYER, seeded())
    assert found["gap"] > 0.1
    assert not found["stands_still"]
    assert found["escapes_after_perturbation"] == {"0.001": True, "0.1": True}


def test_a_saddle_is_told_by_its_gradient_and_a_perturbation():
    """All layers of rank one along the second eigenvector: critical, and no maximum."""
    covariance = torch.diag(torch.tensor([1.0, 0.5, -0.3]))[None]
    weights = [torch.zeros(1, 3, 3), torch.zeros(1, 2, 3)]
    weights[0][0, 0, 1] = weights[1][0, 0, 0] = 1.0
    ended = ascend(weights, covariance)
    assert ended.energy.item() == pytest.approx(0.25)
    for w in ended.weights:  # so that the perturbation, which leaves padding alone, may go anywhere
        w += 1e-13
    found = classify(ended, covariance, 0, 2, LAYER, seeded())
    assert found["stands_still"]
    assert found["gap"] == pytest.approx(0.5)
    assert found["escapes_after_perturbation"] == {"0.001": True, "0.1": True}


def test_depth_one_has_the_papers_counterexample():
    found = depth_one(10, seeded())
    assert found["simple"] == {"problems": 10, "global_maximum": 10, "rank_one": 10}
    assert found["double"] == {"problems": 10, "global_maximum": 10, "rank_one": 0}


def test_layers_stay_balanced_or_become_so():
    found = balance(seeded(), steps=400, arc=0.01)
    for name in ("raw", "normalised"):
        assert found[f"{name}_error"] < 1e-6
        assert found[f"{name}_change_of_weights"] > 0.3
        assert found[f"{name}_largest_imbalance_at_the_start"] > 0.1
    assert found["normalised_change_of_imbalance"] > 0.1


def test_lemma_2_holds_below_a_normalisation_and_only_there():
    found = lemma_2(seeded())
    for activation in ("linear", "ReLU"):
        assert found[f"{activation}, l2"] < 1e-12
        assert found[f"{activation}, LayerNorm"] < 1e-12
        assert found[f"{activation}, none"] > 0.1


def test_the_script_writes_numbers_and_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(deep_linear, "DEPTHS", (2, 3))
    report = deep_linear.main(Settings(problems=4, output=tmp_path))
    saved = json.loads((tmp_path / "deep_linear.json").read_text(encoding="utf-8"))
    assert saved["theorem_3"] == report["theorem_3"]
    assert saved["problems"] == 4
    assert (tmp_path / "deep_linear.png").read_bytes().startswith(b"\x89PNG")
    assert f"{report['theorem_3']['both']} of 4 at the maximum" in capsys.readouterr().out


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="problems: expected an int >= 1, got 0"):
        Settings(problems=0)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", [LAYER, FILTER])
def test_theorem_3_on_two_hundred_problems(normalization):
    found = theorem_3(200, normalization, seeded(77))
    assert found["both"] >= 198
    for exception in found["exceptions"]:
        assert exception["gradient_norm"] < 1e-3  # a plateau or a saddle, which a perturbation leaves
        assert exception["escapes_after_perturbation"]["0.1"]
