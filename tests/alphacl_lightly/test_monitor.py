"""The monitor logs what the embeddings are, and training goes on as if nobody had looked."""

import copy
import csv
import importlib
import inspect
import logging
import math
import os
import random
import re
import sys
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from processes import run_in_processes
from selection import slow_but
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import alphacl_lightly
import alphacl_lightly.monitor as monitor_module
from alphacl_lightly import AlphaCLLoss, RepresentationMonitor
from alphacl_lightly.embedding import Embedded, embed, knn_accuracy
from alphacl_plugins import metrics
from alphacl_plugins.functional import l2_normalize

LIGHTNINGS_OWN = (  # warnings
    ".*LeafSpec.* is deprecated",
    "The '.*dataloader' does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists",
    "Experiment logs directory .* exists",
)


pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in LIGHTNINGS_OWN]

for package in ("lightning.pytorch", "pytorch_lightning"):
    logging.getLogger(package).setLevel(logging.ERROR)


class Views(Dataset):
    """Two noisy views of points in four classes; the noise is drawn from all three generators."""

    def __init__(self, n=72, width=6, classes=4):
        generator = torch.Generator().manual_seed(3)
        self.labels = torch.arange(n) % classes
        self.points = torch.randn(classes, width, generator=generator)[self.labels]
        self.points = self.points + 0.3 * torch.randn(n, width, generator=generator)

    def __len__(self):
        return len(self.labels)

    def view(self, i):
        return self.points[i] + 0.2 * torch.randn(6) + 0.1 * random.random() + float(0.1 * np.random.rand())

    def __getitem__(self, i):
        return [self.view(i), self.view(i)], int(self.labels[i]), f"{i}.png"


