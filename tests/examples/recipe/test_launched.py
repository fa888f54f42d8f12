"""Under torchrun and SLURM a run is trained once, from its own start, and stops where it could not be so."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from launched import check_launched, one_process, without_requeue
from recipe import run
from recipe.protocol import DATASETS
from recipe.settings import Settings

SLURM = {
    "SLURM_JOB_NAME": "train",
    "SLURM_JOB_ID": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}

OPTIONS = "--backbone test_resnet --device cpu --epochs 1 --eval-epochs 1 --batch-size 32 --knn-every 0".split()  # noqa: SIM905


@pytest.fixture
def slurm(monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("launcher", "variables"),
    [
        ("SLURM", {**SLURM, "SLURM_NTASKS": "2"}),
        ("torchrun", {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}),
    ],
)
def test_another_number_of_processes_is_an_error(launcher, variables, monkeypatch):
    check_launched(1, "devices says")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launched(2, "devices says")
    with pytest.raises(ValueError, match=f"^{launcher}: expected 1, as devices says, got 2 processes$"):
        check_launched(1, "devices says")


@pytest.mark.parametrize(
    "variables",
    [
        {**SLURM, "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "1"},  # srun inside salloc
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},  # Kubernetes' PyTorchJob
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    ],
)
def test_a_second_process_of_a_launcher_that_lightning_does_not_know_is_an_error(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launched(2, "devices says")
    with pytest.raises(ValueError, match=r"^[A-Z_]+: expected a number below 1, as devices says, got 1$"):
        check_launched(1, "devices says")


def test_torchrun_inside_a_slurm_job_keeps_its_number_of_processes(slurm, monkeypatch):
    assert [type(plugin).__name__ for plugin in without_requeue()] == ["SLURMEnvironment"]
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    check_launched(2, "devices says")
    assert without_requeue() == []


def test_an_interactive_job_starts_its_processes_itself(monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "bash"}).items():
        monkeypatch.setenv(name, value)
    check_launched(1, "devices says")


@pytest.mark.filterwarnings("ignore")  # of Lightning, about its own demo
@pytest.mark.parametrize("recipe", [False, True])
def test_lightning_takes_no_requeue_signal_and_no_checkpoint_of_another_job(recipe, slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"not": "of this run"}, tmp_path / "hpc_ckpt_1.ckpt")
    own = {"default_root_dir": tmp_path / "run", "plugins": without_requeue()} if recipe else one_process()
    own |= {"enable_checkpointing": False, "logger": False}
    handlers = []

    class Look(L.Callback):
        def on_train_start(self, trainer, module):
            handlers.append(signal.getsignal(signal.SIGUSR1))

    before = signal.getsignal(signal.SIGUSR1)
    quiet = {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False, "callbacks": [Look()]}
    trainer = L.Trainer(**(quiet | {"enable_model_summary": False} | own))
    trainer.fit(BoringModel())
    assert trainer.global_step == 1
    assert handlers == [before]


def test_a_recipe_under_slurm_leaves_the_checkpoint_of_another_job_alone(slurm, digits_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"not": "of this run"}, tmp_path / "hpc_ckpt_1.ckpt")
    settings = Settings(backbone="test_resnet", epochs=1, batch_size=32, device="cpu", knn_every=0, limit=64)
    run.run(DATASETS["cifar10"], replace(settings, data_root=digits_folder, output=tmp_path / "out"))
    assert len(list(tmp_path.glob("out/*/*/epoch-1.ckpt"))) == 1


def start(examples, digits, output, *options, launcher=(), **variables):
    recipe = examples / "cifar10_resnet18.py"
    command = [*launcher, recipe, "--data-root", digits, "--output", output, *OPTIONS, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def weights(output):
    (path,) = output.rglob("epoch-1.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_torchrun_with_and_without_devices(examples, digits_folder, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")
    lost = start(examples, digits_folder, tmp_path / "lost", launcher=torchrun)
    assert lost.returncode == 1
    assert "error: torchrun: expected 1, as devices x num_nodes says, got 2 processes" in lost.stderr
    assert not (tmp_path / "lost").exists()
    told = start(examples, digits_folder, tmp_path / "told", "--devices", "2", launcher=torchrun)
    assert told.returncode == 0, told.stderr
    alone = start(examples, digits_folder, tmp_path / "alone", "--devices", "2")
    assert alone.returncode == 0, alone.stderr
    slurm = start(
        examples, digits_folder, tmp_path / "slurm", "--devices", "2", launcher=torchrun, **SLURM, SLURM_NTASKS="1"
    )
    assert slurm.returncode == 0, slurm.stderr
    for name, value in weights(tmp_path / "alone").items():
        assert torch.equal(value, weights(tmp_path / "told")[name]), name
        assert torch.equal(value, weights(tmp_path / "slurm")[name]), name


@pytest.mark.slow
def test_a_fresh_run_under_slurm_starts_fresh(examples, digits_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = start(examples, digits_folder, tmp_path / "plain", "--seed", "1")
    assert plain.returncode == 0, plain.stderr
    (last,) = (tmp_path / "plain").rglob("last.ckpt")
    Path("hpc_ckpt_1.ckpt").write_bytes(last.read_bytes())  # what another job has left where this one starts
    expected = start(examples, digits_folder, tmp_path / "expected", "--seed", "2")
    assert expected.returncode == 0, expected.stderr
    done = start(examples, digits_folder, tmp_path / "slurm", "--seed", "2", **SLURM, SLURM_NTASKS="1")
    assert done.returncode == 0, done.stderr
    for name, value in weights(tmp_path / "expected").items():
        assert torch.equal(value, weights(tmp_path / "slurm")[name]), name
