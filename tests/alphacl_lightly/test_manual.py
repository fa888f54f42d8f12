"""The Python of the manual's chapter on lightly runs as it stands there, and does what the chapter says."""

import re
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from oracles import random_views
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CHAPTER = (Path(__file__).parents[2] / "docs" / "lightly.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", CHAPTER, flags=re.DOTALL | re.MULTILINE)
WITHOUT_LOSS = ["direct", "square", "inverse", "uniform"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),  # Lightning's own
]


def run(word):
    (code,) = (block for block in BLOCKS if word in block)
    names = {"__name__": "manual"}
    exec(compile(code, word, "exec"), names)
    return names


@pytest.fixture
def module(request):
    """The chapter's module with a small network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return run("self.reference")["Contrastive"](network, strategy=request.param)


@pytest.fixture
def data():
    """Forty batches of two views that lie close together."""
    z, noise = random_views(0, n=640, d=8, dtype=torch.float32)
    return DataLoader(TensorDataset(z.detach(), (z + 0.3 * noise).detach()), batch_size=16)


def trainer(folder, epochs):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", max_epochs=epochs, enable_model_summary=False, default_root_dir=folder, **quiet)


def test_the_first_lines_run():
    assert run("out0, out1 =")["loss"].isfinite()


@pytest.mark.parametrize("module", WITHOUT_LOSS, indirect=True)
def test_the_step_has_the_value_of_infonce_and_the_gradient_of_the_strategy(module, data, monkeypatch):
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **options: logged.update({name: value}))
    batch = next(iter(data))
    loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx(logged["infonce"].item(), rel=1e-6)
    assert loss > 0
    parameters = list(module.parameters())
    alone = module.criterion(*map(module.network, batch))
    assert alone < 0
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(alone, parameters))


def plain_step(module, batch, batch_index):
    return module.criterion(*map(module.network, batch))


@pytest.mark.parametrize("module", WITHOUT_LOSS, indirect=True)
def test_the_tuner_finds_a_rate_by_the_value_of_infonce_and_none_without(module, data, tmp_path, monkeypatch):
    finder = Tuner(trainer(tmp_path, epochs=1)).lr_find(module, data, num_training=40, max_lr=10, update_attr=False)
    assert 1e-6 < finder.suggestion() < 10
    monkeypatch.setattr(type(module), "training_step", plain_step)
    finder = Tuner(trainer(tmp_path, epochs=1)).lr_find(module, data, num_training=40, max_lr=10, update_attr=False)
    assert finder is None or finder.suggestion() is None


@pytest.mark.parametrize("module", ["direct"], indirect=True)
def test_the_plateau_scheduler_sees_a_plateau(module, data, tmp_path):
    module.lr = 1e-7  # hardly anything moves
    training = trainer(tmp_path, epochs=8)
    training.fit(module, data)
    assert training.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-8)


@pytest.mark.parametrize(("value", "rate"), [(1.0, 0.1), (-1.0, 1.0)])
def test_the_plateau_scheduler_is_blind_below_zero(value, rate):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)
    for _ in range(8):
        scheduler.step(value)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