class Module(L.LightningModule):
    """What a user has: a backbone with batch statistics, a head, a loss."""

    def __init__(self, criterion=None, rate=0.02):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
            self.head = nn.Sequential(nn.Linear(8, 5), nn.Dropout(0.1))
        self.criterion = AlphaCLLoss("infonce", tau=0.2) if criterion is None else criterion
        self.rate = rate

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, _):
        (x0, x1), _, _ = batch
        return self.criterion(self(x0), self(x1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def loader(**options):
    generator = torch.Generator().manual_seed(1)
    return DataLoader(Views(), batch_size=24, shuffle=True, generator=generator, **options)


def trainer(folder=None, epochs=4, callbacks=(), package=L, **options):
    return package.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=options.pop("logger", False),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=folder,
        **options,
    )


def trained(monitor=None, criterion=None, epochs=4, data=None, **options):
    L.seed_everything(5, verbose=False)
    module = Module(criterion)
    trainer(epochs=epochs, callbacks=[] if monitor is None else [monitor], **options).fit(module, data or loader())
    return module


def test_the_numbers_are_those_of_the_metrics():
    monitor = RepresentationMonitor(every_n_epochs=2, samples=1000, neighbours=3)
    module = trained(monitor)
    assert [(look["epoch"], look["step"]) for look in monitor.history] == [(0, 0), (2, 6), (4, 12)]
    views, labels = [[], []], torch.arange(72) % 4
    for i in range(72):
        random.seed(i), np.random.seed(i), torch.manual_seed(i)
        for seen, view in zip(views, Views()[i][0], strict=True):
            seen.append(view)
    with torch.no_grad():
        features = module.backbone.eval()(torch.stack(views[0]))
        z, z_aug = (l2_normalize(module.head.eval()(module.backbone(torch.stack(view)))) for view in views)
    expected = {
        "alignment": metrics.alignment(z, z_aug),
        "uniformity": metrics.uniformity(z),
        "rank": metrics.rank(z),
        "effective_rank": metrics.effective_rank(z),
        "tolerance": metrics.tolerance(z, labels),
        "knn": torch.tensor(knn_accuracy(features, labels, 3)),
    }
    rows = [module.criterion.pair_weights(z[i : i + 24], z_aug[i : i + 24]).neg for i in (0, 24, 48)]
    each = torch.cat([metrics.alpha_entropy(row[None])[None] for block in rows for row in block])
    expected |= {"alpha_entropy": each.mean(), "effective_negatives": each.mean().exp()}
    for q in (5, 25, 50, 75, 95):
        expected[f"effective_negatives_{q:02}"] = each.exp().quantile(q / 100)
    found = {name: value for name, value in monitor.history[-1].items() if name not in ("epoch", "step")}
    assert found == {name: pytest.approx(float(value), rel=1e-5) for name, value in expected.items()}


CRITERIA = {
    "infonce": lambda: AlphaCLLoss("infonce", tau=0.2),
    "a memory bank": lambda: AlphaCLLoss("infonce", memory_bank_size=64),
    "a learnable temperature": lambda: AlphaCLLoss("infonce", learnable_tau=True),
    "a calibrated temperature": lambda: AlphaCLLoss("infonce", effective_share=0.3),
    "gathering": lambda: AlphaCLLoss("direct", gather_distributed=True),
    "another library's": nn.MSELoss,
}


QUICK = "a memory bank"


@pytest.mark.parametrize("criterion", slow_but([QUICK], CRITERIA))
def test_training_goes_on_as_if_nobody_had_looked(criterion):
    monitor = RepresentationMonitor(every_n_epochs=1)
    watched, alone = trained(monitor, CRITERIA[criterion]()), trained(None, CRITERIA[criterion]())
    for (name, a), b in zip(watched.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    assert len(monitor.history) == 5
    assert all(math.isfinite(value) for look in monitor.history for value in look.values())
    assert ("effective_negatives" in monitor.history[-1]) == (criterion != "another library's")
    assert watched.training
    assert watched.head[1].training


@pytest.mark.slow
def test_workers_change_nothing():
    alone, in_workers = (RepresentationMonitor(every_n_epochs=2) for _ in range(2))
    trained(alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        trained(in_workers, data=loader(num_workers=2))
    assert alone.history[0] == in_workers.history[0]


def test_a_resumed_run_continues_its_curves(tmp_path):
    whole = RepresentationMonitor(every_n_epochs=1)
    data = DataLoader(Views(), batch_size=24)
    trained(whole, data=data)
    first, second = (RepresentationMonitor(every_n_epochs=1) for _ in range(2))
    L.seed_everything(5, verbose=False)
    run = trainer(tmp_path, 2, [first])
    run.fit(Module(), data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert len(first.history) == 3
    resumed = trainer(tmp_path, 4, [second])
    trusts = {"weights_only": False} if "weights_only" in inspect.signature(resumed.fit).parameters else {}
    resumed.fit(Module(), data, ckpt_path=tmp_path / "last.ckpt", **trusts)
    assert [look["epoch"] for look in second.history] == [0, 1, 2, 3, 4]
    assert second.history[:3] == whole.history[:3]


def test_it_logs_to_every_logger_and_for_callbacks(tmp_path):
    loggers = [CSVLogger(tmp_path, "csv", "0"), TensorBoardLogger(tmp_path, "board", "0")]
    stopping = EarlyStopping("monitor/knn", patience=99, mode="max", check_on_train_epoch_end=True)
    monitor = RepresentationMonitor(every_n_epochs=1)
    L.seed_everything(5, verbose=False)
    run = trainer(tmp_path, 2, [monitor, stopping], logger=loggers, log_every_n_steps=1)
    run.fit(Module(), loader())
    assert float(run.callback_metrics["monitor/knn"]) == pytest.approx(monitor.history[-1]["knn"])
    with open(tmp_path / "csv" / "0" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["monitor/alignment"]]
    assert [(int(row["step"]), float(row["monitor/alignment"])) for row in rows] == [
        (look["step"], look["alignment"]) for look in monitor.history
    ]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board" / "0"))
    events.Reload()
    assert [event.step for event in events.Scalars("monitor/uniformity")] == [0, 3, 6]


def test_the_other_package_of_lightning():
    class Other(pytorch_lightning.LightningModule):
        forward, training_step, configure_optimizers = Module.forward, Module.training_step, Module.configure_optimizers

        def __init__(self):
            super().__init__()
            inner = Module()
            self.backbone, self.head, self.criterion, self.rate = inner.backbone, inner.head, inner.criterion, 0.02

    monitor, expected = (RepresentationMonitor(every_n_epochs=1) for _ in range(2))
    L.seed_everything(5, verbose=False)
    run = trainer(epochs=2, callbacks=[monitor], package=pytorch_lightning)
    run.fit(Other(), loader())
    trained(expected, epochs=2)
    assert monitor.history == expected.history
    assert float(run.callback_metrics["monitor/rank"]) == monitor.history[-1]["rank"]


def test_held_out_data_and_what_a_module_returns():
    held_out = DataLoader(TensorDataset(torch.randn(31, 6, generator=torch.Generator().manual_seed(1))), batch_size=8)
    monitor = RepresentationMonitor(held_out, samples=16)
    trained(monitor, epochs=1)
    assert set(monitor.history[-1]) == {"epoch", "step", "uniformity", "rank", "effective_rank"}  # one view, no labels
    module = Module()
    seen = embed(module, [torch.arange(3), [torch.ones(3, 6), torch.zeros(3, 6)], torch.tensor([2, 0, 1])])
    assert len(seen.views) == 2
    assert torch.equal(seen.labels, torch.tensor([2, 0, 1]))
    assert seen.features.shape == (3, 8)
    assert not module.backbone._forward_hooks

    def returns_a_mapping(x):
        return {"feats": x, "z": x[:, :2]}

    seen = embed(returns_a_mapping, torch.ones(3, 6))
    assert seen.views[0].shape == seen.features.shape == (3, 2)
    assert seen.labels is None


def test_own_ways_to_embed_and_to_weigh():
    def own(module, batch):
        (x0, x1), labels, _ = batch
        return Embedded([module(x0), module(x1)], x0, labels)

    def with_labels(loss, views, labels):
        return loss.pair_weights(*views, labels=labels)

    probe = AlphaCLLoss("uniform")
    monitor = RepresentationMonitor(embed=own, loss=probe, weigh=with_labels, prefix="held_out", samples=24)
    module = trained(monitor, nn.MSELoss(), epochs=1)
    assert monitor.history[-1]["effective_negatives"] == pytest.approx(48 - 12)  # those of other classes
    assert module.trainer.callback_metrics["held_out/effective_negatives"] == pytest.approx(36)


class Collapsing(Module):
    def training_step(self, batch, _):
        (x0, x1), _, _ = batch
        z0, z1 = self(x0), self(x1)
        return (z0 - 1).square().sum() + (z1 - 1).square().sum()


class OnALine(Module):
    def forward(self, x):
        return torch.cat([x[:, :1], 1e-5 * x[:, 1:5]], dim=1) + 0 * super().forward(x)


class Diverging(Module):
    def training_step(self, batch, _):
        return super().training_step(batch, _) * math.inf


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Collapsing, r"after epoch \d: uniformity -0\.\d+ > -0\.5: the embeddings are nearly one point, and it is not"),
        (OnALine, r"after epoch \d: effective_rank 1\.0\d < 1\.12 at rank 5: few directions are in use, and it is"),
        (
            Diverging,
            r"after epoch \d: the embeddings are not finite, and it is not getting better",
        ),
    ],
)
def test_collapse_is_told(kind, message, monkeypatch):
    run = trainer(epochs=3, callbacks=[RepresentationMonitor(every_n_epochs=1)])
    run.fit(kind(rate=0.005), loader())  # nine steps are too few to tell
    monkeypatch.setattr(monitor_module, "LEAST_STEPS", 3)
    run = trainer(epochs=3, callbacks=[RepresentationMonitor(every_n_epochs=1)])
    with pytest.warns(UserWarning, match=message):
        run.fit(kind(rate=0.005), loader())


def test_two_monitors_and_a_training_that_ends_early():
    first, second = RepresentationMonitor(), RepresentationMonitor(loader(), prefix="held_out")
    run = trainer(epochs=-1, callbacks=[first, second], max_steps=8)
    run.fit(Module(), loader())
    assert [(look["epoch"], look["step"]) for look in first.history] == [(0, 0), (3, 8)]
    assert first.history == second.history
    trainer(epochs=1, callbacks=[first]).fit(Module(), loader())
    assert [look["epoch"] for look in first.history] == [0, 1]  # of the new training


@pytest.mark.slow
def test_alpha_is_that_of_batches_as_large_as_in_training():
    expected = None
    for held_out in (None, DataLoader(Views(), batch_size=1), DataLoader(Views(), batch_size=50)):
        monitor = RepresentationMonitor(held_out, samples=10)  # a whole batch is looked at
        trained(monitor, epochs=1)
        expected = expected or monitor.history[0]["effective_negatives"]
        assert monitor.history[0]["effective_negatives"] == pytest.approx(expected, rel=1e-6)
    sampler = BatchSampler(RandomSampler(Views()), 24, drop_last=True)
    items = TensorDataset(*(torch.stack([Views()[i][0][k] for i in range(72)]) for k in range(2)))
    monitor = RepresentationMonitor(samples=72)
    module = Module()
    module.training_step = lambda batch: module.criterion(*map(module, batch))
    trainer(epochs=1, callbacks=[monitor]).fit(module, DataLoader(items, sampler=sampler, batch_size=None))
    assert monitor.history[0]["effective_negatives"] <= 46


@pytest.mark.slow
@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_random_numbers_of_the_user_are_the_same_each_time(draw):
    def own(module, batch):
        views = [module(view + draw()) for view in batch[0]]
        return Embedded(views, views[0])

    monitor = RepresentationMonitor(embed=own, every_n_epochs=1)
    L.seed_everything(5, verbose=False)
    data = DataLoader(Views(), batch_size=24, num_workers=1)
    module = Module(rate=0.0)
    module.backbone = nn.Linear(6, 8)  # nothing moves
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        trainer(epochs=2, callbacks=[monitor]).fit(module, data)
    looks = [{name: look[name] for name in ("alignment", "uniformity")} for look in monitor.history]
    assert looks == [looks[0]] * 3


def test_nearest_neighbours_by_loops():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(21, 3, generator=generator), torch.randint(3, (21,), generator=generator)
    unit, right = l2_normalize(features), 0
    for i in range(21):
        others = [j for j in range(21) if j % 2 != i % 2]
        nearest = sorted(others, key=lambda j: -float(unit[i] @ unit[j]))[:5]
        votes = [sum(math.exp(float(unit[i] @ unit[j]) / 0.1) for j in nearest if labels[j] == c) for c in range(3)]
        right += int(np.argmax(votes) == int(labels[i]))
    assert knn_accuracy(features, labels + 7, neighbours=5) == pytest.approx(100 * right / 21)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Views()[i] for i in range(24))


