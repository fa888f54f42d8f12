"""The folder of a run, which no other run shares: ``${alphacl.run_folder:PARENT,TIME}`` in a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alphacl_solo_learn.config import given_options

RESOLVER = "alphacl.run_folder"
SOLOS_SEED = 5


def run_folder(parent: str, time: str, *, _root_: Any) -> str:
    """Return a folder in ``parent`` that tells the run: name of the config, the loss's options, seed, time.

    >>> config = {"name": "mine", "loss": {"name": "alpha_cl", "strategy": "inverse", "gamma": 3}}
    >>> run_folder("/runs", "12-00", _root_=config)
    '/runs/mine/strategy=inverse,gamma=3,seed=5,12-00'
    """
    parts = {**given_options(_root_.get("loss")), "seed": _root_.get("seed", SOLOS_SEED)}
    label = ",".join(f"{key}={value}" for key, value in parts.items())
    return str(Path(parent, _root_["name"], f"{label},{time}").absolute())
