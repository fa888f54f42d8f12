"""The folder of a run, which no other run shares: ``${alphacl.run_folder:trained_models}`` in a config."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from alphacl_solo_learn.config import given_options

RESOLVER = "alphacl.run_folder"
SOLOS_SEED = 5


def run_folder(parent: str, *, _root_: Any) -> str:
    """Return a folder in ``parent`` that tells the run: name of the config, the loss's options, seed, time.

    >>> folder = run_folder("trained_models", _root_={"name": "mine", "loss": {"strategy": "inverse", "gamma": 3}})
    >>> folder[folder.index("trained_models") : -26]
    'trained_models/mine/strategy=inverse,gamma=3,seed=5,'
    """
    parts = {**given_options(_root_.get("loss")), "seed": _root_.get("seed", SOLOS_SEED)}
    label = ",".join(f"{key}={value}" for key, value in parts.items())
    return str(Path(parent, _root_["name"], f"{label},{datetime.now():%Y-%m-%d-%H-%M-%S-%f}").absolute())
