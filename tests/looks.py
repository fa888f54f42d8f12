"""How often the statistics of a loss are computed: a pass over the batch, whenever they are read."""

import pytest
from torch import Tensor

from alphacl_plugins import AlphaCLLoss


def watch_looks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Return a list that grows by what ``last_stats`` returns, each time that it is read."""
    looks: list[dict[str, Tensor]] = []
    read = AlphaCLLoss.last_stats.fget

    def look(loss: AlphaCLLoss) -> dict[str, Tensor]:
        looks.append(read(loss))
        return looks[-1]

    monkeypatch.setattr(AlphaCLLoss, "last_stats", property(look))
    return looks
