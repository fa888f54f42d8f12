"""The learning rate of an epoch, by the recipe and by solo-learn's method, in one process and in eight."""

import math
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, DistributedSampler

from alphacl_solo_learn import paper_method
from alphacl_solo_learn.paper_method import AlphaCL
from alphacl_solo_learn.schedule import early_zero, relative_rate
from recipe.data import Data, Images
from recipe.pretraining import Pretraining
from recipe.protocol import DATASETS
from recipe.settings import Settings

EPOCHS = 500
PAPER_390 = {0: 1.0, 10: 1.0, 100: 0.8743, 400: 0.0, 500: 0.1536}


def paper(epoch, batches):
    return (1 + math.cos(math.pi * max(0, epoch - 10) / batches)) / 2


def recipe(images, batch_size, processes, **options):
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8).expand(images, -1, -1, -1)
    part, none = Images(pixels, torch.zeros(1).expand(images)), Images(pixels[:0], torch.zeros(0))
    settings = Settings(
        backbone="test_resnet", batch_size=batch_size, devices=processes, learning_rate=1.0, epochs=EPOCHS, **options
    )
    return Pretraining(settings, DATASETS["cifar10"], Data(part, none, none, (), "nothing"))


def solo(images, batch_size, processes, schedule):
    """The method with Lightning's numbers of one of the processes, without the rest of it."""
    dataset, share = range(images), batch_size // processes
    sampler = DistributedSampler(dataset, num_replicas=processes, rank=0)
    loader = DataLoader(dataset, batch_size=share, sampler=sampler, drop_last=True)
    method = AlphaCL.__new__(AlphaCL)
    method.scheduler, method.schedule, method.schedule_epochs, method.batch_size = "alpha_cl", schedule, EPOCHS, share
    method.trained_with, method.cfg, method._trainer = None, {}, None
    method.trainer = SimpleNamespace(num_training_batches=len(loader), train_dataloader=loader, world_size=processes)
    return method


# 4991 images in eight processes are 624 in each, one of them twice: 39 batches of 16, where one process has 38 of 128.
@pytest.mark.parametrize(("images", "batches"), [(50_000, 390), (4991, 38)])
@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize("schedule", ["paper", "cosine"])
def test_recipe_and_solo_learn_have_the_rate_of_one_process_with_the_whole_batch(images, batches, processes, schedule):
    module = recipe(images, 128, processes, schedule=schedule)
    method = solo(images, 128, processes, schedule)
    for epoch in (0, 10, 100, 400, 500):
        expected = paper(epoch, batches) if schedule == "paper" else (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        assert module.rate(epoch) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert method._relative_rate(epoch) == module.rate(epoch)


@pytest.mark.parametrize(("epoch", "expected"), PAPER_390.items())
def test_the_papers_numbers(epoch, expected):
    assert relative_rate("paper", epoch, batches=390, epochs=EPOCHS) == pytest.approx(expected, abs=1e-4)


def test_a_cosine_never_rises_and_ends_at_0():
    rates = [relative_rate("cosine", epoch, batches=3, epochs=100) for epoch in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[100]) == (1, 0)


@pytest.mark.parametrize(
    ("schedule", "batches", "epochs", "warns"),
    [("paper", 390, 500, True), ("paper", 390, 401, True), ("paper", 390, 400, False), ("paper", 38, 100, True),
     ("paper", float("inf"), 500, False), ("cosine", 38, 100, False)],
)  # fmt: skip
def test_who_is_warned(schedule, batches, epochs, warns):
    note = early_zero(schedule, batches=batches, epochs=epochs)
    assert (note is not None) == warns
    if warns:
        assert f"is 0 after {10 + batches} of {epochs} epochs" in note


def test_the_recipe_has_a_warning():
    assert "is 0 after 48 of 500 epochs" in recipe(4991, 128, 1).warning
    assert recipe(4991, 128, 1, schedule="cosine").warning is None


def test_solo_learn_warns_before_it_trains(monkeypatch):
    monkeypatch.setattr(AlphaCL.__mro__[-2], "on_train_start", lambda self: None, raising=False)  # solo-learn's
    with pytest.warns(UserWarning, match="is 0 after 48 of 500 epochs"):
        solo(4991, 128, 8, "paper").on_train_start()


@pytest.mark.parametrize(
    ("saved", "schedule", "error"),
    [({}, "paper", None), ({}, "cosine", "paper, got cosine over 500 epochs"),
     ({"alpha_cl_schedule": "cosine over 500 epochs"}, "cosine", None),
     ({"alpha_cl_schedule": "cosine over 100 epochs"}, "cosine", "over 100 epochs, got cosine over 500 epochs")],
)  # fmt: skip
def test_a_checkpoint_of_solo_learn_goes_on_by_its_own_schedule(saved, schedule, error, monkeypatch):
    for hook in ("on_load_checkpoint", "on_save_checkpoint"):
        monkeypatch.setattr(AlphaCL.__mro__[-2], hook, lambda self, checkpoint: None, raising=False)  # Lightning's
    method, written = solo(4991, 128, 1, schedule), {}
    method.on_save_checkpoint(written)
    method.on_load_checkpoint(written)
    if error is None:
        method.on_load_checkpoint(saved)
    else:
        with pytest.raises(ValueError, match=f"scheduler.schedule: expected that of the checkpoint, .*{error}"):
            method.on_load_checkpoint(saved)


@pytest.mark.parametrize(
    ("dataset", "asked", "expected"),
    [
        ("cifar10", None, "paper"),
        ("custom", None, "cosine"),
        ("custom", "paper", "paper"),
        ("stl10", "cosine", "cosine"),
    ],
)
def test_the_schedule_of_a_config(dataset, asked, expected):
    cfg = OmegaConf.create({"data": {"dataset": dataset}, "scheduler": {"name": "alpha_cl", "schedule": asked}})
    assert paper_method._schedule(cfg) == expected


@pytest.mark.parametrize(
    ("schedule", "asked", "max_epochs", "expected"),
    [("cosine", None, 5, 5), ("cosine", 8, 5, 8), ("paper", None, -1, -1),
     ("cosine", 4, 5, "at least max_epochs=5, as the learning rate would rise again, got 4"),
     ("cosine", 0, 5, "an int >= 1, got 0"), ("cosine", None, -1, "an int >= 1, got -1"),
     ("cosine", 5.5, 5, "an int >= 1, got 5.5")],
)  # fmt: skip
def test_a_cosine_does_not_rise_within_the_training(schedule, asked, max_epochs, expected):
    scheduler = {"name": "alpha_cl", "schedule": schedule, "epochs": asked}
    cfg = OmegaConf.create({"data": {"dataset": "cifar10"}, "scheduler": scheduler, "max_epochs": max_epochs})
    if isinstance(expected, int):
        assert paper_method._schedule_epochs(cfg) == expected
    else:
        with pytest.raises((ValueError, TypeError), match=rf"^scheduler\.epochs: expected {expected}"):
            paper_method._schedule_epochs(cfg)


def test_an_unknown_schedule_is_an_error():
    cfg = OmegaConf.create({"data": {"dataset": "cifar10"}, "scheduler": {"name": "alpha_cl", "schedule": "linear"}})
    with pytest.raises(ValueError, match=r"scheduler\.schedule: expected one of paper, cosine, got linear"):
        paper_method._schedule(cfg)
