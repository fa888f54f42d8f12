"""Found by Hydra by itself: makes `loss: alpha_cl` known when, and only when, the program is solo-learn."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class AlphaCLSearchPath(SearchPathPlugin):
    """Register the adapter and its configs, once solo-learn's methods have been imported."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append ``alphacl_solo_learn.conf``, after the user's own folders; in any other program, do nothing."""
        if "solo.methods" not in sys.modules:
            return
        from alphacl_solo_learn import register

        register()
        search_path.append(provider="alphacl", path="pkg://alphacl_solo_learn.conf")
