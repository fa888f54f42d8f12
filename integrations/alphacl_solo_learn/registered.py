"""The classes that `register` puts into solo-learn's table: ``registered.simclr`` is ``METHODS["simclr"]``.

They and their models are pickled under this address, so a new process that reads a pickle registers the adapter by
itself.
"""

from __future__ import annotations

from typing import Any

from alphacl_solo_learn.registration import register


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # Python's own questions to a module
        raise AttributeError(name)
    try:
        register()
        from solo.methods import METHODS
    except ImportError as error:
        raise AttributeError(f"{name}: {error}") from error
    if name not in METHODS:
        raise AttributeError(f"{name}: expected one of solo.methods.METHODS: {', '.join(METHODS)}")
    return METHODS[name]
