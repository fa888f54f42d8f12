"""lightly's example scripts train with the adapter after a change of one line, beside its import.

They need a clone of lightly (the examples are not in the wheel) in the folder LIGHTLY_HOME, default ~/lightly.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(os.environ.get("LIGHTLY_HOME", "~/lightly")).expanduser() / "examples"
IMPORT = "from alphacl_lightly import AlphaCLLoss\n"
NTXENT = "NTXentLoss(", 'AlphaCLLoss("infonce", tau=0.5, ', 0.5  # lightly's loss, ours, and τ, the default of lightly's
DCL = "DCLLoss()", 'AlphaCLLoss("entropy", tau=0.1)', 0.1
SCRIPTS = {
    "pytorch/simclr": NTXENT,
    "pytorch/moco": NTXENT,
    "pytorch/nnclr": NTXENT,
    "pytorch/dcl": DCL,
    "pytorch/densecl": NTXENT,
    "pytorch/fda": NTXENT,
    "pytorch_lightning/simclr": NTXENT,
    "pytorch_lightning/moco": NTXENT,
    "pytorch_lightning/nnclr": NTXENT,
    "pytorch_lightning_distributed/simclr": NTXENT,
    "pytorch_lightning_distributed/moco": NTXENT,
}
WITH_RANDOM_BANK = ("moco", "densecl")  # the loss's own memory bank begins with random rows, others than ours
SHORTER = {  # four steps of eight images without a download, on a CPU
    'CIFAR10(\n    "datasets/cifar10", download=True,': "FakeData(32, (3, 32, 32),",
    "batch_size=256": "batch_size=8",
    "num_workers=8": "num_workers=0",
    "epochs = 10": "epochs = 1",
    "in range(10)": "in range(1)",
    "max_epochs=10": "max_epochs=1, logger=False, enable_checkpointing=False",
    'devices="auto"': "devices=2",
    'accelerator="gpu"': 'accelerator="cpu"',
    "sync_batchnorm=True": "sync_batchnorm=False",  # torch has it for GPUs only
}


def train(source, folder):
    """Run a script; return for each of its processes [loss, norm of the gradient] of every step."""
    for original, short in SHORTER.items():
        source = source.replace(original, short)
    assert "FakeData" in source
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(f"import record_training\nrecord_training.start()\n{source}", encoding="utf-8")
    path = os.pathsep.join([str(Path(__file__).parent / "shim"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": path,
        "TRAINING_RECORD": str(folder / "steps"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in sorted(folder.glob("steps-*"))]


@pytest.mark.slow
@pytest.mark.skipif(not EXAMPLES.exists(), reason=f"needs a clone of lightly at {EXAMPLES.parent}")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_trains_with_one_line_changed(script, tmp_path):
    theirs, ours, tau = SCRIPTS[script]
    source = (EXAMPLES / f"{script}.py").read_text(encoding="utf-8")
    assert source.count(f" {theirs}") == (2 if "densecl" in script else 1)  # densecl has one loss more
    processes = train(IMPORT + source.replace(f" {theirs}", f" {ours}"), tmp_path / "ours")
    assert len(processes) == (2 if "distributed" in script else 1)
    for steps in processes:
        assert len(steps) == 4 // len(processes)
        assert all(math.isfinite(loss) and 0 < gradient < math.inf for loss, gradient in steps)
        assert len({loss for loss, _ in steps}) == len(steps)
    if not script.endswith(WITH_RANDOM_BANK):
        first = [steps[0] for steps in processes]
        expected = [[tau * value for value in steps[0]] for steps in train(source, tmp_path / "lightlys")]
        assert first == [pytest.approx(process, rel=1e-5) for process in expected]


MONITOR = """
from alphacl_lightly import RepresentationMonitor
monitor = RepresentationMonitor(every_n_epochs=1, samples=16)
"""
HISTORY = """
import json, pathlib
pathlib.Path(f"history-{trainer.global_rank}.json").write_text(json.dumps(monitor.history))
"""


@pytest.mark.slow
@pytest.mark.skipif(not EXAMPLES.exists(), reason=f"needs a clone of lightly at {EXAMPLES.parent}")
@pytest.mark.parametrize("script", ["pytorch_lightning/simclr", "pytorch_lightning_distributed/simclr"])
def test_a_script_is_monitored_with_two_lines_more(script, tmp_path):
    theirs, ours, _ = NTXENT
    source = (EXAMPLES / f"{script}.py").read_text(encoding="utf-8").replace(f" {theirs}", f" {ours}")
    assert source.count("pl.Trainer(") == 1
    watched = MONITOR + IMPORT + source.replace("pl.Trainer(", "pl.Trainer(callbacks=[monitor], ") + HISTORY
    expected, steps = train(IMPORT + source, tmp_path / "alone"), train(watched, tmp_path / "watched")
    assert steps == expected  # training goes on as if nobody had looked
    histories = [json.loads(file.read_text()) for file in sorted((tmp_path / "watched").glob("history-*.json"))]
    assert len(histories) == len(steps)
    for history in histories:
        assert history == histories[0]
        assert [look["epoch"] for look in history] == [0, 1]
        assert {"alignment", "uniformity", "effective_negatives", "knn"} < set(history[-1])
