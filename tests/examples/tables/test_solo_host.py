"""A cell by solo-learn: what it is told, the same pixels, its logs and checkpoints, and a result as lightly's."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_folder import write_digits
from solo_clone import needs_clone
from torch.testing import assert_close
from torch.utils.tensorboard import SummaryWriter

from image_folder import decode, list_images
from recipe import protocol
from recipe.data import Data, Images, load
from recipe.network import Network
from recipe.settings import Settings
from tables import solo_host
from tables.paper import ROWS
from tables.solo_host import CUSTOM_SIZE, NORMALIZATION, SoloLearn, trained_network
from tables.solo_images import write_images
from tables.solo_logs import accuracies, curve, latest_checkpoint

EXAMPLES = Path(__file__).parents[3] / "examples"
CIFAR10 = protocol.DATASETS["cifar10"]


def random_data(unlabeled=0, classes=12, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def images(n, labels):
        return Images(torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator), labels)

    labels = torch.arange(2 * classes) % classes
    empty = torch.full((unlabeled,), -1)
    return Data(
        images(2 * classes, labels), images(classes, labels[:classes]), images(unlabeled, empty),
        tuple(f"class {label}" for label in range(classes)), "random",
    )  # fmt: skip


def read_back(folder):
    _, files, labels = list_images(folder)
    order = sorted(range(len(files)), key=lambda i: files[i].name)  # numbered in the order of the data
    return decode([files[i] for i in order], 8), torch.from_numpy(labels[order])


def test_the_pixels_and_labels_are_the_same(tmp_path):
    data = random_data()
    folders = write_images(data, tmp_path / "images")
    for part, folder in ((data.train, folders.train), (data.test, folders.test)):
        pixels, labels = read_back(folder)
        assert torch.equal(pixels, part.pixels)
        assert torch.equal(labels, part.labels)
    assert folders.pretraining == folders.train
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_unlabeled_images_are_for_pretraining_alone(tmp_path):
    data = random_data(unlabeled=5)
    folders = write_images(data, tmp_path / "images")
    assert len(list(folders.train.rglob("*.png"))) == 24
    assert len([file for folder in folders.pretraining.iterdir() for file in folder.glob("*.png")]) == 24 + 5
    unlabeled = sorted((folders.pretraining / "unlabeled").iterdir())
    assert torch.equal(decode(unlabeled, 8), data.unlabeled.pixels)


def test_images_are_written_once_and_whole(tmp_path, monkeypatch):
    write_images(random_data(), tmp_path / "images")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_images(random_data(seed=1), tmp_path / "images")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def full(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        raise OSError("no space left")

    monkeypatch.setattr("tables.solo_images._write", full)
    with pytest.raises(OSError, match="no space left"):
        write_images(random_data(), tmp_path / "others")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_no_clone_is_an_error_that_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SOLO_LEARN_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"SOLO_LEARN_HOME: expected a clone of .*, got none at {tmp_path}"):
        solo_host.run(CIFAR10, Settings(), SoloLearn())


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that looks like a clone."""
    home = tmp_path / "clone"
    home.mkdir()
    (home / "main_pretrain.py").touch()
    monkeypatch.setenv("SOLO_LEARN_HOME", str(home))
    return home


@pytest.mark.parametrize("changes", [{"devices": 2}, {"num_nodes": 2}, {"compile": True}, {"memory_bank_size": 9}])
def test_what_solo_learn_cannot_do_is_an_error(changes, clone):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}: expected .* with solo-learn, got {value}"):
        solo_host.run(CIFAR10, Settings(**changes), SoloLearn())


@pytest.mark.parametrize("name", ["linear_epochs", "workers"])
def test_negative_numbers_are_errors(name):
    with pytest.raises(ValueError, match=f"{name}: expected an int >= 0, got -1"):
        SoloLearn(**{name: -1})


