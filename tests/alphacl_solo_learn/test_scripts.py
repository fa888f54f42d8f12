"""A user's session with the unmodified scripts: pretrain, resume, linear accuracy, kNN; on scikit-learn's digits."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
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
    from PIL import Image
    from sklearn.datasets import load_digits

    here = tmp_path_factory.mktemp("session")
    digits = load_digits()
    for target in range(10):
        for i, image in enumerate(digits.images[digits.target == target][:9]):
            place = here / "images" / ("train" if i < 7 else "test") / str(target)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype("uint8")).resize((32, 32)).convert("RGB").save(place / f"{i}.png")
    (here / "pretrain.yaml").write_text(PRETRAIN)
    (here / "linear.yaml").write_text(LINEAR)
    return here


def run(folder, *command):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


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
    own = ["scheduler.name=alpha_cl"] if method == "alpha_cl" else []
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


def steps(path):
    import torch

    return torch.load(path, map_location="cpu")["global_step"]


def test_a_plain_run_of_the_launcher_says_how_to_use_it(folder):
    done = subprocess.run([sys.executable, "-m", "alphacl_solo_learn"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: python -m alphacl_solo_learn SCRIPT.py")


def test_16_bit_training(folder):
    script(folder, "main_pretrain", "method=simclr", "max_epochs=1", "checkpoint.dir=half", "+precision=bf16-mixed")
    assert list((folder / "half").glob("simclr/*/*-ep=0.ckpt"))


def test_the_linear_evaluation_reads_a_timm_state_dict_as_documented(folder):
    import torch

    from alphacl_timm import create_backbone

    weights = create_backbone("test_resnet", 32).state_dict()
    torch.save({"state_dict": {f"backbone.{name}": weight for name, weight in weights.items()}}, folder / "solo.ckpt")
    script(folder, "main_linear", "pretrained_feature_extractor=solo.ckpt", "name=exported")
    (judged,) = Path(folder, "trained_models", "linear").glob("*/exported-*.ckpt")
    state = torch.load(judged, map_location="cpu")["state_dict"]
    frozen = {name: value for name, value in weights.items() if name.endswith(("weight", "bias"))}
    assert all(torch.equal(state[f"backbone.{name}"], value) for name, value in frozen.items())
