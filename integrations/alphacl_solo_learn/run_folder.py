"""The folder of a run, which no other run shares: ``${alphacl.run_folder:PARENT,TIME}`` in a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alphacl_solo_learn.config import given_options

RESOLVER = "alphacl.run_folder"
SOLOS_SEED = 5
NOT_WRITABLE = "<not serializable>"
"""What solo-learn writes into ``args.json`` for a value that JSON does not have."""


def run_folder(parent: str, time: str, *, _root_: Any) -> str:
    """Return a folder in ``parent`` that tells the run: name of the config, the loss's options, seed, time.

    Examples:
        >>> config = {"name": "mine", "loss": {"name": "alpha_cl", "strategy": "inverse", "gamma": 3}}
        >>> run_folder("/runs", "12-00", _root_=config)
        '/runs/mine/strategy=inverse,gamma=3,seed=5,12-00'
    """
    parts = {**given_options(_root_.get("loss")), "seed": _root_.get("seed", SOLOS_SEED)}
    label = ",".join(f"{key}={value}" for key, value in parts.items())
    return str(Path(parent, _root_["name"], f"{label},{time}").absolute())


def check_not_shared(trainer: Any) -> None:
    """Refuse to write weights beside the ``args.json`` of another run.

    Runs that start together with a config of the user's own take one folder ``version_N``.

    Raises:
        ValueError: if another run has written into the folder of solo-learn's ``Checkpointer`` since this one did.
    """
    from omegaconf import OmegaConf
    from solo.utils.checkpointer import Checkpointer

    for callback in trainer.callbacks:
        if trainer.is_global_zero and isinstance(callback, Checkpointer) and hasattr(callback, "path"):
            found = json.loads((callback.path / "args.json").read_text())
            own = json.loads(json.dumps(OmegaConf.to_container(callback.cfg), default=lambda _: NOT_WRITABLE))
            if any(json.dumps(found.get(key)) != json.dumps(value) for key, value in own.items()):
                raise ValueError(
                    f"checkpoint.dir: expected a folder of this run alone, got {callback.path}, into which another run "
                    "has written"
                )
