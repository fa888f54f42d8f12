"""Where the adapter enters solo-learn: its tables of methods and backbones, and a check of every config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from alphacl_solo_learn.backbones import Backbones
from alphacl_solo_learn.config import MONITOR, NAME, misplaced, monitor_options, selected
from alphacl_solo_learn.methods import CONTRASTIVE, AnyMethod, ContrastiveMethod
from alphacl_solo_learn.paper_method import AlphaCL
from alphacl_solo_learn.run_folder import RESOLVER, run_folder

TRIED = "1.0.6 (main branch, commit 9187ea3)"
"""The versions of solo-learn that this adapter was tried with."""


def register() -> None:
    """Put our subclasses into ``solo.methods.METHODS``, and timm into ``BaseMethod._BACKBONES``; once is enough.

    Without a ``loss`` key in its config every method is what it was. From then on a config that names alpha_cl is an
    error for a class that would train another loss.

    Raises:
        ImportError: without solo-learn, or with one whose interface differs from that of the versions tried.
    """
    try:
        from omegaconf import OmegaConf
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
    METHODS[NAME] = _subclass(NAME, AlphaCL, METHODS["simclr"])
    for name, theirs in list(METHODS.items()):
        if issubclass(theirs, BaseMethod) and theirs is not BaseMethod and not issubclass(theirs, AnyMethod):
            METHODS[name] = _subclass(name, CONTRASTIVE.get(name, AnyMethod), theirs)
    BaseMethod._BACKBONES = Backbones(BaseMethod._BACKBONES)
    BaseMethod.__init__ = _refuse_another_loss(BaseMethod.__init__)
    OmegaConf.register_new_resolver(RESOLVER, run_folder, replace=True)


def _subclass(name: str, ours: type, theirs: type) -> type:
    """Return a class that inherits ours before theirs, with the module and name by which pickle finds it."""
    address = {"__module__": "alphacl_solo_learn.registered", "__qualname__": name}
    return type(theirs.__name__, (ours, theirs), {"__doc__": theirs.__doc__, **address})


def _refuse_another_loss(init: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    from omegaconf import OmegaConf

    @wraps(init)
    def checked(self: Any, cfg: Any) -> None:
        place = misplaced(OmegaConf.to_container(cfg))  # type: ignore[arg-type]  # a mapping
        if place is not None:
            raise ValueError(f"loss: expected at the top of the config, got {place}: {NAME}")
        if selected(cfg) and not isinstance(self, ContrastiveMethod):
            ours = [*CONTRASTIVE, NAME]
            if cfg.method in ours:  # solo-learn's own class, or one derived from it
                raise TypeError(
                    f'loss: expected {NAME} with solo.methods.METHODS["{cfg.method}"], got {type(self)!r}, which '
                    "trains another loss"
                )
            raise ValueError(f"loss: expected {NAME} with a method among {', '.join(ours)}, got method {cfg.method}")
        if monitor_options(cfg) is not None and not isinstance(self, AnyMethod):
            raise TypeError(
                f'{MONITOR}: expected none but with solo.methods.METHODS["{cfg.method}"], got one with {type(self)!r}'
            )
        init(self, cfg)

    return checked


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
