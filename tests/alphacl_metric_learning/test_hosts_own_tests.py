"""pytorch-metric-learning's own tests that use NTXentLoss, run on the adapter in its place.

They need a clone of pytorch-metric-learning (its tests are not in the wheel) in the folder METRIC_LEARNING_HOME,
default ~/pytorch-metric-learning.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(os.environ.get("METRIC_LEARNING_HOME", "~/pytorch-metric-learning")).expanduser()
FILES = [
    f"tests/losses/test_{name}.py"
    for name in ("ntxent_loss", "losses_without_labels", "cross_batch_memory", "self_supervised_loss")
]


@pytest.mark.slow
@pytest.mark.skipif(not (HOME / FILES[0]).exists(), reason=f"needs a clone of pytorch-metric-learning at {HOME}")
def test_the_hosts_own_tests_pass():
    pytest.importorskip("pytorch_metric_learning")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "metric_learning_shim", "-o", "addopts=", "-rf", *FILES]
    paths = [str(Path(__file__).parent / "shim"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TEST_DTYPES": "float32,float64",
        "TEST_DEVICE": "cpu",
    }
    report = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True).stdout
    failed = re.findall(r"^FAILED \S+::(test_\S+)", report, flags=re.MULTILINE)
    assert set(failed) <= {"test_loss"}, report[
        -5000:
    ]  # of the host's MultiSimilarityLoss, which ours does not replace
    (passed,) = re.findall(r"(\d+) passed", report)
    assert int(passed) >= 14
