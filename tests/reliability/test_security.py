"""Nothing that we ship runs code from data, talks to the network on import, or writes to a guessable place."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reliability.cases import NAMES, default_strategy
from reliability.source_rules import findings
from selection import slow_but

from alphacl_plugins import AlphaCLLoss

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("alphacl_plugins", "integrations", "examples") for path in (ROOT / folder).rglob("*.py")
)
PACKAGES = ["alphacl_plugins", *sorted(path.parent.name for path in (ROOT / "integrations").glob("*/__init__.py"))]
NEED = {
    "alphacl_sentence_transformers": "sentence_transformers",
    "alphacl_metric_learning": "pytorch_metric_learning",
}


def test_there_is_something_to_check():
    assert ROOT / "alphacl_plugins" / "loss.py" in SOURCES
    assert {"alphacl_plugins", "alphacl_lightly", "alphacl_timm"} <= set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_source_does_nothing_unsafe(path):
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("import pickle", "1: import pickle"),
        ("import pickle as p", "1: import pickle"),
        ("from pickle import UnpicklingError, loads", "1: import pickle"),
        ("from marshal import loads", "1: import marshal"),
        ("def f():\n    import shelve", "2: import shelve"),
        ("import dill.source", "1: import dill.source"),
        ("import torch\ntorch.load('a')", "2: torch.load without weights_only=True"),
        ("import torch as t\nt.load('a', weights_only=False)", "2: torch.load without weights_only=True"),
        ("import torch\ntorch.load('a', weights_only=FLAG)", "2: torch.load without weights_only=True"),
        ("from torch import load as read\nread('a')", "2: torch.load without weights_only=True"),
        ("import numpy as np\nnp.load('a', allow_pickle=True)", "2: numpy.load with allow_pickle"),
        ("import numpy as np\nnp.load('a', allow_pickle=FLAG)", "2: numpy.load with allow_pickle"),
        ("eval('1')", "1: call of eval"),
        ("import builtins\nbuiltins.exec('1')", "2: call of builtins.exec"),
        ("import tempfile\ntempfile.mktemp()", "2: call of tempfile.mktemp"),
        ("from tempfile import mktemp\nmktemp()", "2: call of tempfile.mktemp"),
        ("open('/tmp/cache')", "1: fixed temporary name '/tmp/cache'"),
        ("path = f'/tmp/{user}'", "1: fixed temporary name '/tmp/'"),
        ("import os\nos.system('ls')", "2: call of os.system"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "2: subprocess.run with shell"),
    ],
)
def test_the_check_finds_what_is_planted(source, finding):
    assert findings(source) == [finding]


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a', weights_only=True)",
        "import numpy as np\nnp.load('a', allow_pickle=False)\nnp.load('a')",
        "import re, torch\nre.compile('a')\ntorch.compile(f)\nmodel.eval()",
        "import tempfile\ntempfile.mkdtemp()",
        "'''Put it anywhere but /tmp, and never pickle.'''",
    ],
)
def test_the_check_lets_pass_what_is_safe(source):
    assert findings(source) == []


NO_SOCKETS = """
import os, sys

def refuse(event, args):
    if event in ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo"):
        print("refused:", event, file=sys.stderr, flush=True)
        os._exit(3)  # an exception could be swallowed

sys.addaudithook(refuse)
"""


def run_without_sockets(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", NO_SOCKETS + code], capture_output=True, text=True)


@pytest.mark.parametrize("package", slow_but(["alphacl_plugins", "alphacl_lightly"], PACKAGES))
def test_importing_opens_no_socket(package):
    if package in NEED:
        pytest.importorskip(NEED[package])
    done = run_without_sockets(f"import {package}\nprint({package}.__name__)")
    assert done.stdout.strip() == package, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import contextlib, urllib.request as r\nwith contextlib.suppress(Exception): r.urlopen('http://127.0.0.1:9')",
    ],
)
def test_the_refusal_of_sockets_works(code):
    done = run_without_sockets(code)
    assert done.returncode == 3
    assert "refused: socket." in done.stderr


def modules() -> dict[str, torch.nn.Module]:
    """Every module that we ship, in every form that has a state of its own."""
    shipped = {f"AlphaCLLoss({name})": AlphaCLLoss(default_strategy(name)) for name in NAMES}
    alphacl_lightly = pytest.importorskip("alphacl_lightly")
    shipped["alphacl_lightly"] = alphacl_lightly.AlphaCLLoss("infonce", memory_bank_size=(8, 4))
    shipped["alphacl_timm"] = pytest.importorskip("alphacl_timm").create_backbone("resnet18", image_size=32)
    return shipped


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the hosts, on import
def test_state_dicts_load_with_weights_only():
    for name, module in modules().items():
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        assert loaded.keys() == module.state_dict().keys(), name
        module.load_state_dict(loaded)


def test_a_state_with_code_in_it_would_not_load():
    file = io.BytesIO()
    torch.save({"strategy": default_strategy("direct")}, file)
    file.seek(0)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(file, weights_only=True)