class Scripts:
    """Stands in for solo-learn: writes the checkpoint of main_pretrain.py, the accuracies of main_linear.py."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.code = 0
        monkeypatch.setattr(solo_host, "run_child", self)

    def __call__(self, command, environment):
        script = Path(command[1]).name
        options = dict(part.replace(r"\'", "'").split("=", 1) for part in command[4:])
        assert not any("o'ut" in part for part in command)  # quoted for Hydra
        self.calls.append((script, command[3], options))
        epochs = int(options["max_epochs"])
        if self.code == 0 and script == "main_pretrain.py":
            folder = Path(options["checkpoint.dir"].strip("'"), "alpha_cl", str(len(self.calls)))
            folder.mkdir(parents=True)
            name = options["backbone.name"].removeprefix("timm/")
            weights = Network(name, 32, (0.0,) * 3, (1.0,) * 3).backbone.state_dict()
            saved = {f"backbone.{key}": value for key, value in weights.items()} | {"backbone.built_for": torch.ones(2)}
            torch.save({"state_dict": saved, "epochs": epochs}, folder / f"cell-ep={epochs - 1}.ckpt")
        elif self.code == 0:
            with SummaryWriter(Path(options["+default_root_dir"].strip("'"), "lightning_logs/version_0")) as log:
                for epoch, value in enumerate((30.0, 42.0, 40.0)):
                    log.add_scalar("val_acc1", value, epoch)
        return self.code


@pytest.fixture
def scripts(monkeypatch):
    return Scripts(monkeypatch)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("data") / "digits")


def tiny(digits, output, **changes):
    return Settings(
        **{"backbone": "test_resnet", "data_root": digits, "output": output, "device": "cpu", "batch_size": 64,
           "epochs": 2, "eval_epochs": (1,)} | changes
    )  # fmt: skip


def test_the_order_of_a_run_and_what_the_scripts_are_told(digits, tmp_path, clone, scripts):
    settings = tiny(digits, tmp_path / "o'ut", **ROWS["inverse"].options, seed=4)
    result = json.loads(solo_host.run(CIFAR10, settings, SoloLearn(linear_epochs=3, workers=0)).read_text())
    steps = [(script, config, options["max_epochs"]) for script, config, options in scripts.calls]
    assert steps == [
        ("main_pretrain.py", "alphacl_cifar10_resnet18", "1"),
        ("main_linear.py", "alphacl_cifar10_resnet18_linear", "3"),
        ("main_pretrain.py", "alphacl_cifar10_resnet18", "2"),
        ("main_linear.py", "alphacl_cifar10_resnet18_linear", "3"),
    ]
    first, linear, second, _ = (options for _, _, options in scripts.calls)
    expected = {
        "backbone.name": "timm/test_resnet",
        "+seed": "4",
        "optimizer.batch_size": "64",
        "optimizer.lr": "0.04",  # x 64 / 256 = 0.01
        "scheduler.schedule": "cosine",  # images of one's own, by their number
        "scheduler.epochs": "2",
        "loss.strategy": "inverse",
        "accelerator": "cpu",
        "+precision": "32-true",
        "data.dataset": "custom",
        "data.val_path": "null",
        "+augmentations.0.mean": "[0.4914,0.4822,0.4465]",
        "+augmentations.0.std": "[0.247,0.2435,0.2616]",
    }
    assert {name: first[name] for name in expected} == expected
    assert "+resume_from_checkpoint" not in first
    assert second["+resume_from_checkpoint"].endswith("/inverse-batch_size=64-seed4/epoch-1.ckpt'")
    assert second["+seed"] != "4"  # other views than in the first epoch
    assert linear["data.train_path"].endswith("/train'")
    assert linear["data.val_path"].endswith("/test'")
    assert linear["optimizer.lr"] == "0.0006"
    assert result["host_linear"]["2"].items() >= {
        "best": 42.0, "last": 40.0, "epochs": 3, "image_size": CUSTOM_SIZE, "curve": [30.0, 42.0, 40.0]
    }.items()  # fmt: skip


def test_a_finished_run_does_nothing_and_a_longer_one_goes_on(digits, tmp_path, clone, scripts):
    settings = tiny(digits, tmp_path / "out", epochs=1, schedule="paper")
    none = SoloLearn(linear_epochs=0)
    path = solo_host.run(CIFAR10, settings, none)
    assert json.loads(path.read_text())["host_linear"] == {}
    with pytest.raises(ValueError, match="output: expected a folder without a run"):
        solo_host.run(CIFAR10, settings, none)
    solo_host.run(CIFAR10, replace(settings, resume=True), none)
    assert len(scripts.calls) == 1
    solo_host.run(CIFAR10, replace(settings, resume=True, epochs=3), none)
    assert scripts.calls[1][2]["+resume_from_checkpoint"].endswith("epoch-1.ckpt'")
    with pytest.raises(ValueError, match="eval_epochs: expected epochs after 3, where the run is, got 2"):
        solo_host.run(CIFAR10, replace(settings, resume=True, epochs=2), none)


def test_a_script_that_fails_is_an_error(digits, tmp_path, clone, scripts):
    scripts.code = 1
    with pytest.raises(ChildProcessError, match=r"main_pretrain.py: expected exit code 0, got 1"):
        solo_host.run(CIFAR10, tiny(digits, tmp_path / "out"), SoloLearn())


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_solo_learn_gets_the_loss_of_the_row(row, digits, tmp_path, clone, scripts):
    """The options, read as the adapter reads them, are the row's strategy."""
    from omegaconf import OmegaConf

    from alphacl_solo_learn.config import build_criterion

    solo_host.run(CIFAR10, tiny(digits, tmp_path / "out", epochs=1, **row.options), SoloLearn(linear_epochs=0))
    options = scripts.calls[0][2]
    cfg = OmegaConf.create({"method": "alpha_cl", "loss": {"name": "alpha_cl"}})
    for name, value in options.items():
        if name.startswith("loss."):
            OmegaConf.update(cfg, name, OmegaConf.from_dotlist([f"x={value}"]).x, force_add=True)
    criterion = build_criterion(cfg, fixed={})
    assert criterion.strategy == row.strategy
    assert criterion.detach_alpha == row.detach_alpha


