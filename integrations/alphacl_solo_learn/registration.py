"""Where the adapter enters solo-learn: its table of methods and its table of backbones, and nothing else."""

from __future__ import annotations

import inspect
from typing import Any

from alphacl_solo_learn.backbones import Backbones
from alphacl_solo_learn.methods import CONTRASTIVE, AlphaCL, AnyMethod, ContrastiveMethod, OtherMethod

TRIED = "1.0.6 (main branch, commit 9187ea3)"
"""The versions of solo-learn that this adapter was tried with."""


def register() -> None:
    """Put our subclasses into ``solo.methods.METHODS``, and timm into ``BaseMethod._BACKBONES``; once is enough.

    Without a ``loss`` key in its config every method is what it was.

    Raises: ImportError without solo-learn, or with one whose interface differs from that of the versions tried.
    """
    try:
        from solo.methods import METHODS, BaseMethod
    except ImportError as error:
        raise ImportError(
            f"alphacl_solo_learn needs solo-learn, tried {TRIED}: run from a clone of it, with what it needs: "
            f"pip install 'alphacl-plugins[solo-learn]' ({error})"
        ) from error
    if issubclass(METHODS.get("simclr", object), AnyMethod):
        return
    for name, ours in CONTRASTIVE.items():
        _check_interface(ours, METHODS.get(name))
    if not isinstance(getattr(BaseMethod, "_BACKBONES", None), dict):
        raise _another_version("a table BaseMethod._BACKBONES", BaseMethod)
    METHODS["alpha_cl"] = _subclass(AlphaCL, METHODS["simclr"])
    for name, theirs in list(METHODS.items()):
        if issubclass(theirs, BaseMethod) and theirs is not BaseMethod and not issubclass(theirs, AnyMethod):
            METHODS[name] = _subclass(CONTRASTIVE.get(name, OtherMethod), theirs)
    BaseMethod._BACKBONES = Backbones(BaseMethod._BACKBONES)


def _subclass(ours: type, theirs: type) -> type:
    return type(theirs.__name__, (ours, theirs), {"__doc__": theirs.__doc__, "__module__": ours.__module__})


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _check_interface(ours: type[ContrastiveMethod], theirs: Any) -> None:
    """Raise unless the method calls the loss function that we replace, with the arguments that we take."""
    step = getattr(theirs, "training_step", None)
    loss = getattr(step, "__globals__", {}).get(ours.loss_function)
    wanted = _parameters(ours.contrast)[1:]
    called = loss is not None and ours.loss_function in step.__code__.co_names  # type: ignore[union-attr]
    if not called or _parameters(loss) != wanted:
        raise _another_version(f"a training step that calls {ours.loss_function}({', '.join(wanted)})", theirs)


def _another_version(expected: str, got: Any) -> ImportError:
    return ImportError(f"solo-learn: expected {expected}, as in the versions tried: {TRIED}; got {got!r} without")
