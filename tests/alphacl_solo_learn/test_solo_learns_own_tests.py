"""solo-learn's own tests of the five methods, on our classes: what passes in the clean clone passes with the loss."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from solo_clone import METHODS, SOLO_LEARN_HOME, needs_clone

pytestmark = [needs_clone, pytest.mark.slow]


def run(*options, **environment):
    files = [SOLO_LEARN_HOME / "tests" / "methods" / f"test_{method}.py" for method in METHODS]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-rA",
        "-W",
        "ignore",
        "-p",
        "no:cacheprovider",
        *options,
        *files,
    ]
    shim = str(Path(__file__).parent / "shim")
    path = os.pathsep.join(filter(None, [str(SOLO_LEARN_HOME), shim, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(
        command, cwd=SOLO_LEARN_HOME, env=environment, capture_output=True, text=True, check=False
    ).stdout


def passed(report):
    return set(re.findall(r"^PASSED \S+::(test_\w+)", report, flags=re.MULTILINE))


def test_solo_learns_own_tests_pass_as_in_the_clean_clone():
    clean = passed(run())
    assert clean == {f"test_{method}" for method in METHODS}
    report = run("-p", "solo_shim", SHIM_LOSS="alpha_cl")
    assert passed(report) == clean, report[-5000:]
    (computed,) = re.findall(r"^computed: (.*)$", report, flags=re.MULTILINE)
    assert set(json.loads(computed)) == set(METHODS)


def test_the_comparison_can_fail():
    report = run("-p", "solo_shim", SHIM_LOSS="no_such_loss")
    assert passed(report) == set()
