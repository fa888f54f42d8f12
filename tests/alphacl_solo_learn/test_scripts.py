"""A user's session with the unmodified scripts: pretrain, resume, linear accuracy, kNN; on scikit-learn's digits."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from solo_clone import METHODS, SOLO_LEARN_HOME, needs_clone

pytestmark = [needs_clone, pytest.mark.slow]

HEAD = """
defaults: [_self_, override hydra/hydra_logging: disabled, override hydra/job_logging: disabled]
hydra: {output_subdir: null, run: {dir: .}}
"""
TAIL = """
checkpoint: {enabled: true, dir: trained_models, frequency: 1}
devices: "1"
accelerator: cpu
strategy: auto
"""
PRETRAIN = f"""{HEAD}
name: digits
method: simclr
loss: alpha_cl
backbone: {{name: timm/test_resnet}}
method_kwargs: {{proj_hidden_dim: 32, proj_output_dim: 16, pred_hidden_dim: 32, queue_size: 128, temperature: 0.2}}
momentum: {{base_tau: 0.99, final_tau: 1.0}}
data: {{dataset: custom, train_path: images/train, val_path: images/test, num_workers: 0}}
augmentations:
  - rrc: {{enabled: true, crop_min_scale: 0.5, crop_max_scale: 1.0}}
    color_jitter: {{prob: 0}}
    grayscale: {{prob: 0}}
    gaussian_blur: {{prob: 0}}
    solarization: {{prob: 0}}
    equalization: {{prob: 0}}
    horizontal_flip: {{prob: 0}}
    crop_size: 32
    num_crops: 2
