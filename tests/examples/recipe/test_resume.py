import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EPOCHS, STEPS = 4, 8
OPTIONS = f"--backbone test_resnet --device cpu --epochs {EPOCHS} --eval-epochs 2 --batch-size 32 --knn-every 2".split()
OPTIONS += ["--augment-ahead", "3"]  # so that steps are resumed in the middle of what is augmented ahead
KILLS = [  # when, by what, the step from which the run then goes on
    ("step:1:3", "SIGTERM", STEPS + 4),
    ("step:1:3", "SIGINT", STEPS + 4),
    ("step:1:3", "SIGUSR1", STEPS + 4),  # SLURM's, before a job's time is over
    ("step:1:3", "SIGKILL", STEPS),
    ("step:0:0", "SIGTERM", 1),
    ("step:1:7", "SIGTERM", 2 * STEPS),  # the last step of an epoch, which is then evaluated
    ("step:2:7", "SIGTERM", 3 * STEPS),  # the last step of one that is not
    ("write:1", "SIGKILL", STEPS),
    ("write:2", "SIGTERM", 3 * STEPS),
    ("rename:2", "SIGKILL", 2 * STEPS),
    ("keep", "SIGKILL", 2 * STEPS),
    ("knn:0", "SIGKILL", STEPS),
    ("knn:0", "SIGTERM", 2 * STEPS),
    ("probe:7", "SIGKILL", 2 * STEPS),
    ("probe:7", "SIGTERM", 2 * STEPS),
    ("probe:200", "SIGKILL", None),  # the last evaluation: nothing is left to train
]


def recipe(examples, data, output, *options, killed=()):
    driver = [Path(__file__).with_name("killed_run.py"), *killed] if killed else []
    command = [*driver, examples / "cifar10_resnet18.py", "--data-root", data, "--output", output, *OPTIONS, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def folder_of(output, name):
    return output / "cifar10_test_resnet" / name


def result(output, name="direct-batch_size=32-seed0"):
    """What a run found, without what it took."""
    content = json.loads((folder_of(output, name) / "result.json").read_text())
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in content["curve"]]
    judged = {
        epochs: {name: value for name, value in evaluation.items() if name != "seconds"}
        for epochs, evaluation in content["evaluations"].items()
    }
    return rows, judged


def weights(output, name="direct-batch_size=32-seed0"):
    return torch.load(folder_of(output, name) / f"epoch-{EPOCHS}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, examples, digits_folder):
    output = tmp_path_factory.mktemp("uninterrupted")
    done = recipe(examples, digits_folder, output)
    assert done.returncode == 0, done.stderr
    rows, judged = result(output)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert ["knn" in row for row in rows] == [False, True, False, True]
    assert judged.keys() == {"2", "4"}
    return output


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "name", "step"), KILLS)
def test_a_killed_run_ends_as_one_that_was_not(moment, name, step, uninterrupted, examples, digits_folder, tmp_path):
    killed = recipe(examples, digits_folder, tmp_path, killed=(moment, name))
    assert_ended_by(name, killed)
    resumed = recipe(examples, digits_folder, tmp_path, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "eval mode" not in resumed.stderr
    assert first_step(resumed) == step, resumed.stdout
    assert result(tmp_path) == result(uninterrupted)
    assert_equal(weights(tmp_path), weights(uninterrupted))
    assert not list(tmp_path.rglob(".*.ckpt"))  # nothing is left half written


@pytest.mark.slow
def test_a_memory_bank_is_resumed_too(examples, digits_folder, tmp_path):
    options = ["--loss", "infonce", "--memory-bank-size", "100"]
    name = "infonce-memory_bank_size=100-batch_size=32-seed0"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert recipe(examples, digits_folder, whole, *options).returncode == 0
    assert_ended_by("SIGTERM", recipe(examples, digits_folder, parts, *options, killed=("step:1:3", "SIGTERM")))
    assert recipe(examples, digits_folder, parts, *options, "--resume").returncode == 0
    assert result(parts, name) == result(whole, name)
    assert "criterion.memory_bank.embeddings" in weights(whole, name)
    assert_equal(weights(parts, name), weights(whole, name))


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(examples, digits_folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert recipe(examples, digits_folder, whole, "--devices", "2").returncode == 0
    killed = recipe(examples, digits_folder, parts, "--devices", "2", killed=("step:1:3", "SIGTERM"))
    assert_ended_by("SIGTERM", killed)
    resumed = recipe(examples, digits_folder, parts, "--devices", "2", "--resume")
    assert first_step(resumed) == STEPS + 4, resumed.stdout + resumed.stderr
    assert_equal(weights(parts), weights(whole))
    rows, judged = result(parts)
    expected, expected_judged = result(whole)
    assert judged == expected_judged
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-12)  # sums over processes are rounded in another order


def assert_ended_by(name, done):
    number = signal.Signals[name]
    assert done.returncode in (-number, 128 + number), (done.returncode, done.stdout, done.stderr)


def assert_equal(some, others):
    assert some.keys() == others.keys()
    for name, value in some.items():
        assert torch.equal(value, others[name]), name


def first_step(resumed):
    begun = re.search(r"resumed in epoch \d+, after step (\d+)", resumed.stdout)
    return int(begun[1]) if begun else None
