"""A strategy whose temperature belongs to the model, as CLIP's ``logit_scale`` does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from alphacl_plugins.strategies import Sigmoid
from alphacl_plugins.strategies.learnable import Learnable
from alphacl_plugins.strategies.learnable_temperature import has_temperature


class ModelScale(Learnable):
    """A strategy at ``τ = 1 / logit_scale`` of a model, whose own parameter learns.

    The slope of the loss ``L/τ`` in the scale is ``-E_i``, as `LearnableTemperature` has it in log τ. For the sigmoid
    loss t is the scale and b the model's bias, as in `LearnableSigmoid`.

    Args:
        strategy: a dataclass with a field ``tau``, which is ignored, or Sigmoid.

    Raises:
        TypeError: if the strategy has neither.
    """

    def __init__(self, strategy: Any) -> None:
        if not (has_temperature(strategy) or isinstance(strategy, Sigmoid)):
            raise TypeError(f"strategy: expected one with a temperature, or sigmoid, for logit_scale, got {strategy!r}")
        super().__init__(strategy, learnable=True)
        self._scale: Any = None
        self._bias: Any = None

    def follow(self, logit_scale: Tensor | None, logit_bias: Tensor | None = None) -> None:
        """Take the scalars of the model, with their graph, for the next call; None lets go of them."""
        self._scale = None if logit_scale is None else logit_scale.reshape(())
        self._bias = None if logit_bias is None else logit_bias.reshape(())

    def extra_repr(self) -> str:
        """Show the strategy; its temperature is the model's."""
        return repr(self.strategy)

    def _options(self) -> dict[str, Any]:
        if self._scale is None:  # between two calls
            return {}
        return {"t": self._scale, "b": self._bias} if isinstance(self.strategy, Sigmoid) else {"tau": 1 / self._scale}

    def _slopes(self, energy: Tensor, excess: Tensor) -> list[tuple[Tensor, Tensor]]:
        if not isinstance(self.strategy, Sigmoid):
            return [(self._scale, -energy)]
        scale = self._scale.detach()
        return [(self._scale, (excess - energy) / scale), (self._bias, excess / scale)]