class TwoLosses(Module):
    def __init__(self):
        super().__init__()
        self.other = AlphaCLLoss()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RepresentationMonitor(every_n_epochs=0), ValueError, "every_n_epochs: expected an int >= 1, got 0"),
        (lambda: RepresentationMonitor(samples=2.5), TypeError, "samples: expected an int >= 1, got 2.5"),
        (lambda: RepresentationMonitor([1]), TypeError, "dataloader: expected a DataLoader, got list"),
        (
            lambda: RepresentationMonitor(DataLoader(Stream())),
            TypeError,
            "dataloader: expected a dataset with a length",
        ),
        (lambda: RepresentationMonitor(DataLoader([1])), ValueError, "dataloader: expected at least 2 samples, got 1"),
        (lambda: RepresentationMonitor(loss="infonce"), TypeError, "loss: expected an AlphaCLLoss or None, got str"),
        (
            lambda: trainer(callbacks=[RepresentationMonitor()]).fit(TwoLosses(), loader()),
            ValueError,
            "loss: expected one AlphaCLLoss in the module, got criterion, other; pass loss=",
        ),
        (
            lambda: trainer(callbacks=[RepresentationMonitor()]).fit(Module(), {"a": loader()}),
            TypeError,
            "dataloader: expected a DataLoader, got dict",
        ),
        (lambda: embed(Module(), ["a", torch.arange(3)]), ValueError, "batch: expected views .* got list without one"),
        (
            lambda: embed(lambda x: x[0], torch.ones(2, 3)),
            TypeError,
            r"embed: expected embeddings \[n, D\] .* got \(3,\)",
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_lightly_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly.utils.benchmarking", None)
    monkeypatch.delitem(sys.modules, "alphacl_lightly.embedding")
    with pytest.raises(ImportError, match=r"needs lightly: pip install 'alphacl-plugins\[lightly\]'"):
        importlib.import_module("alphacl_lightly.embedding")


def test_the_package_names_what_it_has():
    assert alphacl_lightly.RepresentationMonitor is RepresentationMonitor
    with pytest.raises(AttributeError, match=re.escape("module 'alphacl_lightly' has no attribute 'Monitor'")):
        alphacl_lightly.Monitor  # noqa: B018


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_lines_of_the_manual_run(tmp_path, monkeypatch):
    """Beginning with ``import lightning as L``, and with two epochs in place of a hundred."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "monitor.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    quiet = "max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator='cpu'"
    names = {"L": L}
    for code in blocks:
        assert code.count("max_epochs=100") == code.count("Trainer(")
        exec(compile(code.replace("max_epochs=100", quiet), "monitor.md", "exec"), names)
        if "Trainer(" in code:
            names["trainer"].fit(Module(), loader())
    assert {path.name for path in tmp_path.glob("*.png")} == {"curves.png", "effective_negatives.png"}


def together(rank, world, expected, state):
    for message in LIGHTNINGS_OWN:
        warnings.filterwarnings("ignore", message)
    os.environ["LOCAL_RANK"] = str(rank)
    monitor = RepresentationMonitor(every_n_epochs=1, samples=71)
    module = Module(AlphaCLLoss("infonce", gather_distributed=True), rate=0.0)
    module.load_state_dict(state)
    run = trainer(epochs=1, callbacks=[monitor], devices=world, strategy="ddp")
    run.fit(module, DataLoader(Views(), batch_size=24 // world))
    assert monitor.history[0] == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    assert float(run.callback_metrics["monitor/knn"]) == pytest.approx(monitor.history[-1]["knn"])


@pytest.mark.slow
def test_two_processes_log_what_one_logs(tmp_path):
    monitor = RepresentationMonitor(every_n_epochs=1, samples=71)
    module = Module(AlphaCLLoss("infonce", gather_distributed=True), rate=0.0)
    state = copy.deepcopy(module.state_dict())
    trainer(epochs=1, callbacks=[monitor]).fit(module, DataLoader(Views(), batch_size=24))
    run_in_processes(2, tmp_path, together, monitor.history[0], state)
