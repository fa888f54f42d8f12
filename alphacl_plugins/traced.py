"""Whether the values of a tensor can be read and changed here, or torch.compile or torch.func stands in between."""

import torch
from torch import Tensor


def is_traced(x: Tensor) -> bool:
    """Whether torch.compile traces this call, or torch.func has wrapped x: Python may then not decide by its values."""
    return torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)
