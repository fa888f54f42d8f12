"""A type checker knows every option of the losses, and refuses a misspelt one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="needs mypy")

ROOT = Path(__file__).parents[2]
CALLS = {  # what mypy says of a call, or None
    '("infonce", tau=0.1, block_size="autograd")': None,
    '("infonce", tau=0.1, learnable_tau=True, negatives="cross", gather_distributed="ring", block_size=64)': None,
    "(lambda d2_pos, d2_neg: PairWeights(d2_neg), block_size=None)": None,
    "(InfoNCE(tau=0.1))": None,
    '("infonce", temprature=0.1)': 'Unexpected keyword argument "temprature"',
    '("infonce", redction="none")': 'Unexpected keyword argument "redction"',
    '("infonce", tau="0.1")': 'Argument "tau" to "AlphaCLLoss" has incompatible type "str"',
    '("infonce", reduction="sum")': 'Argument "reduction" to "AlphaCLLoss" has incompatible type',
    '("infonce", negatives="all")': 'Argument "negatives" to "AlphaCLLoss" has incompatible type',
    '("infonce", block_size="kernal")': 'Argument "block_size" to "AlphaCLLoss" has incompatible type',
    '("infonce", gather_distributed="rings")': 'Argument "gather_distributed" to "AlphaCLLoss" has incompatible type',
}
PACKAGES = ("alphacl_plugins", "alphacl_lightly")
LINES = [
    "import alphacl_lightly, alphacl_plugins",
    "from alphacl_plugins import PairWeights",
    "from alphacl_plugins.strategies import InfoNCE",
    *(f"{package}.AlphaCLLoss{call}" for package in PACKAGES for call in CALLS),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What mypy, with the project's own strict options, says of each line."""
    snippet = tmp_path_factory.mktemp("typing") / "snippet.py"
    snippet.write_text("\n".join(LINES), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", snippet]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}  # beside the configured one
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    errors = re.findall(r"snippet\.py:(\d+): error: (.*)", done.stdout)
    return {LINES[int(line) - 1]: error for line, error in errors}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("call", CALLS)
def test_mypy_refuses_wrong_options_alone(found, package, call):
    error, expected = found.pop(f"{package}.AlphaCLLoss{call}", None), CALLS[call]
    assert error is None if expected is None else (error or "").startswith(expected), error
