"""The benchmark of the recipes runs on a CPU, counts what it says, and judges its goals by them."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from solo_clone import needs_clone

import recipe_pipelines
import recipe_speed
from recipe import data as data_sets
from recipe import protocol
from recipe.pretraining import Pretraining
from recipe_speed import ALONE, Settings, goals, ours, theirs

TINY = {
    "backbone": "test_resnet",
    "batch_size": 4,
    "workers": (0,),
    "augment_ahead": (1, 2),
    "batches": 2,
    "warm_up": 0,
    "repeats": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, label in itertools.product(("train", "test"), range(10)):
        (root / split / str(label)).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / split / str(label) / "0.png")
    return root


def test_a_run_on_a_cpu_ends_in_a_report(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe_pipelines, "SOLO_LEARN", tmp_path / "none")
    report = recipe_speed.main(Settings(**TINY, data_root=folder, output=tmp_path))
    assert json.loads((tmp_path / "recipe_speed.json").read_text())["pipelines"] == report["pipelines"]
    assert list(report["pipelines"]) == [ALONE, ours(1), ours(2), theirs("lightly", 0)]
    for entry in report["pipelines"].values():
        (seconds,) = entry["seconds_of_a_batch"]
        assert entry["images_per_second"] == pytest.approx(4 / seconds, rel=0.1)
    assert report["pipelines"][ALONE]["of_network_alone"] == 1
    assert [entry["verdict"] for entry in report["goals"]] == ["not judged here"]
    assert "torch" in report["environment"]["versions"]
    assert str(folder) not in (tmp_path / "recipe_speed.json").read_text()
    absent = "solo-learn, 0 workers: not measured (SOLO_LEARN_HOME: expected a clone of solo-learn, got none)"
    assert report["missing"] == [absent]
    assert absent in capsys.readouterr().out
    assert f"| {ours(2)} |" in (tmp_path / "recipe_speed.md").read_text()


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_a_job_of_slurm_does_not_go_on_from_another_one(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"not": "of this run"}, tmp_path / "hpc_ckpt_1.ckpt")
    names = ("JOB_NAME", "JOB_ID", "PROCID", "LOCALID", "NODEID", "NTASKS")
    for name, value in zip(names, ("train", "1", "0", "0", "0", "1"), strict=True):
        monkeypatch.setenv(f"SLURM_{name}", value)
    data = data_sets.load(protocol.DATASETS["cifar10"], folder)
    module = Pretraining(Settings(**TINY).recipe(1), protocol.DATASETS["cifar10"], data)
    assert recipe_pipelines.recipe(module, torch.device("cpu"))(0, 1) > 0


def test_goals_are_judged_by_the_last_way_to_augment():
    rates = {ALONE: 20_000.0, ours(1): 1.0, ours(8): 18_000.0}
    rates |= {theirs("lightly", 4): 6_001.0, theirs("lightly", 16): 12_000.0, theirs("solo-learn", 4): 6_000.0}
    judged = {entry["goal"]: entry for entry in goals(Settings(), rates, judged=True)}
    assert [(entry["measured"], entry["verdict"]) for entry in judged.values()] == [
        (0.9, "pass"),
        (3.0, "miss"),
        (1.5, "pass"),
        (3.0, "pass"),
        (pytest.approx(18_000 * 360 / (100 * 390 * 128), abs=1e-3), "pass"),
    ]
    assert len(goals(Settings(backbone="resnet50"), rates, judged=True)) == 4
    assert {entry["verdict"] for entry in goals(Settings(), rates, judged=False)} == {"not judged here"}


def test_only_the_batches_after_the_warm_up_are_timed(monkeypatch):
    class Counted(recipe_pipelines.Step):
        def __init__(self):
            self.device, self.steps = torch.device("cpu"), 0

        def __call__(self, views):
            self.steps += 1

    step = Counted()
    monkeypatch.setattr(recipe_pipelines, "now", lambda device: float(step.steps**2))
    assert step.seconds(itertools.repeat(()), 3, 4) == (7**2 - 3**2) / 4
    assert step.steps == 7


@needs_clone
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@pytest.mark.parametrize("dataset", ["cifar10", "stl10"])
def test_the_hosts_give_two_views_of_every_image(dataset):
    seen = []
    step = SimpleNamespace(
        device=torch.device("cpu"),
        seconds=lambda batches, warm_up, n: seen.extend(torch.stack(list(views)) for views in batches),
    )
    size = protocol.DATASETS[dataset].image_size
    pixels = torch.randint(0, 256, (9, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = SimpleNamespace(batch_size=4)
    for pipeline in (recipe_pipelines.lightly, recipe_pipelines.solo_learn):
        pipeline(step, pixels, protocol.DATASETS[dataset], settings, 0)(0, 0)
    assert [tuple(views.shape) for views in seen] == 4 * [(2, 4, 3, size, size)]
    for first, second in seen:
        assert 0 <= first.min() < first.max() <= 1
        assert ((first - second).abs().amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 0}, r"repeats: expected an int >= 1, got 0"),
        ({"workers": (2,), "warm_up": 3}, r"warm_up: expected at least twice the workers \(2,\), got 3"),
        ({"augment_ahead": (3,)}, r"augment_ahead: expected divisors of the 2 batches, .* got \(3,\)"),
        ({"augment_ahead": ()}, r"augment_ahead: expected divisors of the 2 batches, .* got \(\)"),
    ],
)
def test_settings_that_measure_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**(TINY | change))


def test_more_batches_than_an_epoch_has_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="batches: expected, with warm_up, at most the 2 batches of an epoch, got 4"):
        recipe_speed.main(Settings(**(TINY | {"batches": 4}), data_root=folder, output=tmp_path))