def test_solo_learn_is_told_who_is_compared(digits, tmp_path, clone, scripts):
    settings = tiny(digits, tmp_path / "out", epochs=1, negatives="same", symmetric=False)
    solo_host.run(CIFAR10, settings, SoloLearn(linear_epochs=0))
    options = scripts.calls[0][2]
    assert (options["loss.negatives"], options["loss.symmetric"]) == ("same", "false")


def test_torchvision_s_files_are_read_by_solo_learn_itself(tmp_path, clone, scripts, monkeypatch):
    data = replace(random_data(classes=10), source="torchvision cifar10")
    monkeypatch.setattr(solo_host.data_sets, "load", lambda *_, **__: data)
    monkeypatch.setattr(solo_host, "_judge", lambda *_: None)
    settings = Settings(epochs=1, batch_size=16, output=tmp_path / "out", data_root=tmp_path / "root", device="cpu")
    solo_host.run(CIFAR10, settings, SoloLearn())
    (_, _, options), (_, _, linear) = scripts.calls
    assert "data.dataset" not in options | linear  # the config's
    assert options["data_root"] == f"'{tmp_path / 'root'}'"
    limited = replace(settings, limit=10, output=tmp_path / "limited")
    solo_host.run(CIFAR10, limited, SoloLearn())
    assert scripts.calls[2][2]["data.dataset"] == "custom"


def test_a_checkpoint_is_judged_with_the_weights_and_normalisation_of_its_training(tmp_path):
    torch.manual_seed(0)
    settings = Settings(backbone="test_resnet")
    trained = Network("test_resnet", 32, *NORMALIZATION["stl10"])
    saved = {f"backbone.{name}": value for name, value in trained.backbone.state_dict().items()}
    torch.save(
        {"state_dict": saved | {"backbone.built_for": torch.ones(2), "projector.0.bias": torch.ones(1)}},
        tmp_path / "epoch-1.ckpt",
    )
    network = trained_network(tmp_path / "epoch-1.ckpt", protocol.DATASETS["stl10"], settings, 32).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZATION["stl10"])
    with torch.no_grad():
        expected = trained.eval().backbone((images - mean) / std)
        assert_close(network.features(images), expected)
    del saved["backbone.layer1.0.conv1.weight"]
    torch.save({"state_dict": saved | {"backbone.built_for": torch.ones(2)}}, tmp_path / "epoch-2.ckpt")
    with pytest.raises(RuntimeError, match="Missing key"):
        trained_network(tmp_path / "epoch-2.ckpt", protocol.DATASETS["stl10"], settings, 32)


