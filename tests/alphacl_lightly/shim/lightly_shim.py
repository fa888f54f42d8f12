"""A pytest plugin that runs lightly's own loss tests on ours: lightly's signature outside, α-CL inside, times 1/τ."""

import sys

import torch

from alphacl_lightly import AlphaCLLoss


class _Rescaled(torch.nn.Module):
    strategy: str

    def __init__(self, temperature, **options):
        super().__init__()
        self.temperature = temperature
        self.loss = AlphaCLLoss(self.strategy, tau=temperature, **options)

    def forward(self, out0, out1):
        return self.loss(out0, out1) / self.temperature


class NTXentLoss(_Rescaled):
    strategy = "infonce"

    def __init__(self, temperature=0.5, memory_bank_size=0, gather_distributed=False):
        super().__init__(temperature, memory_bank_size=memory_bank_size, gather_distributed=gather_distributed)


class DCLLoss(_Rescaled):
    strategy = "entropy"

    def __init__(self, temperature=0.1, weight_fn=None, gather_distributed=False):
        if weight_fn is not None:
            raise TypeError("weight_fn: the shim only rescales; a weighted positive is a strategy of its own")
        super().__init__(temperature, gather_distributed=gather_distributed)


def pytest_collection_modifyitems(items):
    """Put ours in lightly's place in every collected test module."""
    for module in {item.module for item in items}:
        for ours in (NTXentLoss, DCLLoss):
            if hasattr(module, ours.__name__):
                setattr(module, ours.__name__, ours)
    print(f"shim: {AlphaCLLoss.__module__} in place of lightly's losses", file=sys.stderr)
