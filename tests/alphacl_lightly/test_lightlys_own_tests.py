"""lightly's own tests of NT-Xent and DCL, run on the adapter through a shim that only rescales by τ.

They need a clone of lightly (its tests are not in the wheel) in the folder LIGHTLY_HOME, default ~/lightly.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LIGHTLY_HOME = Path(os.environ.get("LIGHTLY_HOME", "~/lightly")).expanduser()
FILES = ["tests/loss/test_ntx_ent_loss.py", "tests/loss/test_dcl_loss.py"]

# Which of them cannot pass, and why.
EXPLAINED = {
    "a negative temperature is an error in α-CL": (r"test_forward_pass_neg_temp$",),
    "weight_fn is DCL's own option; in α-CL a weighted positive is a strategy": (r"test_dclloss_forward\[",),
}


@pytest.mark.slow
@pytest.mark.skipif(not (LIGHTLY_HOME / FILES[0]).exists(), reason=f"needs a clone of lightly at {LIGHTLY_HOME}")
def test_lightlys_own_tests_pass_but_for_the_explained_ones():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "lightly_shim", "-o", "addopts=", "-rf", *FILES]
    paths = [str(Path(__file__).parent / "shim"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    report = subprocess.run(command, cwd=LIGHTLY_HOME, env=environment, capture_output=True, text=True).stdout
    failed = re.findall(r"^FAILED \S+::(test_\S+)", report, flags=re.MULTILINE)
    unexplained = [
        name for name in failed if not any(re.search(p, name) for patterns in EXPLAINED.values() for p in patterns)
    ]
    assert not unexplained, report[-5000:]
    (passed,) = re.findall(r"(\d+) passed", report)
    assert int(passed) >= 282
    assert len(failed) <= 25