optimizer: {{name: adamw, batch_size: 32, lr: 0.01, classifier_lr: 0.01, weight_decay: 1e-4}}
scheduler: {{name: warmup_cosine, interval: epoch}}
max_epochs: 2
{TAIL}"""
LINEAR = f"""{HEAD}
name: digits-linear
pretrained_feature_extractor: ???
backbone: {{name: timm/test_resnet, kwargs: {{image_size: 32}}}}
data: {{dataset: custom, train_path: images/train, val_path: images/test, num_workers: 0}}
optimizer: {{name: sgd, batch_size: 16, lr: 1.0, weight_decay: 0}}
scheduler: {{name: none}}
max_epochs: 1
{TAIL}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of digits, and the two configs."""
    from digits_folder import write_digits

    here = tmp_path_factory.mktemp("session")
    write_digits(here / "images", train=7, test=2)
    (here / "pretrain.yaml").write_text(PRETRAIN)
    (here / "linear.yaml").write_text(LINEAR)
    return here


def start(folder, *command):
    """Start a script; solo-learn is importable in its child processes too."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(SOLO_LEARN_HOME)]))
    environment = {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, env={**os.environ, **environment, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process, code=0):
    out, err = process.communicate()
    assert process.returncode == code, (out + err)[-5000:]
    return out if code == 0 else err


def run(folder, *command):
    return finish(start(folder, *command))


def script(folder, name, *overrides):
    config = name.removeprefix("main_")
    return run(
        folder, SOLO_LEARN_HOME / f"{name}.py", "--config-path", folder, "--config-name", config, f"name={folder.name}",
        *overrides,
    )  # fmt: skip


def checkpoint(folder, method, epoch):
    (found,) = Path(folder, "trained_models", method).glob(f"*/*-ep={epoch}.ckpt")
    return found


@pytest.mark.parametrize("method", [*METHODS, "alpha_cl"])
def test_pretrain_resume_linear_and_knn(folder, method):
    own = ["scheduler.name=alpha_cl", "+scheduler.epochs=3"] if method == "alpha_cl" else []
    printed = script(folder, "main_pretrain", f"method={method}", *own)
    assert f"{method} with loss alpha_cl: strategy=Direct(" in printed
    first = checkpoint(folder, method, epoch=1)
    script(folder, "main_pretrain", f"method={method}", "max_epochs=3", f"+resume_from_checkpoint='{first}'", *own)
    resumed = checkpoint(folder, method, epoch=2)
    assert steps(resumed) == 6  # 2 per epoch: the run went on where it was
    script(folder, "main_linear", f"pretrained_feature_extractor='{resumed}'", f"name={method}")
    options = ["--dataset", "custom", "--train_data_path", "images/train", "--val_data_path", "images/test"]
    options += ["--pretrained_checkpoint_dir", resumed.parent, "--feature_type", "backbone", "--k", "5"]
    options += ["--distance_function", "cosine", "--temperature", "0.1", "--batch_size", "16", "--num_workers", "0"]
    printed = run(folder, "-m", "alphacl_solo_learn", SOLO_LEARN_HOME / "main_knn.py", *options)
    assert re.search(r"Result: acc@1=\d+\.\d", printed)


SHIPPED = (
    "backbone.name=timm/test_resnet", "data.dataset=custom", "data.train_path=images/train", "data.val_path=null",
    "data.num_workers=0", "optimizer.batch_size=32", "accelerator=cpu", "max_epochs=1",
)  # fmt: skip


def shipped(here, *overrides, launch=()):
    """The command of a shipped config, on the digits."""
    (here / "images").exists() or (here / "images").symlink_to(here.parent / "images")
    config = ("--config-name", "alphacl_cifar10_resnet18")
    return start(here, *launch, SOLO_LEARN_HOME / "main_pretrain.py", *config, *overrides, *SHIPPED)


SIX = ("Direct", "InfoNCE", "Entropy", "Inverse", "Square", "Uniform")


def check_each_has_its_folder(here, *strategies):
    """Each strategy has one folder, with its log, and in it the weights that it trained."""
    for strategy in strategies:
        label = f"strategy={strategy.lower()},seed=5,*"
        (run_folder,) = (here / "trained_models" / "alphacl-cifar10-resnet18").glob(label)
        (weights,) = run_folder.rglob("*.ckpt")
        assert torch.load(weights, map_location="cpu")["alpha_cl"].startswith(f"strategy={strategy}(")
        assert json.loads((weights.parent / "args.json").read_text())["loss"]["strategy"] == strategy.lower()
        assert len(list(run_folder.glob("lightning_logs/version_0"))) == 1
    assert len(list(here.rglob("*.ckpt"))) == len(strategies)
    assert not (here / "lightning_logs").exists()


@pytest.fixture
def here(folder, tmp_path_factory):
    """An empty folder beside the images."""
    place = folder / tmp_path_factory.mktemp("run").name
    place.mkdir()
    return place


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_sweep_trains_each_loss_in_a_folder_of_its_own(here, launcher):
    plugin = f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher"
    if launcher != "basic":
        pytest.importorskip(plugin, reason=f"needs hydra-{launcher.removesuffix('_local')}-launcher")
    finish(shipped(here, "--multirun", f"hydra/launcher={launcher}", "loss.strategy=direct,inverse"))
    check_each_has_its_folder(here, "Direct", "Inverse")


def test_runs_that_start_together_do_not_share_a_folder(here):
    started = [shipped(here, f"loss.strategy={strategy.lower()}") for strategy in SIX]
    for process in started:
        finish(process)
    check_each_has_its_folder(here, *SIX)
    heads = [torch.load(path, map_location="cpu")["state_dict"]["projector.0.weight"] for path in here.rglob("*.ckpt")]
    assert len({head.sum().item() for head in heads}) == len(SIX)  # of one seed and six losses


def torchrun(here, *overrides):
    """Two processes of a shipped config, which torchrun starts."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    return shipped(here, "run_folder=mine", *overrides, launch=launch)


def test_torchrun_without_devices_trains_nothing(here):
    error = finish(torchrun(here), code=1)
    assert "\nValueError: torchrun: expected 1, as devices x num_nodes says, got 2 processes" in error
    assert not list(here.rglob("*.ckpt"))


def test_torchrun_with_devices_trains_one_run(here):
    finish(torchrun(here, "devices='2'", "strategy=ddp"))
    assert len(list(here.rglob("*.ckpt"))) == len(list(here.rglob("args.json"))) == 1


def test_the_processes_of_a_run_share_its_folder(here):
    finish(shipped(here, "loss.strategy=direct", "devices='2'", "strategy=ddp"))
    check_each_has_its_folder(here, "Direct")
    assert len(list((here / "trained_models" / "alphacl-cifar10-resnet18").iterdir())) == 1


def test_auto_resume_stops_at_the_run_of_another_loss(here):
    same = ("run_folder=mine", "auto_resume.enabled=true")
    finish(shipped(here, "loss.strategy=direct", *same))
    error = finish(shipped(here, "loss.strategy=inverse", *same), code=1)
    assert re.search(
        r"^ValueError: checkpoint: expected that of a run with strategy=Inverse\(", error, flags=re.MULTILINE
    )


LATE = """
import hydra
from omegaconf import OmegaConf

def train(cfg):
    OmegaConf.set_struct(cfg, False)
    from solo.methods import METHODS
    print(METHODS["simclr"](cfg).criterion)
"""
STARTS = {
    "a script": """
hydra.main(version_base="1.2", config_path=".", config_name="late")(train)()
""",
    "a notebook": """
with hydra.initialize(version_base="1.2", config_path="."):
    train(hydra.compose("late", ["+loss=alpha_cl"]))
""",
}
LATE_CONFIG = """
method: simclr
backbone: {name: timm/test_resnet}
method_kwargs: {proj_output_dim: 4, proj_hidden_dim: 8, temperature: 0.2}
data: {dataset: custom, num_large_crops: 2, num_small_crops: 0, num_classes: 3}
optimizer: {name: sgd, batch_size: 6, lr: 0.1, classifier_lr: 0.1, weight_decay: 0}
scheduler: {name: none, interval: epoch}
max_epochs: 1
"""


@pytest.mark.parametrize("program", STARTS)
def test_a_program_that_imports_solo_learn_late_trains_the_loss(here, program):
    (here / "late.py").write_text(LATE + STARTS[program])
    (here / "late.yaml").write_text(LATE_CONFIG)
    assert "AlphaCLLoss(strategy=Direct(" in run(here, "late.py", "+loss=alpha_cl")


SPAWN = """
import torch
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from solo.methods import METHODS
from torch.utils.data import DataLoader

class Crops(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return i, [torch.randn(3, 32, 32), torch.randn(3, 32, 32)], i % 3

if __name__ == "__main__":
    from alphacl_solo_learn import register
    register()
    cfg = OmegaConf.merge(OmegaConf.load("late.yaml"), {"loss": "alpha_cl"})
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", **options)
    trainer.fit(METHODS["simclr"](cfg), DataLoader(Crops(), batch_size=4))
    print("logged:", *trainer.callback_metrics)
"""


def test_spawned_processes_train_the_loss(here):
    (here / "spawn.py").write_text(SPAWN)
    (here / "late.yaml").write_text(LATE_CONFIG)
    (logged,) = re.findall(r"^logged: (.*)$", run(here, "spawn.py"), flags=re.MULTILINE)
    assert "train_alpha_entropy" in logged


def test_a_linear_evaluation_of_random_features_stops(folder, here):
    from alphacl_timm import create_backbone

    trained = create_backbone("test_resnet", image_size=32).state_dict()
    torch.save(
        {"state_dict": {f"network.backbone.{name}": value for name, value in trained.items()}}, here / "last.ckpt"
    )
    checkpoint = f"pretrained_feature_extractor='{here / 'last.ckpt'}'"
    command = ("--config-path", folder, "--config-name", "linear", checkpoint)
    error = finish(start(folder, SOLO_LEARN_HOME / "main_linear.py", *command), code=1)
    assert re.search(r"^ValueError: checkpoint: expected every weight of the backbone", error, flags=re.MULTILINE)


def steps(path):
    return torch.load(path, map_location="cpu")["global_step"]


def test_a_plain_run_of_the_launcher_says_how_to_use_it(folder):
    done = subprocess.run([sys.executable, "-m", "alphacl_solo_learn"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: python -m alphacl_solo_learn SCRIPT.py")


def test_16_bit_training(folder):
    script(folder, "main_pretrain", "method=simclr", "max_epochs=1", "checkpoint.dir=half", "+precision=bf16-mixed")
    assert list((folder / "half").glob("simclr/*/*-ep=0.ckpt"))


def test_the_linear_evaluation_reads_a_timm_state_dict_as_documented(folder):
    from alphacl_timm import create_backbone

    weights = create_backbone("test_resnet", 32).state_dict()
    torch.save({"state_dict": {f"backbone.{name}": weight for name, weight in weights.items()}}, folder / "solo.ckpt")
    script(folder, "main_linear", "pretrained_feature_extractor=solo.ckpt", "name=exported")
    (judged,) = Path(folder, "trained_models", "linear").glob("*/exported-*.ckpt")
    state = torch.load(judged, map_location="cpu")["state_dict"]
    frozen = {name: value for name, value in weights.items() if name.endswith(("weight", "bias"))}
    assert all(torch.equal(state[f"backbone.{name}"], value) for name, value in frozen.items())


WITHOUT_TENSORBOARD = """
import runpy, sys
import lightning.pytorch.trainer.connectors.logger_connector.logger_connector as connector
connector._TENSORBOARD_AVAILABLE = connector._TENSORBOARDX_AVAILABLE = False
sys.argv = sys.argv[1:]
sys.path[0] = str(__import__("pathlib").Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_monitor_logs_to_csv_and_tensorboard_and_a_resumed_run_continues(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder / "without.py").write_text(WITHOUT_TENSORBOARD)
    options = ("method=simclr", "+monitor={every_n_epochs: 1, samples: 20}", "checkpoint.dir=watched")
    script(folder, "main_pretrain", *options, f"+default_root_dir={folder}/board")
    (events,) = Path(folder, "board", "lightning_logs", "version_0").glob("events*")
    board = EventAccumulator(str(events))
    board.Reload()
    assert [event.step for event in board.Scalars("monitor/knn")] == [0, 2, 4]
    (first,) = Path(folder, "watched", "simclr").glob("*/*-ep=1.ckpt")
    command = ("without.py", SOLO_LEARN_HOME / "main_pretrain.py", "--config-path", folder, "--config-name", "pretrain")
    resumed = (*options, "max_epochs=3", f"+resume_from_checkpoint='{first}'", f"+default_root_dir={folder}/csv")
    run(folder, *command, *resumed)
    logged = folder / "csv" / "lightning_logs" / "version_0" / "metrics.csv"
    rows = list(csv.DictReader(logged.read_text().splitlines()))
    assert [int(row["step"]) for row in rows if row["monitor/effective_rank"]] == [6]
    (last,) = Path(folder, "watched", "simclr").glob("*/*-ep=2.ckpt")
    (history,) = (
        state["history"] for name, state in torch.load(last)["callbacks"].items() if "RepresentationMonitor" in name
    )
    assert [look["epoch"] for look in history] == [0, 1, 2, 3]
