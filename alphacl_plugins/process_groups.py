"""The option ``process_group``: what it may be, and what becomes of it in copies."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from alphacl_plugins.distributed import ALONE, world_size

if TYPE_CHECKING:
    from typing_extensions import Self

OUTSIDE = -100
"""What `torch.distributed.new_group` returns where this process does not belong to the group."""


def group_of(process_group: Any) -> Any:
    """Return the ProcessGroup that an option means, or None.

    A group without this process is accepted, as a stage of a pipeline may have a loss that it never calls.

    Raises:
        TypeError: it is neither a ProcessGroup nor a DeviceMesh nor None.
        ValueError: a mesh has not one dimension.
    """
    if isinstance(process_group, DeviceMesh):
        if process_group.ndim != 1:
            raise ValueError(f'process_group: expected a 1-D DeviceMesh, such as mesh["dp"], got {process_group!r}')
        return OUTSIDE if process_group.get_coordinate() is None else process_group.get_group()
    if process_group is None or (isinstance(process_group, int) and process_group == OUTSIDE):
        return process_group
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(f"process_group: expected a ProcessGroup, a 1-D DeviceMesh or None, got {process_group!r}")
    return process_group


class InGroup(nn.Module):
    """A module with a ``process_group``: a deep copy has the same one, a pickle one that no process belongs to."""

    process_group: Any
    gather_distributed: Any
    _alone: bool | None = None  # what "auto" has found

    def gathering_group(self) -> Any:
        """Return the processes that share a batch; of "auto" the first batch decides."""
        if self.gather_distributed == "auto":
            self._alone = world_size(self.process_group) == 1 if self._alone is None else self._alone
        return self.process_group if self.gather_distributed and not self._alone else ALONE

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the group, which other processes do not know."""
        return self.__dict__ | {"process_group": None if self.process_group is None else OUTSIDE, "_alone": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy everything but the group."""
        clone = self.__class__.__new__(self.__class__)
        memo.update({id(self): clone, id(self.process_group): self.process_group})
        clone.__dict__.update(copy.deepcopy(self.__getstate__() | {"process_group": self.process_group}, memo))
        return clone