def test_the_last_whole_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for name in ("a/cell-0-ep=4.ckpt", "a/cell-0-ep=9.ckpt", "b/cell-1-ep=10.ckpt", "epoch-3.ckpt", "last.ckpt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.save({"name": name, "weights": torch.ones(1000)}, path)
    assert latest_checkpoint(tmp_path) == (11, tmp_path / "b/cell-1-ep=10.ckpt")
    whole = (tmp_path / "b/cell-1-ep=10.ckpt").read_bytes()
    (tmp_path / "b/cell-1-ep=10.ckpt").write_bytes(whole[: len(whole) // 2])  # killed while it was written
    assert latest_checkpoint(tmp_path) == (10, tmp_path / "a/cell-0-ep=9.ckpt")


def write_log(folder, version, epochs, seconds, start, first=0):
    """A log of solo-learn: two steps in an epoch, each epoch so many seconds, from a start on."""
    started = folder / "checkpoints/alpha_cl" / str(version) / "args.json"
    started.parent.mkdir(parents=True)
    started.touch()
    os.utime(started, (start, start))
    with SummaryWriter(folder / f"lightning_logs/version_{version}") as log:
        for number, epoch in enumerate(epochs, start=1):
            step, now = 2 * epoch + 1 - first, start + number * seconds
            log.add_scalar("epoch", epoch, step, now)
            for name, value in (
                ("nce_loss", 0.5),
                ("alignment", 0.8),
                ("negative_distance", 1.2),
                ("alpha_entropy", 4),
            ):
                log.add_scalar(f"train_{name}_epoch", value + epoch, step, now)


def test_the_curve_is_in_the_form_of_lightly_s(tmp_path):
    write_log(tmp_path, 2, (0, 1, 2), seconds=10, start=1_000)
    write_log(tmp_path, 10, (2, 3), seconds=20, start=2_000)  # killed in epoch 2, resumed
    write_log(tmp_path, 9, (), seconds=1, start=1_500)  # killed in its first epoch
    rows = curve(tmp_path, tmp_path / "checkpoints")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["seconds"] for row in rows] == pytest.approx([10, 10, 20, 20])
    assert rows[2]["loss"] == pytest.approx(2.5)
    assert rows[2]["d2_pos"] == pytest.approx(1.4)
    assert rows[2]["d2_neg"] == pytest.approx(1.6)
    assert rows[2]["alpha_entropy"] == pytest.approx(6)
    assert rows[2]["effective_negatives"] is None
    assert rows[2]["lr"] is None


def test_accuracies_of_the_host_s_evaluation(tmp_path):
    with SummaryWriter(tmp_path / "lightning_logs/version_0") as log:
        for epoch in range(12):
            log.add_scalar("val_acc1", 2.0 * epoch, epoch)
    assert accuracies(tmp_path) == [2.0 * epoch for epoch in range(12)]


@pytest.mark.slow
@needs_clone
def test_one_cell_by_each_host_from_end_to_end(digits, tmp_path):
    options = ["--table", "1", "--dataset", "cifar10", "--backbone", "test_resnet", "--row", "direct", "--seeds", "1",
               "--epochs", "2", "--eval-epochs", "1", "--batch-size", "64", "--device", "cpu", "--knn-every", "1",
               "--data-root", str(digits), "--limit", "150", "--workers", "0", "--linear-epochs", "1"]  # fmt: skip
    found = {}
    for host in ("lightly", "solo-learn"):
        command = [sys.executable, str(EXAMPLES / "reproduce.py"), *options, "--host", host]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        (path,) = (tmp_path / "results/tries" / host).rglob("*.json")
        found[host] = json.loads(path.read_text(encoding="utf-8"))
    ours, theirs = found["lightly"], found["solo-learn"]
    assert ours.keys() == theirs.keys()
    assert ours["data"] == theirs["data"]
    assert ours["strategy"] == theirs["strategy"]
    assert ours["settings"] == theirs["settings"]
    assert ours["evaluations"].keys() == theirs["evaluations"].keys() == {"1", "2"}
    assert ours["evaluations"]["2"].keys() == theirs["evaluations"]["2"].keys()
    assert ours["times"].keys() == theirs["times"].keys()
    for row, solo_row in zip(ours["curve"], theirs["curve"], strict=True):
        assert row.keys() - {"knn"} == solo_row.keys()
        assert row["epoch"] == solo_row["epoch"]
    assert ours["host_linear"] == {}
    assert theirs["host_linear"]["2"]["image_size"] == CUSTOM_SIZE
    assert 0 <= theirs["host_linear"]["2"]["best"] <= 100
    assert len(theirs["host_commit"].removesuffix("-dirty")) == 40
    data = load(CIFAR10, digits, limit=150)
    (images,) = tmp_path.rglob(f"images-{data.as_dict()['sha256'][:12]}")
    seen = sorted((images / "train").rglob("*.png"), key=lambda path: path.name)
    assert torch.equal(decode(seen, 32), data.train.pixels)
