"""`monitor` in a config switches the monitor on, in every method, with the pairs that the method compares."""

import logging
import math

import lightning as L
import pytest
import torch
from selection import slow_but
from solo_clone import METHODS, load_solo, needs_clone, small_config
from torch import nn
from torch.utils.data import DataLoader

pytestmark = [
    needs_clone,
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # logging.warn
]


@pytest.fixture(scope="module")
def solo():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return load_solo()


def data(samples=24):
    generator = torch.Generator().manual_seed(0)
    crops = torch.randn(samples, 2, 3, 8, 8, generator=generator)
    return DataLoader([(i, list(crops[i]), i % 3) for i in range(samples)], batch_size=6)


def fit(solo, method, loader=None, own=None, **changes):
    logging.getLogger().setLevel(logging.ERROR)
    torch.manual_seed(0)
    model = (own or solo.METHODS[method])(small_config(method, **changes))
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, loader or data())
    found = [callback for callback in trainer.callbacks if type(callback).__name__ == "RepresentationMonitor"]
    return model, (found or [None])[0]


QUICK = "mocov2plus"
EVERY = slow_but([QUICK], [*METHODS, "alpha_cl"])


@pytest.mark.parametrize("method", EVERY)
def test_every_method_is_monitored_and_trains_as_without(solo, method):
    loss = {"name": "alpha_cl", "strategy": "infonce"}
    more = {"memory_bank_size": 12} if method == "supcon" else {}
    model, monitor = fit(solo, method, loss=loss | more, monitor={"every_n_epochs": 1, "samples": 18})
    alone, none = fit(solo, method, loss=loss | more)
    assert none is None
    for (name, a), b in zip(model.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    assert [look["epoch"] for look in monitor.history] == [0, 1, 2]
    assert all(math.isfinite(value) for look in monitor.history for value in look.values())
    negatives = {"mocov2plus": 24, "supcon": 8 + 12, "mocov3": 5, "nnclr": 5}.get(method, 10)
    least = 1 if method != "supcon" else 8
    assert least < monitor.history[-1]["effective_negatives"] <= negatives + 1e-4


def test_the_queue_of_moco_is_what_its_queries_are_weighed_against(solo):
    loss = {"name": "alpha_cl", "strategy": "infonce", "tau": 0.3}
    model, monitor = fit(solo, "mocov2plus", loss=loss, monitor={"every_n_epochs": 1, "samples": 6})
    with torch.no_grad():
        views = torch.stack([torch.stack(data().dataset[i][1]) for i in (0, 4, 8, 12, 16, 20)])
        query = nn.functional.normalize(model.eval()(views[:, 0])["z"])
        q = torch.softmax(query @ model.queue[1] / 0.3, dim=1)
    entropy = float(torch.special.entr(q).sum(dim=1).mean())
    assert monitor.history[-1]["alpha_entropy"] == pytest.approx(entropy, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "barlow_twins", "byol"])
def test_a_method_with_its_own_loss_is_monitored_too(solo, method):
    _, monitor = fit(solo, method, monitor=True)
    assert {"alignment", "knn", "effective_rank"} < set(monitor.history[-1])
    assert "effective_negatives" not in monitor.history[-1]


@pytest.mark.parametrize("off", [None, False])
def test_off(solo, off):
    assert fit(solo, "simclr", monitor=off)[1] is None


def test_mistakes_stop_before_training(solo):
    with pytest.raises(ValueError, match="monitor: samples: expected an int >= 1, got 0"):
        fit(solo, "simclr", monitor={"samples": 0})
    with pytest.raises(
        TypeError, match="monitor: expected options among every_n_epochs, samples, neighbours, prefix, got epochs"
    ):
        fit(solo, "simclr", monitor={"epochs": 1})
    with pytest.raises(TypeError, match=r"monitor: expected true, or options .* got 3"):
        fit(solo, "simclr", monitor=3)

    class Mine(solo.SimCLR):
        pass

    with pytest.raises(
        TypeError, match=r"monitor: expected none but with solo.methods.METHODS\[\"simclr\"\], got .*Mine"
    ):
        fit(solo, "simclr", own=Mine, monitor=True)
