"""solo-learn from an unmodified clone in the folder SOLO_LEARN_HOME (default ~/solo-learn), and small models of it."""

import copy
import importlib.util
import logging
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

SOLO_LEARN_HOME = Path(os.environ.get("SOLO_LEARN_HOME", "~/solo-learn")).expanduser()
NEEDS = ("einops", "hydra", "lightning", "omegaconf", "sklearn", "timm", "torchmetrics", "torchvision", "wandb")
MISSING = [name for name in NEEDS if importlib.util.find_spec(name) is None]

needs_clone = pytest.mark.skipif(
    not (SOLO_LEARN_HOME / "main_pretrain.py").exists() or bool(MISSING),
    reason=f"needs a clone of solo-learn at {SOLO_LEARN_HOME}" + (f" and {', '.join(MISSING)}" if MISSING else ""),
)

METHODS = ("simclr", "supcon", "mocov2plus", "mocov3", "nnclr")


class Tiny(nn.Module):
    """A backbone without batch statistics, that takes crops of any size."""

    num_features = 6

    def __init__(self, method, width=6):
        super().__init__()
        self.layer = nn.Linear(3 * 16, width)

    def forward(self, images):
        return torch.tanh(self.layer(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)))


@contextmanager
def unchanged_timm():
    """Put timm's table of models back as it was: importing solo-learn changes it, for all tests in this process."""
    from timm.models import _registry

    tables = {
        name: table for name, table in vars(_registry).items() if isinstance(table, (dict, set)) and "__" not in name
    }
    before = {name: copy.copy(table) for name, table in tables.items()}
    for nested in ("_module_to_models", "_model_with_tags", "_module_to_deprecated_models"):
        for key, value in tables[nested].items():
            before[nested][key] = copy.copy(value)
    yield
    for name, table in tables.items():
        table.clear()
        table.update(before[name])


def load_solo():
    """Import solo-learn and register the adapter."""
    sys.path.append(str(SOLO_LEARN_HOME))
    with unchanged_timm(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import solo.methods
    sys.path.remove(str(SOLO_LEARN_HOME))  # it has a package called tests

    original = solo.methods.SimCLR
    from alphacl_solo_learn import register

    register()
    assert solo.methods.SimCLR is original, "register: expected solo-learn's own names to stay"
    solo.methods.BaseMethod._BACKBONES["tiny"] = Tiny
    return solo.methods


def small_config(method, **changes):
    """A config as `main_pretrain.py` hands it to a method, after `parse_cfg`."""
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(
        {
            "name": "test",
            "method": method,
            "backbone": {"name": "tiny"},
            "method_kwargs": {
                "proj_output_dim": 4,
                "proj_hidden_dim": 8,
                "pred_hidden_dim": 8,
                "temperature": 0.2,
                "queue_size": 24,
                "lamb": 0.1,
                "scale_loss": 0.1,
            },
            "data": {"dataset": "custom", "num_large_crops": 2, "num_small_crops": 0, "num_classes": 3},
            "momentum": {"base_tau": 0.99, "final_tau": 1.0},
            "optimizer": {"name": "sgd", "batch_size": 6, "lr": 0.1, "classifier_lr": 0.1, "weight_decay": 0.1},
            "scheduler": {"name": "none", "interval": "epoch"},
            "max_epochs": 2,
        }
    )
    return OmegaConf.merge(cfg, OmegaConf.create(changes))


def build(cls, cfg, seed=0):
    """Build a method in float64 with weights that follow from the seed alone; what it logs is in ``.logged``."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # logging.warn
        logging.getLogger().setLevel(logging.ERROR)
        torch.manual_seed(seed)
        model = cls(cfg).double()
    if hasattr(model, "queue"):
        model.queue = nn.functional.normalize(model.queue, dim=1)  # again, to float64 rounding
    model.logged = {}
    model.log = lambda name, value, **_: model.logged.update({name: value.detach()})
    model.log_dict = lambda values, **_: model.logged.update({k: v.detach() for k, v in values.items()})
    return model


def batch(samples=6, sizes=(8, 8), seed=0):
    """A batch as solo-learn's loaders give it: indexes, one tensor of images per crop, targets."""
    generator = torch.Generator().manual_seed(seed)
    crops = [torch.randn(samples, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]
    return [torch.arange(samples), crops, torch.arange(samples) % 3]


def step(model, data):
    """Take a training step; return its loss and the gradient of every parameter that has one."""
    model.zero_grad()
    loss = model.training_step(data, 0)
    loss.backward()
    return SimpleNamespace(
        loss=loss.detach(), grads={n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    )
