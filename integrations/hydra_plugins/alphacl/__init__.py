"""Found by Hydra by itself: makes `loss: alpha_cl` known when, and only when, the program is solo-learn.

Hydra discovers its plugins in every process that it starts, so the adapter is registered in those too, whichever comes
first: Hydra or ``solo.methods``.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

HOST = "solo.methods"


class AlphaCLSearchPath(SearchPathPlugin):
    """Make our configs known, once solo-learn's methods have been imported."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append ``alphacl_solo_learn.conf``, after the user's own folders; in any other program, do nothing."""
        if HOST in sys.modules:
            _register()  # done already, unless another import hook stood before ours
            search_path.append(provider="alphacl", path="pkg://alphacl_solo_learn.conf")


class RegisterOnImport(MetaPathFinder):
    """Register the adapter right after ``solo.methods`` is imported; all other imports are left alone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find ``solo.methods`` as Python does, with a loader that registers the adapter at its end."""
        spec = PathFinder.find_spec(name, path, target) if name == HOST else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_register(spec.loader.exec_module)  # type: ignore[assignment, method-assign]
        return spec


def _then_register(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_and_register(module: ModuleType) -> None:
        execute(module)
        _register()

    return execute_and_register


def _register() -> None:
    try:
        from alphacl_solo_learn import register

        register()
    except ImportError as error:  # of which Hydra would make a warning, and solo-learn would train its own loss
        raise RuntimeError(str(error)) from error


if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):  # Hydra may execute this file twice
    sys.meta_path.insert(0, RegisterOnImport())
if HOST in sys.modules:
    _register()
