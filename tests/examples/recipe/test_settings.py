import dataclasses
import os
import re
import subprocess
import sys

import pytest

from alphacl_plugins import build_strategy, strategy_names
from alphacl_plugins.strategies import Uniform
from recipe.settings import LOSSES, STRATEGY_OPTIONS, Settings

DATASETS, BACKBONES = ("cifar10", "cifar100", "stl10"), ("resnet18", "resnet50")


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_with_every_option_of_its_own(name):
    strategy = build_strategy(name)
    own = {field.name: getattr(strategy, field.name) for field in dataclasses.fields(strategy)}
    assert own.keys() <= set(STRATEGY_OPTIONS)
    others = {"kernel": "imq", "index": 0.5, "bounds": (0.1, 0.5)}
    changed = {
        key: others[key] if key in others else (not value) if isinstance(value, bool) else value / 2 + 0.01
        for key, value in own.items()
    }
    built = Settings(strategy=name, **changed).criterion().strategy
    assert {key: getattr(built, key) for key in changed} == changed


def test_a_strategy_of_ones_own_by_import_path():
    settings = Settings(strategy="alphacl_plugins.strategies.Uniform")
    assert settings.criterion().strategy == Uniform()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_takes_the_options_of_its_strategy(loss):
    if loss == "quadratic":
        with pytest.raises(ValueError, match=r"uniform: expected no options, got tau"):
            Settings(loss=loss, tau=0.1)
    else:
        assert Settings(loss=loss, tau=0.1).criterion().strategy.tau == 0.1


def test_labels_tell_runs_apart():
    settings = [
        Settings(),
        Settings(tau=0.1),
        Settings(tau=0.1, p=6.0),
        Settings(loss="infonce"),
        Settings(loss="backprop"),
        Settings(strategy="inverse"),
        Settings(strategy="inverse_exact"),
        Settings(memory_bank_size=10, loss="infonce"),
        Settings(negatives="same"),
        Settings(symmetric=False),
    ]
    labels = [each.label for each in settings]
    assert len(set(labels)) == len(labels)
    assert labels[:6] == ["direct", "direct-tau=0.1", "direct-tau=0.1-p=6.0", "infonce", "backprop", "inverse"]


def test_a_memory_bank():
    criterion = Settings(loss="infonce", memory_bank_size=256).criterion()
    assert criterion.memory_bank.embeddings.shape == (256, 128)
    assert (criterion.negatives, criterion.symmetric) == ("queue", False)
    assert Settings(loss="infonce", memory_bank_size=256, negatives="both").criterion().negatives == "both"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"epochs: expected an int >= 1, got 0"),
        ({"batch_size": 1}, r"batch_size: expected an int >= 2, got 1"),
        ({"devices": 3}, r"batch_size: expected a multiple of the 3 devices .* got 128"),
        ({"limit": 1}, r"limit: expected an int >= 2, got 1"),
        ({"classes": 1}, r"classes: expected an int >= 2, got 1"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a finite number > 0, got 0.0"),
        ({"learning_rate": float("nan")}, r"learning_rate: expected a finite number > 0, got nan"),
        ({"eval_epochs": (100, 0)}, r"eval_epochs: expected epochs >= 1, got \(100, 0\)"),
        (
            {"loss": "infonce", "strategy": "square"},
            r"loss: expected either a loss or a strategy, got infonce and square",
        ),
        ({"strategy": "square", "p": 2.0}, r"square: expected options among tau, got p"),
        ({"strategy": "nothing"}, r"nothing"),
        ({"tau": -1.0}, r"Direct.tau: expected .* -1"),
        ({"memory_bank_size": -1}, r"memory_bank_size: expected an int >= 0, got -1"),
        ({"negatives": "queue"}, r"memory_bank_size: expected .*queue"),
        ({"knn_every": -1}, r"knn_every: expected an int >= 0, got -1"),
    ],
)
def test_wrong_options_are_refused_before_anything_else(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_script_for_each_data_set_and_backbone(dataset, backbone, examples):
    script = examples / f"{dataset}_{backbone}.py"
    assert f'main(dataset="{dataset}", backbone="{backbone}", description=__doc__)' in script.read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_help_explains_every_option_with_its_default(examples):
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, str(examples / "cifar100_resnet50.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    options = shown.stdout.split(" options ", 1)[1]
    for field in dataclasses.fields(Settings):
        if field.name == "backbone":
            default = "resnet50"
        elif isinstance(field.default, tuple):
            default = " ".join(map(str, field.default))
        else:
            default = str(field.default)
        option = "--" + field.name.replace("_", "-")
        assert option in options
        text = re.split(r"\n│\s+--", re.split(rf"│\s+{option}\b", options)[1])[0]
        text = " ".join(text.replace("│", " ").split())
        assert f"(default: {default})" in text, (option, text)


def test_a_wrong_option_is_one_line(examples):
    command = [sys.executable, str(examples / "cifar10_resnet18.py"), "--data-root", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: data_root: expected torchvision's files of cifar10")
    assert "Traceback" not in done.stderr
